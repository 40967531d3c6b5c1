"""The `released` protocol: what the authors' evaluators ask, read and count, defects included.

Sources: williamliujl/Qilin-Med @9b96dc6 (eval/C-Eval, eval/CMExam) and williamliujl/CMExam (src/evaluation). Both
evaluators are run with --few_shot, as their shell scripts do. Their other path, `generate_dist` (argmax over A-D alone,
so that no E and no several letters can be right), is no part of this module: it answers another prompt, which takes a
forward pass of its own. Huatuo-26M has no released evaluator.

Defects kept: the dialogue "[Round 1] 问：… 答：…" is put to every model, whatever template it was trained with;
C-Eval's header names the subject by its English handle; --ntrain 0 still shows one example; two prompt tokens are read
as part of C-Eval's reply; any "答案A" in a reply counts before its last word; CMExam's examples are never shown; its
answer is the reply's first run of capitals ("CT检查，选B" answers "CT"), compared as it stands ("BA" is not "AB"); its
explanation is cut at 50 new tokens.

Not kept: crashes (CMExam option lines without a text, corpora without a word); pandas' reading of cells such as "NA";
rows without a usable answer, which the authors count as wrong and we leave out; blanks around a gold explanation; half
precision, and the model's own generation settings beside greedy search; the spelled-out special tokens in a reply.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from os.path import commonprefix
from typing import Any

from qilin_lib.errors import QilinError
from qilin_lib.evaluate.intervals import Statistic, proportion
from qilin_lib.evaluate.items import CEVAL_LETTERS, Item
from qilin_lib.evaluate.metrics import f1_rows, f1_weighted
from qilin_lib.evaluate.prompts import REPLY_PREFIX, Prompt, ceval_messages, cmexam_messages
from qilin_lib.evaluate.scores import Table
from qilin_lib.evaluate.variants import cmexam_texts

CEVAL_NEW_TOKENS = 10
CMEXAM_NEW_TOKENS = 50
CMEXAM_LETTERS = "ABCDE"
REASONING = ("bleu_1", "bleu_4", "rouge_1", "rouge_2", "rouge_l")
NO_ANSWER = "无答案"

_LETTER = "([ABCD])"
_REASONED = re.compile("所以答案是(.+?)。")
_CAPITALS = re.compile("[A-Z]+")
# The order decides: "答案A，应改为选择B" answers A.
_CUES = [
    re.compile(cue)
    for cue in (
        f"{_LETTER}是正确的",
        f"选项{_LETTER}正确",
        *(words + _LETTER for words in ("答案为", "答案是", "答案", "选择", "答案：", "答：", "选择答案")),
    )
]
_EXPLANATION = re.compile("解释：(.*)")


def ceval_prompts(items: Sequence[Item], backend: Any, dev: dict[str, list[Item]], shots: int) -> list[Prompt]:
    """One prompt an item: rounds of question and answer, then the question (build_prompt of evaluators/baichuan.py).

    The first `shots` dev examples, one at least. The authors send a prompt that is too long as it is; here it loses
    examples from the front, then tokens, and is marked truncated. QilinError when there are fewer examples.
    """
    shots, asked = max(1, shots), []
    for item in items:
        shown = dev.get(item.subject or "", [])
        if len(shown) < shots:
            raise QilinError(
                f"C-Eval subject '{item.subject}' has {len(shown)} dev examples, fewer than shots = {shots}"
            )
        texts = [_rounds(item, shown[first:shots]) for first in range(shots + 1)]
        prompt = _fitted(texts, shots, backend, CEVAL_NEW_TOKENS)
        if prompt.ids and prompt.shots:
            bare = _rounds(replace(item, question=""), shown[shots - prompt.shots : shots])
            shared = len(commonprefix([prompt.ids[:-1], backend.tokenizer.encode(bare)]))
            prompt = replace(prompt, shared=shared)
        asked.append(prompt)
    return asked


def cmexam_prompts(items: Sequence[Item], backend: Any) -> list[Prompt]:
    """Question, option lines and "答案："; no example (format_example of evaluators/baichuan.py, history unused)."""
    asked = []
    for item in items:
        text = f"{cmexam_messages(item.question, item)[0]['content']}\n{REPLY_PREFIX}"
        asked.append(_fitted([text], 0, backend, CMEXAM_NEW_TOKENS))
    return asked


def ceval_answer(items: Sequence[Item], asked: Sequence[Prompt], backend: Any) -> list[dict]:
    """`output` is the authors' `model_output`: the last two prompt tokens and the reply, read together.

    Where a server tokenises, "答：" stands for the two tokens.
    """
    replies = backend.generate(asked, CEVAL_NEW_TOKENS)
    answers = []
    for item, prompt, reply in zip(items, asked, replies, strict=True):
        tail = backend.tokenizer.decode(prompt.ids[-2:]) if prompt.ids else prompt.text[-2:]
        output = "" if reply.error else (tail + reply.text).strip()
        letter = ceval_letter(output, item.options or {})
        correct = None if item.gold is None else letter == item.gold
        # The authors' code knows no end of a reply; only a prompt that a server refuses is told from others.
        ending = reply.ending if reply.error else {}
        answers.append({"output": output, "prediction": letter, "correct": correct, **ending})
    return answers


def cmexam_answer(items: Sequence[Item], asked: Sequence[Prompt], backend: Any) -> list[dict]:
    """`prediction` is what the code reads, capitals of any kind in the reply's order; it is right only as a whole.

    `explanation` is what stands after the first "解释：" on its line, "" without one: so CMExam's own reader takes it
    (evaluate_chatglm_result.py); what wrote the column that Qilin-Med's metrics read was not released.
    `lora_prediction` and `lora_explanation` are the readings of CMExam's evaluate_lora_result.py.
    """
    answers = []
    for item, reply in zip(items, backend.generate(asked, CMEXAM_NEW_TOKENS), strict=True):
        output, options = reply.text.strip(), item.options or {}
        prediction, explained = cmexam_letters(output, options), _EXPLANATION.search(output)
        # parse_explanations of evaluate_lora_result.py: between the first and second "解释:" (half-width), else all.
        parts = output.split("解释:")
        lora = parts[1].strip() if len(parts) > 1 else output or NO_ANSWER
        answers.append(
            {
                "output": output,
                "prediction": prediction,
                "correct": prediction == item.gold,
                "explanation": explained[1] if explained else "",
                "lora_prediction": lora_letters(output, options),
                "lora_explanation": lora,
                **(reply.ending if reply.error else {}),
            }
        )
    return answers


def ceval_letter(output: str, options: dict[str, str]) -> str | None:
    """The letter read by C-Eval's extract_cot_answer: a cue, else the only A-D, else the only option text; or None."""
    reasoned = _REASONED.findall(output)
    if reasoned and reasoned[-1] in tuple(CEVAL_LETTERS):
        return reasoned[-1]
    for cue in _CUES:
        if found := cue.search(output):
            return found[1]
    letters = [character for character in output if character in CEVAL_LETTERS]
    return _only(letters) or _only([letter for letter, text in options.items() if text in output])


def cmexam_letters(output: str, options: dict[str, str]) -> str | None:
    """The answer read by CMExam's extract_cot_answer: the first run of capitals, else the only option text; or None.

    An option's text ends at its first blank there, and only A-E are looked for.
    """
    reasoned = _REASONED.findall(output)
    if reasoned and reasoned[-1] in tuple(CMEXAM_LETTERS):
        return reasoned[-1]
    if capitals := _CAPITALS.search(output):
        return capitals[0]
    named = [letter for letter in CMEXAM_LETTERS if letter in options and options[letter].split(" ")[0] in output]
    return _only(named)


def lora_letters(output: str, options: dict[str, str]) -> str | None:
    """parse_options of evaluate_lora_result.py: every option whose letter or first word occurs; None for "无答案".

    With "解释" in the reply only its first line is searched.
    """
    searched = output.split("\n")[0].strip() if "解释" in output else output
    # An option without a text stops the authors' code; here its letter alone counts.
    words = {letter: [letter, *text.split()[:1]] for letter, text in options.items()}
    return "".join(letter for letter, own in words.items() if any(word in searched for word in own)) or None


def cmexam_statistics(records: Sequence[dict]) -> Table:
    """accuracy and unparsed over all records (evaluators/baichuan.py), and the figures of the other scripts.

    bleu_1, bleu_4, rouge_1, rouge_2, rouge_l: evaluate_chatglm.py on the explanations, all rows, jieba tokens for BLEU,
    blanks removed from predictions only. parsed_only: accuracy and weighted F1 over the rows with a prediction
    (CMExam's evaluate_gpt_result.py and evaluate_chatglm_result.py). lora: evaluate_lora_result.py, all rows for the
    answers, those with a gold explanation for the texts, single characters for BLEU.
    """
    spoken = [record for record in records if record["reference"]]
    return {
        "accuracy": proportion([record["correct"] for record in records]),
        "unparsed": proportion([record["prediction"] is None for record in records]),
        **_texts([r["explanation"].replace(" ", "") for r in records], [r["reference"] for r in records], "jieba"),
        "parsed_only": _answers([r for r in records if r["prediction"] is not None], "prediction"),
        "lora": _answers(records, "lora_prediction")
        | _texts([r["lora_explanation"] for r in spoken], [r["reference"] for r in spoken], "char"),
    }


def _rounds(item: Item, shots: Sequence[Item]) -> str:
    turns = ceval_messages(item.question, item, shots, item.subject or "")
    asked = [f"{turn['content']}\n{REPLY_PREFIX}" for turn in turns if turn["role"] == "user"]
    replies = [*(f"{shot.gold}\n\n" for shot in shots), ""]
    rounds = enumerate(zip(asked, replies, strict=True), start=1)
    return "".join(f"[Round {n}]\n\n问：{question}\n\n答：{reply}" for n, (question, reply) in rounds)


def _fitted(texts: Sequence[str], shots: int, backend: Any, new_tokens: int) -> Prompt:
    """The first of `texts` (each with one example fewer) that fits into the context, else the end of the last one."""
    text, ids, left, truncated = texts[0], [], shots, False
    if backend.tokenizer is not None:
        room = backend.context - new_tokens
        for dropped, text in enumerate(texts):
            ids, left, truncated = backend.tokenizer.encode(text), shots - dropped, dropped > 0
            if len(ids) <= room:
                break
        else:
            ids, left, truncated = ids[-room:], 0, True
            text = backend.tokenizer.decode(ids)
    return Prompt([{"role": "user", "content": text}], "", ids, text, left, truncated)


def _only(letters: Sequence[str]) -> str | None:
    return letters[0] if len(letters) == 1 else None


def _answers(records: Sequence[dict], column: str) -> dict[str, Statistic]:
    gold, read = [record["gold"] for record in records], [record[column] for record in records]
    # A reading that is nobody's gold answer is wrong whatever it says; one class for all of them keeps the rows short.
    known = [letters if letters in set(gold) else None for letters in read]
    hits = [ours == theirs for ours, theirs in zip(read, gold, strict=True)]
    return {"accuracy": proportion(hits), "f1_weighted": Statistic(f1_rows(gold, known), f1_weighted)}


def _texts(predictions: Sequence[str], references: Sequence[str], tokenisation: str) -> dict[str, Statistic]:
    texts = cmexam_texts(predictions, references, tokenisation)
    return {name: texts[name] for name in REASONING}
