"""ChiMed as a folder that `datasets.load_dataset` reads: Parquet by set and split, and a dataset card.

python -m qilin_lib.chimed.dataset RUN_OR_FOLDER DEST [--licences LICENCE …]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
from huggingface_hub import DatasetCard, DatasetCardData
from pyarrow.parquet import ParquetWriter

from qilin_lib import files
from qilin_lib.chimed.sources import excluded, forbids_derivatives
from qilin_lib.errors import QilinError, as_command, nearest
from qilin_lib.runs import Run, find

STAGE = "01_build_chimed"
_TURNS = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))
_GRAPHS = pa.list_(pa.struct({"feature": pa.string(), "graphs": pa.list_(pa.string())}))
_HEAD = dict.fromkeys(("id", "source", "licence"), pa.string())
SCHEMAS = {
    "cpt": pa.schema(_HEAD | {"type": pa.string(), "text": pa.string(), "graphs": _GRAPHS}),
    "sft": pa.schema(_HEAD | {"part": pa.string(), "messages": _TURNS}),
    "dpo": pa.schema(_HEAD | {"part": pa.string(), "prompt": _TURNS, "chosen": _TURNS, "rejected": _TURNS}),
    "general": pa.schema(_HEAD | {"text": pa.string()}),
}
COLUMNS = ("train", "heldout", "left out")  # what becomes of a record here
_ROWS = 5000
Counts = Counter[tuple[str, str, str, str]]


def export(run_or_folder: str, dest: Path, licences: Sequence[str] = ()) -> Counts:
    """Write the sets of a finished 01 to the folder `dest`; {(set, source, licence, split or "left out"): records}.

    `licences`: keep only records all of whose licences are among these; () keeps all. QilinError: `dest` is not empty,
    an unknown run, one without a finished 01, a file that 01 did not write, a licence that no source has.
    """
    dest = Path(dest).resolve()
    if dest.is_file() or (dest.is_dir() and any(dest.iterdir())):
        raise QilinError(f"{dest}: exists and is not empty; choose a new folder")
    run = _run(run_or_folder)
    manifest = run.manifest(STAGE)
    run.check(STAGE, manifest, every_byte=True)
    ledger = [row for row in files.read_json(run.folder(STAGE) / "ledger.json")["sources"] if row["set"] in SCHEMAS]
    known = sorted({licence for row in ledger for licence in row["licence"].split(" + ")})
    for licence in licences:
        if licence not in known:
            raise QilinError(f"--licences: '{licence}' is no source's{nearest(licence, known)}; there are {known}")
    with files.naming(dest):
        dest.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=dest.parent, prefix=f".{dest.name}.") as work:
            made = Path(work, dest.name)
            counts = sum((_write(run.folder(STAGE), made / name, name, licences) for name in SCHEMAS), Counts())
            _card(run, manifest, counts, ledger=ledger, licences=licences).save(made / "README.md")
            made.replace(dest)
    return counts


def _run(word: str) -> Run:
    """The run in that folder, whose 01 is that folder, or of that name."""
    path = Path(word).absolute()
    folder = path.parent if path.name == STAGE else path
    return Run(folder) if (folder / STAGE).is_dir() else find(word)


def _write(stage: Path, folder: Path, name: str, licences: Sequence[str]) -> Counts:
    """Both splits of a set, `_ROWS` records of each in memory."""
    folder.mkdir(parents=True)
    counts, rows = Counts(), {split: [] for split in COLUMNS[:2]}
    writers = {split: ParquetWriter(folder / f"{split}.parquet", SCHEMAS[name]) for split in rows}
    for row in files.read_jsonl(stage / f"{name}.jsonl"):
        split, wanted = row["split"], not licences or {*row["licence"].split(" + ")} <= {*licences}
        counts[name, row["source"], row["licence"], split if wanted else COLUMNS[2]] += 1
        if wanted:
            graphs = row.get("graphs", {}).items()
            rows[split].append(row | {"graphs": [{"feature": feature, "graphs": own} for feature, own in graphs]})
        if len(rows[split]) == _ROWS:
            writers[split].write_table(pa.Table.from_pylist(rows[split], SCHEMAS[name]))
            rows[split] = []
    for split, writer in writers.items():
        writer.write_table(pa.Table.from_pylist(rows[split], SCHEMAS[name]))
        writer.close()
        # load_dataset takes no empty split.
        if not any(key[3] == split for key in counts):
            (folder / f"{split}.parquet").unlink()
    return counts


def _card(run: Run, manifest: Mapping[str, Any], counts: Counts, **told: Any) -> DatasetCard:
    import datasets

    data = DatasetCardData(language="zh", license="other", pretty_name=f"ChiMed ({run.name})")
    there = {(name, split) for name, _, _, split in counts}
    splits = {name: [split for split in COLUMNS[:2] if (name, split) in there] for name in SCHEMAS}
    features = {name: datasets.Features.from_arrow_schema(SCHEMAS[name]) for name, own in splits.items() if own}
    infos = {name: datasets.DatasetInfo(features=own) for name, own in features.items()}
    datasets.info.DatasetInfosDict(infos).to_dataset_card_data(data)
    rows = [(*key, *(counts[*key, column] for column in COLUMNS)) for key in dict.fromkeys(key[:3] for key in counts)]
    barred = [row[2] for row in rows if forbids_derivatives(row[2]) or excluded(row[2], ["not stated"])]
    return DatasetCard.from_template(
        data,
        template_path=str(Path(__file__).parent / "data" / "dataset_card.md"),
        run=run.name,
        manifest=manifest,
        raw_digest=files.sha256_text(json.dumps(manifest["inputs"].get("raw", {}), sort_keys=True)),
        version=metadata.version("qilin-lib"),
        accepted=run.acceptances(STAGE),
        schemas=SCHEMAS,
        splits=splits,
        counts=rows,
        barred=[(*row[:3], row[3] + row[4]) for row in rows if row[3] + row[4] and row[2] in barred],
        **told,
    )


@as_command
def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code, 2 after an error (one sentence on stderr)."""
    parser = argparse.ArgumentParser("python -m qilin_lib.chimed.dataset", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run_or_folder", help="name of a run, e.g. smoke, or a folder with a finished 01_build_chimed")
    parser.add_argument("dest", type=Path, help="folder to make; must not exist or be empty")
    parser.add_argument("--licences", nargs="+", default=(), metavar="LICENCE", help="keep only records under these")
    counts = export(**vars(parser.parse_args(arguments)))
    left = sum(count for (*_, column), count in counts.items() if column == COLUMNS[2])
    print(f"{counts.total() - left:,} records written, {left:,} left out; read README.md before you hand them on")
    return 0


if __name__ == "__main__":
    sys.exit(main())
