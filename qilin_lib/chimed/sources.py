"""The registry: one `Source` a raw folder, with its licence, citation, home, row in the paper's tables, and reader.

`python -m qilin_lib.chimed.sources RAW_DIR` shows what is there, what is missing and where to get it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qilin_lib.chimed.readers import dialogue, exam, general, kg, preference, qa, text
from qilin_lib.chimed.readers.decode import Reader, read_file
from qilin_lib.chimed.records import Record, Rejection
from qilin_lib.errors import QilinError

SETS = ("cpt", "sft", "dpo", "general", "eval")
TRAINING_SETS = SETS[:4]


@dataclass(frozen=True, slots=True)
class Feed:
    """Files of a source and what they feed: {set: row title in the paper's Table 1 (cpt), 2 (sft) or 3 (dpo)}."""

    glob: str
    rows: dict[str, str]
    reader: Reader


@dataclass(frozen=True, slots=True)
class Source:
    """One raw folder.

    standing: "original" = the data set that the paper names; "stand-in" = takes its row, other or partial data;
    "addition" = not in the paper. part: what its SFT and DPO records count as, "medical" or "general".
    """

    name: str
    type: str
    licence: str
    citation: str
    home: str
    feeds: tuple[Feed, ...]
    standing: str = "original"
    part: str = "medical"


def _medical(row: str) -> dict[str, str]:
    return {"cpt": row, "sft": row}


_HUATUO = "Li et al. 2023, Huatuo-26M, arXiv 2305.01526"

# Order matters: it is the corpus order, and of two duplicates the first is kept. The paper's data sets stand before
# our additions.
REGISTRY: tuple[Source, ...] = (
    Source(
        "huatuo_encyclopedia_qa",
        "qa",
        "Apache-2.0",
        _HUATUO,
        "https://huggingface.co/datasets/FreedomIntelligence/huatuo_encyclopedia_qa",
        (Feed("*.jsonl", _medical("Huatuo-26M-encyclopedias"), qa.huatuo),),
    ),
    Source(
        "huatuo_knowledge_graph_qa",
        "qa",
        "Apache-2.0",
        _HUATUO,
        "https://huggingface.co/datasets/FreedomIntelligence/huatuo_knowledge_graph_qa",
        (Feed("*.jsonl", _medical("Huatuo-26M-medical_knowledge"), qa.huatuo),),
    ),
    Source(
        "cmexam",
        "qa",
        "Apache-2.0",
        "Liu et al. 2023, CMExam, arXiv 2306.03030",
        "https://github.com/williamliujl/CMExam",
        (
            Feed("train.csv", {"cpt": "CMExam", "sft": "CMExam-explanation"}, exam.cmexam),
            Feed("val.csv", {"eval": "CMExam"}, exam.cmexam),
            Feed("test*.csv", {"eval": "CMExam"}, exam.cmexam),
        ),
    ),
    Source(
        "plain_text",
        "text",
        "out of copyright or official documents",
        "Jin et al. 2020, MedQA, arXiv 2009.13081",
        "https://github.com/jind11/MedQA (textbooks/zh_paragraph); other medical books go in the same folder",
        (
            Feed("**/*.txt", {"cpt": "MedQA-textbooks"}, text.textbook),
            Feed("**/*.json", {"cpt": "MedQA-textbooks"}, text.textbook),
        ),
        standing="stand-in",
    ),
    Source(
        "kg_cpubmed",
        "kg",
        "CC BY-ND 4.0",
        "CPubMed-KG, Harbin Institute of Technology (Shenzhen) and Pengcheng Laboratory",
        "https://cpubmed.openi.org.cn/graph/wiki (application)",
        (Feed("*.txt", {"cpt": "CPubMed-KG"}, kg.cpubmed),),
    ),
    Source(
        "kg_cpubmed_sample",
        "kg",
        "CC BY-ND 4.0",
        "CPubMed-KG, Harbin Institute of Technology (Shenzhen) and Pengcheng Laboratory",
        "https://cpubmed.openi.org.cn/graph/wiki",
        (Feed("*.json", {"cpt": "CPubMed-KG"}, kg.cpubmed),),
        standing="stand-in",
    ),
    Source(
        "kg_39health",
        "kg",
        "not stated",
        "Chen, QASystemOnMedicalGraph (scraped from 39.net)",
        "https://github.com/zhihao-chen/QASystemOnMedicalGraph (data/disease.csv)",
        (Feed("*.csv", {"cpt": "39Health-KG"}, kg.health39),),
    ),
    Source(
        "kg_xywy",
        "kg",
        "not stated",
        "Liu, QASystemOnMedicalKG (scraped from xywy.com)",
        "https://github.com/liuhuanyong/QASystemOnMedicalKG (data/medical.json)",
        (Feed("*.json", {"cpt": "Xywy-KG"}, kg.xywy),),
    ),
    Source(
        "cmd",
        "dialogue",
        "not stated",
        "Ye et al. 2023, Qilin-Med, arXiv 2310.09089",
        "https://huggingface.co/datasets/williamliu/ChiMed (not published on its own)",
        (Feed("*.jsonl", _medical("CMD"), dialogue.conversations),),
    ),
    Source(
        "toyhom_dialogue",
        "dialogue",
        "MIT",
        "Toyhom 2019, Chinese-medical-dialogue-data",
        "https://github.com/Toyhom/Chinese-medical-dialogue-data",
        (Feed("**/*.csv", _medical("Chinese-medical-dialogue-data"), dialogue.toyhom),),
    ),
    Source(
        "meddialog_cn",
        "dialogue",
        "Apache-2.0",
        "Chen et al. 2020, MedDialog, arXiv 2004.03329",
        "https://github.com/UCSD-AI4H/Medical-Dialogue-System",
        (Feed("*.json", _medical("Medical-Dialogue-System"), dialogue.meddialog),),
    ),
    Source(
        "medicalgpt_sft",
        "qa",
        "Apache-2.0",
        "Xu 2023, MedicalGPT",
        "https://github.com/shibing624/MedicalGPT (data/finetune)",
        (Feed("*.jsonl", _medical("MedicalGPT-SFT"), dialogue.conversations),),
        standing="addition",
    ),
    Source(
        "cmtmedqa",
        "dialogue",
        "Apache-2.0",
        "Yang et al. 2023, Zhongjing, arXiv 2308.03549",
        "https://huggingface.co/datasets/Suprit/CMtMedQA",
        (Feed("*.json", _medical("CMtMedQA"), dialogue.cmtmedqa),),
        standing="addition",
    ),
    Source(
        "remedi",
        "dialogue",
        "MIT",
        "Yan et al. 2022, ReMeDi, arXiv 2109.00430",
        "https://github.com/yanguojun123/Medical-Dialogue",
        (Feed("*.txt", _medical("ReMeDi"), dialogue.remedi),),
        standing="addition",
    ),
    Source(
        "general_zh",
        "general",
        "Apache-2.0, partly GPT-generated",
        "Alpaca-zh, BELLE, ShareGPT-zh as redistributed by LLaMA-Factory and MedicalGPT",
        "https://huggingface.co/datasets/Chinese-Vicuna/instruct_chat_50k.jsonl, "
        "https://huggingface.co/datasets/BelleGroup/multiturn_chat_0.8M, https://github.com/thu-coai/Safety-Prompts",
        (
            Feed("*.json", {"sft": "Instruct_chat, Multiturn_chat", "general": "general text"}, general.instructions),
            Feed("*.jsonl", {"sft": "Instruct_chat, Multiturn_chat", "general": "general text"}, general.instructions),
            Feed("*.txt", {"general": "general text"}, text.prose),
        ),
        standing="stand-in",
        part="general",
    ),
    Source(
        "zhongjing_rlhf",
        "preference",
        "Apache-2.0",
        "Yang et al. 2023, Zhongjing, arXiv 2308.03549",
        "https://github.com/SupritYoung/Zhongjing (data/rlhf2000_7_31.json)",
        (Feed("*.json", {"dpo": "Zhongjing_rlhf"}, preference.zhongjing_rlhf),),
    ),
    Source(
        "medicalgpt_reward",
        "preference",
        "Apache-2.0",
        "Xu 2023, MedicalGPT",
        "https://huggingface.co/datasets/shibing624/medical (reward)",
        (Feed("*.json", {"dpo": "MedicalGPT"}, preference.medicalgpt_reward),),
    ),
    Source(
        "dpo_zh",
        "preference",
        "Apache-2.0",
        "DPO-zh pairs as redistributed by LLaMA-Factory and MedicalGPT",
        "https://github.com/shibing624/MedicalGPT (data/reward)",
        (Feed("*.jsonl", {"dpo": "DPO-zh"}, preference.pairs),),
        standing="addition",
        part="general",
    ),
    Source(
        "ceval",
        "qa",
        "CC BY-NC-SA 4.0",
        "Huang et al. 2023, C-Eval, arXiv 2305.08322",
        "https://huggingface.co/datasets/ceval/ceval-exam",
        (Feed("*/*.csv", {"eval": "C-Eval"}, exam.ceval),),
    ),
    Source(
        "huatuo26m_test",
        "qa",
        "Apache-2.0",
        _HUATUO,
        "https://huggingface.co/datasets/FreedomIntelligence/huatuo26M-testdatasets",
        (Feed("*.jsonl", {"eval": "Huatuo-26M"}, qa.huatuo), Feed("*.json", {"eval": "Huatuo-26M"}, qa.huatuo)),
    ),
)

BY_NAME = {source.name: source for source in REGISTRY}
UNUSED = ("cmeee_v2", "cmmlu", "attitude_scales", "baichuan_tokenizer")


@dataclass(frozen=True, slots=True)
class Unit:
    """A record or rejection on its way through the build, with the sets that its file feeds."""

    sets: tuple[str, ...]
    read: Record | Rejection


def units(source: Source, raw_dir: Path, sets: tuple[str, ...] = SETS) -> Iterator[Unit]:
    """Everything that a source's files hold for `sets`, files in name order.

    A file that cannot be read is one Rejection.
    """
    folder = raw_dir / source.name
    for feed in source.feeds:
        wanted = tuple(name for name in feed.rows if name in sets)
        if not wanted:
            continue
        for path in sorted(folder.glob(feed.glob), key=lambda path: path.as_posix()):
            file = path.relative_to(folder).as_posix()
            if not path.is_file() or any(part.startswith(".") for part in Path(file).parts):
                continue
            try:
                content = read_file(path)
            except QilinError as reason:
                yield Unit(wanted, Rejection(source.name, file, 0, "unreadable file", str(reason)))
                continue
            for read in feed.reader(source.name, file, content):
                yield Unit(wanted, read)


def inventory(raw_dir: Path) -> dict[str, str]:
    """{folder: "present" | "missing" | "not used by this profile" | "unknown"}, registry order first."""
    there = {path.name for path in raw_dir.iterdir() if path.is_dir()} if raw_dir.is_dir() else set()
    state = {source.name: "present" if source.name in there else "missing" for source in REGISTRY}
    state |= {name: "not used by this profile" for name in UNUSED if name in there}
    return state | {name: "unknown" for name in sorted(there - set(state)) if not name.startswith(".")}


def main(arguments: list[str]) -> int:
    """Print the inventory of a raw folder; 2 when the argument is wrong."""
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print("usage: python -m qilin_lib.chimed.sources RAW_DIR   (an existing folder with one folder a source)")
        return 2
    for name, state in inventory(Path(arguments[0])).items():
        source = BY_NAME.get(name)
        feeds = ",".join(dict.fromkeys(kind for feed in source.feeds for kind in feed.rows)) if source else ""
        hint = f"  get it: {source.home}" if source and state == "missing" else ""
        print(f"{state:25s} {name:28s} {feeds:16s}{hint}".rstrip())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
