"""The same disease in several graphs: one record that says which graph states what (paper §3.1.1)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from qilin_lib.chimed.records import Disease, Lost, Record
from qilin_lib.chimed.shingles import skeleton
from qilin_lib.chimed.sources import BY_NAME, Source, Unit, forbids_derivatives

# Headings under which one value is true: two graphs that state two contradict each other.
SCALARS = {
    "传染性", "传染方式", "医保", "治愈率", "治疗周期", "治疗费用", "多发人群", "易感人群", "患病比例",
}  # fmt: skip


def merged(graphs: Iterable[tuple[Source, Iterable[Unit]]]) -> Iterator[tuple[Source, Unit, Lost | None]]:
    """(source, unit, how it is lost) of every unit, in the order given; all are held in memory.

    Units are of one disease when the skeletons of their names are equal and they feed the same sets. The first of them
    carries what all of them say; each later one is lost as "merged" into the place of the first, "source/file:line", or
    "repeated" if that graph had the disease before. A graph under NoDerivatives is joined with itself only.
    """
    held = [(source, unit) for source, found in graphs for unit in found]
    groups: defaultdict[tuple, list[int]] = defaultdict(list)
    keys = []
    for number, (source, unit) in enumerate(held):
        disease = isinstance(unit.read, Record) and isinstance(unit.read.payload, Disease) and unit.read.payload
        bones = skeleton(disease.name) if disease else ""
        apart = forbids_derivatives(source.licence) and source.name
        keys.append((bones, unit.sets, apart) if bones else (number,))
        groups[keys[-1]].append(number)
    had: set[tuple[str, int]] = set()
    for (source, unit), key, number in zip(held, keys, range(len(held)), strict=True):
        group, lost = groups[key], None
        if number != group[0]:
            first = held[group[0]][1].read
            reason = "repeated" if (source.name, group[0]) in had else "merged"
            lost = ("merged", reason, f"into {first.source}/{first.file}:{first.line}")
        elif len(group) > 1:
            entities = [(held[other][0].name, held[other][1].read.payload) for other in group]
            unit = unit._replace(read=unit.read._replace(payload=union(entities)))
        had.add((source.name, group[0]))
        yield source, unit, lost


def union(entities: list[tuple[str, Disease]]) -> Disease:
    """One Disease of all the features that (graph, Disease) pairs hold, under the first one's name.

    `origins` names the graphs of a heading; differing values of SCALARS stand with their graph.
    """
    stated: dict[str, dict[str, dict[str, None]]] = {}
    for graph, entity in entities:
        for heading, values in entity.features:
            stated.setdefault(heading, {}).setdefault(graph, {}).update(dict.fromkeys(values))
    features = tuple((heading, _values(heading, by_graph)) for heading, by_graph in stated.items())
    return Disease(entities[0][1].name, features, tuple(map(tuple, stated.values())))


def _values(heading: str, by_graph: dict[str, dict[str, None]]) -> tuple[str, ...]:
    values = tuple(dict.fromkeys(value for some in by_graph.values() for value in some))
    if heading not in SCALARS or len(values) < 2:
        return values
    own = {graph: "或".join(value.rstrip("。；;，") for value in some) for graph, some in by_graph.items()}
    # The paper's name of a graph is the title of its row.
    titles = {graph: next(iter(BY_NAME[graph].feeds[0].rows.values())) for graph in own}
    return tuple(value if len(own) == 1 else f"{value}（{titles[graph]}）" for graph, value in own.items())
