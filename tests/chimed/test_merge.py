"""The same disease in several graphs: one record that holds everything, says who said it, and survives cleaning."""

from __future__ import annotations

from qilin_lib.chimed.merge import merged
from qilin_lib.chimed.records import Disease, Passage, Record, Rejection
from qilin_lib.chimed.sources import BY_NAME, Unit

GRAPHS = ("kg_cpubmed", "kg_39health", "kg_xywy")


def entity(name, **features):
    return Disease(name, tuple((heading, tuple(values)) for heading, values in features.items()))


def run(*graphs, free=True):
    """What becomes of (line, payload) of each of GRAPHS, all under a licence that allows to combine them if `free`."""
    found = []
    for name, rows in zip(GRAPHS, graphs, strict=False):
        source = BY_NAME[name].model_copy(update={"licence": "MIT"} if free else {})
        reads = [read if isinstance(read, Rejection) else Record(name, "f", line, read) for line, read in rows]
        found.append((source, [Unit(("cpt",), read) for read in reads]))
    return [(unit.read, lost) for _, unit, lost in merged(found)]


def test_first_record_carries_the_union_and_later_ones_name_it():
    first, alone, third, second = run(
        [(3, entity("哮喘", 症状="喘咳", 病因="敏"))],
        [(1, entity("痛风", 症状="痛")), (2, entity("哮喘 ", 检查=["肺功能"]))],
        [(9, entity("哮喘", 症状="咳闷", 检查=["肺功能"]))],
    )
    whole = entity("哮喘", 症状="喘咳闷", 病因="敏", 检查=["肺功能"])
    origins = (("kg_cpubmed", "kg_xywy"), ("kg_cpubmed",), ("kg_39health", "kg_xywy"))
    assert first == (Record("kg_cpubmed", "f", 3, Disease("哮喘", whole.features, origins)), None)
    assert alone == (Record("kg_39health", "f", 1, entity("痛风", 症状="痛")), None)
    lost = ("merged", "merged", "into kg_cpubmed/f:3")
    assert third == (Record("kg_39health", "f", 2, entity("哮喘 ", 检查=["肺功能"])), lost) and second[1] == lost


def test_every_unit_comes_once_and_in_order_whatever_it_is():
    no = Rejection("kg_cpubmed", "f", 2, "not a triple")
    found = run(
        [(1, entity("IgA 肾病", a="1")), (2, no), (3, Passage("IgA 肾病", "文")), (4, entity("ＩｇＡ肾病", b="2"))],
        [(1, entity("？！", a="1")), (2, entity("……", a="2"))],
    )
    assert [read.line for read, _ in found] == [1, 2, 3, 4, 1, 2] and found[1][0] is no
    assert [lost for _, lost in found] == [None] * 3 + [("merged", "repeated", "into kg_cpubmed/f:1")] + [None] * 2
    assert found[0][0].payload == Disease("IgA 肾病", (("a", ("1",)), ("b", ("2",))), (("kg_cpubmed",),) * 2)


def test_what_graphs_state_differently_is_listed_by_graph():
    def stated(rate, infection, symptom):
        return entity("哮喘", 传染性=[infection], 治愈率=[rate], 症状=symptom)

    found = run(
        [],
        [(1, stated("80%；", "有传染性", "喘")), (2, stated("60%", "有传染性", "咳"))],
        [(1, stated("80%", "无传染性", "喘闷")), (2, entity("痛风", 治愈率=["90%"]))],
    )
    assert dict(found[0][0].payload.features) == {
        "传染性": ("有传染性（39Health-KG）", "无传染性（Xywy-KG）"),
        "治愈率": ("80%或60%（39Health-KG）", "80%（Xywy-KG）"),
        "症状": ("喘", "咳", "闷"),
    }
    assert found[3][0].payload == entity("痛风", 治愈率=["90%"])
    alone = run([], [(n, entity("哮喘", 治愈率=[rate])) for n, rate in enumerate(("80%；", "60%", "80%；"))])
    assert dict(alone[0][0].payload.features) == {"治愈率": ("80%或60%",)}


def test_a_graph_that_forbids_derivatives_is_merged_with_none_but_itself():
    cpubmed = [(1, entity("哮喘", 症状="喘")), (2, entity("哮喘", 症状="咳"))]
    found = run(cpubmed, [(1, entity("哮喘", 症状="闷"))], [(1, entity("哮喘", 症状="痰"))], free=False)
    assert [lost and lost[1:] for _, lost in found] == [
        None, ("repeated", "into kg_cpubmed/f:1"), None, ("merged", "into kg_39health/f:1")
    ]  # fmt: skip
    assert found[0][0].payload.features == (("症状", ("喘", "咳")),)
    assert found[2][0].payload.origins == (("kg_39health", "kg_xywy"),)
