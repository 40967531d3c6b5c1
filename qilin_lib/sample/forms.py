"""How one question and its answer look in each training source, and where its text can be edited."""

from __future__ import annotations

from typing import Any


def encyclopedia(question: str, answer: str, *others: str) -> dict[str, Any]:
    """Huatuo-26M release form: a nested list of paraphrases, one answer."""
    return {"questions": [[question, *others]], "answers": [answer]}


def graph_qa(question: str, answer: str) -> dict[str, Any]:
    """huatuo_knowledge_graph_qa: flat lists."""
    return {"questions": [question], "answers": [answer]}


def sharegpt(*turns: str) -> dict[str, Any]:
    """ShareGPT: human and gpt in turn."""
    return {"conversations": [{"from": ("human", "gpt")[n % 2], "value": turn} for n, turn in enumerate(turns)]}


def cmd(*turns: str) -> dict[str, Any]:
    """The Qilin-Med authors' own form: input and output in turn."""
    return {"conversations": [{"from": ("input", "output")[n % 2], "value": turn} for n, turn in enumerate(turns)]}


def meddialog(*turns: str) -> list[str]:
    """MedDialog: speaker marks inside the strings."""
    return [("病人：", "医生：")[n % 2] + turn for n, turn in enumerate(turns)]


def alpaca(instruction: str, output: str, given: str = "") -> dict[str, Any]:
    """Alpaca and BELLE keys."""
    return {"instruction": instruction, "input": given, "output": output}


def zhongjing(instruction: str, *outputs: str) -> dict[str, Any]:
    """Zhongjing's preference file: outputs from best to worst."""
    return {"instruction": instruction, "output": list(outputs)}


def reward(question: str, chosen: str, rejected: str) -> dict[str, Any]:
    """MedicalGPT's reward file."""
    return {"question": question, "response_chosen": chosen, "response_rejected": rejected}


def cmtmedqa(number: int, department: list[str], *turns: str) -> dict[str, Any]:
    """CMtMedQA: the last exchange as instruction and output, the earlier ones as history."""
    history = [list(turns[n : n + 2]) for n in range(0, len(turns) - 2, 2)]
    return {
        "id": f"j{number}", "cate1": department[0], "cate2": department[-1],
        "instruction": turns[-2], "input": "", "output": turns[-1], "history": history,
    }  # fmt: skip


def made(source: str, department: str, question: str, answer: str) -> Any:
    """A (question, answer) record of `source`; only for sources that a flaw is added to."""
    makers = {
        "huatuo_encyclopedia_qa": encyclopedia,
        "huatuo_knowledge_graph_qa": graph_qa,
        "medicalgpt_sft": sharegpt,
        "cmd": cmd,
        "meddialog_cn": meddialog,
        "general_zh": alpaca,
    }
    if source == "toyhom_dialogue":
        return [department, question[:20].rstrip("，。？"), question, answer]
    return makers[source](question, answer)


def parts(record: Any) -> tuple[str, str]:
    """(question, answer) of a record made by any form above (the first exchange of a dialogue)."""
    if isinstance(record, list):
        if len(record) == 4 and not record[0].startswith("病人："):
            return record[2], record[3]
        return record[0][3:], record[1][3:]
    if "questions" in record:
        first = record["questions"][0]
        return (first[0] if isinstance(first, list) else first), record["answers"][0]
    if "conversations" in record:
        return record["conversations"][0]["value"], record["conversations"][1]["value"]
    if "question" in record:
        return record["question"], record["response_chosen"]
    output = record["output"]
    return record["instruction"], output[0] if isinstance(output, list) else output


def add_to_question(record: Any, text: str) -> None:
    """Append `text` to what the patient says first (in place)."""
    if isinstance(record, list):
        place = 2 if len(record) == 4 and not record[0].startswith("病人：") else 0
        record[place] += text
    elif "questions" in record:
        first = record["questions"][0]
        if isinstance(first, list):
            first[0] += text
        else:
            record["questions"][0] = first + text
    elif "conversations" in record:
        record["conversations"][0]["value"] += text
    else:
        key = "question" if "question" in record else "instruction"
        record[key] += text


def add_to_answer(record: Any, text: str) -> None:
    """Append `text` to the doctor's (first) answer (in place)."""
    if isinstance(record, list):
        record[3 if len(record) == 4 and not record[0].startswith("病人：") else 1] += text
    elif "answers" in record:
        record["answers"][0] += text
    elif "conversations" in record:
        record["conversations"][1]["value"] += text
    elif "response_chosen" in record:
        record["response_chosen"] += text
    elif isinstance(record["output"], list):
        record["output"][0] += text
    else:
        record["output"] += text
