"""The same disease in several graphs: one record that holds everything, says who said it, and survives cleaning."""

from __future__ import annotations

from raw_files import put

from qilin_lib.chimed import aggregate, sources
from qilin_lib.chimed.merge import merged, union
from qilin_lib.chimed.records import Disease, Passage, Record, Rejection, content, mapped, strings
from qilin_lib.chimed.sources import BY_NAME, Unit

GRAPHS = ("kg_cpubmed", "kg_39health", "kg_xywy")


def unit(graph, line, payload, sets=("cpt",)):
    return Unit(sets, Record(graph, "f", line, payload))


def entity(name, **features):
    return Disease(name, tuple((heading, tuple(values)) for heading, values in features.items()))


def run(*units_of):
    """What becomes of the units of GRAPHS, were all of them under a licence that allows to combine them."""
    sources_of = [BY_NAME[graph].model_copy(update={"licence": "MIT"}) for graph in GRAPHS]
    return list(merged(zip(sources_of, units_of, strict=False)))


def test_first_record_carries_the_union_and_later_ones_name_it():
    first, alone, third, second = run(
        [unit("kg_cpubmed", 3, entity("哮喘", 症状="喘咳", 病因="敏"))],
        [unit("kg_39health", 1, entity("痛风", 症状="痛")), unit("kg_39health", 2, entity("哮喘 ", 检查=["肺功能"]))],
        [unit("kg_xywy", 9, entity("哮喘", 症状="咳闷", 检查=["肺功能"]))],
    )
    whole = entity("哮喘", 症状="喘咳闷", 病因="敏", 检查=["肺功能"])
    origins = (("kg_cpubmed", "kg_xywy"), ("kg_cpubmed",), ("kg_39health", "kg_xywy"))
    assert first[1].read == Record("kg_cpubmed", "f", 3, Disease("哮喘", whole.features, origins)) and first[2] is None
    assert alone[1].read.payload == entity("痛风", 症状="痛") and alone[2] is None
    lost = ("merged", "merged", "into kg_cpubmed/f:3")
    assert [(u.read.line, how) for _, u, how in (third, second)] == [(2, lost), (9, lost)]
    assert third[1].read.payload == entity("哮喘 ", 检查=["肺功能"])


def test_every_unit_comes_once_and_in_order_whatever_it_is():
    no = Unit(("cpt",), Rejection("kg_cpubmed", "f", 2, "not a triple"))
    given = [
        [unit("kg_cpubmed", 1, entity("哮喘", a="1")), no, unit("kg_cpubmed", 3, Passage("哮喘", "文"))],
        [unit("kg_39health", 1, entity("？！", a="1")), unit("kg_39health", 2, entity("……", a="2"))],
        [unit("kg_xywy", 1, entity("哮喘", a="1"), ("general",)), unit("kg_xywy", 2, entity("哮喘", a="1"))],
    ]
    found = run(*given)
    assert [(s.name, u.read.line, bool(place)) for s, u, place in found] == [
        ("kg_cpubmed", 1, False),
        ("kg_cpubmed", 2, False),
        ("kg_cpubmed", 3, False),
        ("kg_39health", 1, False),
        ("kg_39health", 2, False),
        ("kg_xywy", 1, False),
        ("kg_xywy", 2, True),
    ]
    assert found[1][1] is no


def test_names_are_equal_without_width_spaces_and_case_and_a_graph_may_repeat_one():
    twice = [unit("kg_cpubmed", 1, entity("IgA 肾病", a="1")), unit("kg_cpubmed", 2, entity("ＩｇＡ肾病", b="2"))]
    first, second = run(twice)
    assert first[1].read.payload == Disease("IgA 肾病", (("a", ("1",)), ("b", ("2",))), (("kg_cpubmed",),) * 2)
    assert second[2] == ("merged", "repeated", "into kg_cpubmed/f:1")


def test_origins_are_no_text_and_stay_beside_their_feature_when_cleaned():
    both = union([("kg_39health", entity("哮喘", 症状="喘")), ("kg_xywy", entity("哮喘", 病因="敏"))])
    assert strings(both) == ["哮喘", "症状", "喘", "病因", "敏"] and "kg_" not in content(both)
    cleaned = mapped(both, lambda texts: [text.replace("kg_", "").replace("病因", "原因") + "。" for text in texts])
    assert cleaned.origins == (("kg_39health",), ("kg_xywy",)) and cleaned.features[1] == ("原因。", ("敏。",))


def test_text_and_questions_of_a_merged_disease():
    both = union(
        [
            ("kg_39health", entity("哮喘", 症状="喘", 常用药物=["沙丁胺醇"])),
            ("kg_xywy", entity("哮喘", 病因="敏", 检查=["肺功能"])),
        ]
    )
    assert aggregate.text(both) == "哮喘\n检查：肺功能", "what is asked and answered is not said a second time"
    assert aggregate.questions(both) == [
        ("哮喘的病因是什么？", "敏。"),
        ("哮喘有哪些症状？", "喘。"),
        ("哮喘一般用什么药？", "沙丁胺醇。"),
    ]


def test_what_graphs_state_differently_is_listed_by_graph():
    def stated(rate, infection, symptom):
        return entity("哮喘", 传染性=[infection], 治愈率=[rate], 症状=symptom)

    graphs = [
        [
            unit("kg_39health", 1, stated("80%", "有传染性", "喘")),
            unit("kg_39health", 2, stated("60%", "有传染性", "咳")),
        ],
        [unit("kg_xywy", 1, stated("80%", "无传染性", "喘闷")), unit("kg_xywy", 2, entity("痛风", 治愈率=["90%"]))],
    ]
    found = list(merged(zip([BY_NAME["kg_39health"], BY_NAME["kg_xywy"]], graphs, strict=True)))
    assert dict(found[0][1].read.payload.features) == {
        "传染性": ("有传染性（39Health-KG）", "无传染性（Xywy-KG）"),
        "治愈率": ("80%或60%（39Health-KG）", "80%（Xywy-KG）"),
        "症状": ("喘", "咳", "闷"),
    }
    assert found[3][1].read.payload == entity("痛风", 治愈率=["90%"])


def test_one_graph_that_says_two_things_says_either():
    pair = [unit("kg_39health", n, entity("哮喘", 治愈率=[rate])) for n, rate in enumerate(("80%；", "60%", "80%；"))]
    assert dict(run([], pair)[0][1].read.payload.features) == {"治愈率": ("80%或60%",)}


def test_a_graph_that_forbids_derivatives_is_merged_with_none_but_itself():
    graphs = [
        [unit("kg_cpubmed", 1, entity("哮喘", 症状="喘")), unit("kg_cpubmed", 2, entity("哮喘", 症状="咳"))],
        [unit("kg_39health", 1, entity("哮喘", 症状="闷"))],
        [unit("kg_xywy", 1, entity("哮喘", 病因="敏"))],
    ]
    found = list(merged(zip([BY_NAME[name] for name in GRAPHS], graphs, strict=True)))
    assert [lost and lost[1:] for *_, lost in found] == [
        None, ("repeated", "into kg_cpubmed/f:1"), None, ("merged", "into kg_39health/f:1")
    ]  # fmt: skip
    assert found[0][1].read.payload.features == (("症状", ("喘", "咳")),)
    assert found[2][1].read.payload.origins == (("kg_39health",), ("kg_xywy",))


def test_graphs_read_from_files(tmp_path):
    put(tmp_path / "kg_39health", {"d.csv": "name,symptom\n哮喘,喘 咳\n痛风,痛\n".encode("gb18030")})
    put(tmp_path / "kg_xywy", {"m.json": '{"name": "痛风", "cause": "尿酸"}\n{"name": "湿疹", "cause": "敏"}\n'})
    graphs = [BY_NAME["kg_39health"], BY_NAME["kg_xywy"]]
    found = list(merged((graph, sources.units(graph, tmp_path)) for graph in graphs))
    assert [lost and lost[2] for *_, lost in found] == [None, None, "into kg_39health/d.csv:3", None]
    assert found[1][1].read.payload == Disease(
        "痛风", (("症状", ("痛",)), ("病因", ("尿酸",))), (("kg_39health",), ("kg_xywy",))
    )
