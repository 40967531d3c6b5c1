"""08's comparison of policies: the KL divergence against arithmetic, records that no kill loses, the intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from qilin_lib import files, params
from qilin_lib.chains import DEFAULT
from qilin_lib.errors import QilinError
from qilin_lib.evaluate import policies
from qilin_lib.evaluate.intervals import studentised
from qilin_lib.evaluate.metrics import tokenize
from qilin_lib.models.load import load_model, load_tokenizer
from qilin_lib.runs import Stage
from qilin_lib.tokens.template import BAICHUAN
from qilin_lib.train import launch, sampling
from qilin_lib.train.methods import reward

pytestmark = pytest.mark.slow

SMALL = {"gpus": 0, "finetuning": "full", "dtype": "float32", "max_source_length": 60, "max_target_length": 10,
         "batch_size": 4, "max_items": 6, "bootstrap_resamples": 200}  # fmt: skip


@pytest.fixture(scope="module")
def parameters() -> Any:
    return params.load("08_rlhf", SMALL)


def shifted(folder: Path, target: Path, amount: float) -> Path:
    """The model in `folder` with noise on its output layer, saved with its tokenizer."""
    import torch

    model = load_model(folder)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        head = model.get_output_embeddings().weight
        model.get_output_embeddings().weight = torch.nn.Parameter(
            head + amount * head.std() * torch.randn(head.shape, generator=generator)
        )
    model.config.tie_word_embeddings = False
    model.save_pretrained(target)
    load_tokenizer(folder).save_pretrained(target)
    return target


@pytest.fixture(scope="module")
def run_dir(
    tiny_model_dir: Path, sentences: Callable, parameters: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run whose stages are finished: four policies, a reward model, and eight held-out questions."""
    run = tmp_path_factory.mktemp("run")
    texts = sentences(30, 31)
    rows = [
        {
            "id": f"q{i}",
            "source": "made",
            "prompt": [{"role": "user", "content": texts[2 * i]}],
            "chosen": [{"role": "assistant", "content": texts[2 * i + 1]}],
            "split": "train" if i < 3 else "heldout",
        }
        for i in range(11)
    ]
    files.write_jsonl(run / "01_build_chimed" / "dpo.jsonl", rows)
    files.write_json(run / "02_tokenize" / "base.json", {"name": "tiny", "parameters": 9, "template": "baichuan"})
    places = ("04_sft", "05_dpo", "08_rlhf/rejection/round1", "08_rlhf/rl")
    for place, amount in zip(places, (0.0, 0.2, 0.4, 0.8), strict=True):
        shifted(tiny_model_dir, run / place / "model", amount)
        files.write_json(run / place / "facts.json", {"template": "baichuan", "template_sha256": BAICHUAN.sha256})
    files.write_json(run / "08_rlhf" / "in_progress.json", {"key": "key"})
    judge, tokenizer = reward.prepare_model(parameters, tiny_model_dir)
    judge.save_pretrained(run / "08_rlhf" / "reward" / "model")
    tokenizer.save_pretrained(run / "08_rlhf" / "reward" / "model")
    return run


@pytest.fixture(scope="module")
def compared(run_dir: Path, parameters: Any) -> dict[str, Any]:
    """policies.json as the notebook gets it: through the child process."""
    said: list[str] = []
    made = policies.compare(Stage(parameters, run_dir, "key", {}, False), said.append)
    assert any("rl" in line for line in said)
    return made


# --- the divergence ---------------------------------------------------------------------------------------------------


def test_divergence_is_what_arithmetic_says() -> None:
    """Two tokens: KL(p || q) = p ln(p / q) + (1 - p) ln((1 - p) / (1 - q)); 0 for equal rows, never below."""
    import torch

    for p, q in ((0.5, 0.25), (0.9, 0.1), (0.01, 0.99), (0.3, 0.3)):
        ours, theirs = (torch.tensor([[math.log(x), math.log(1 - x)]]) + 3.5 for x in (p, q))
        expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
        assert policies.divergence(ours, theirs).item() == pytest.approx(expected, abs=1e-6)
    rows = torch.randn(50, 40, generator=torch.Generator().manual_seed(1))
    assert policies.divergence(rows, rows).tolist() == [0.0] * 50
    assert (policies.divergence(rows, rows + 1e-7 * torch.randn(50, 40)) >= 0).all()
    never = torch.tensor([[0.0, -math.inf], [0.0, 0.0]])
    assert policies.divergence(never, torch.zeros(2, 2)).tolist() == pytest.approx([math.log(2), 0.0])


class Counted:
    """A model of random logits that notes how many bytes of such are alive whenever it, or the divergence, begins."""

    placed: ClassVar[list[Counted]] = []

    def __init__(self, vocabulary: int) -> None:
        import torch

        self.vocabulary, self.most = vocabulary, 0
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.config = SimpleNamespace()

    def look(self) -> None:
        import gc

        import torch

        tensors = [one for one in gc.get_objects() if isinstance(one, torch.Tensor) and one.ndim > 1]
        wide = [one.untyped_storage() for one in tensors if one.shape[-1] == self.vocabulary]
        self.most = max(self.most, sum({one.data_ptr(): one.nbytes() for one in wide}.values()))

    def __call__(self, input_ids: Any, **_: Any) -> Any:
        import torch

        self.look()
        return SimpleNamespace(logits=torch.randn(*input_ids.shape, self.vocabulary))

    def parameters(self) -> Any:
        return iter([self.weight])

    def eval(self) -> Counted:
        return self

    def to(self, device: str) -> Counted:
        self.placed[:] = [one for one in self.placed if one is not self] + [self] * (device == "card")
        assert len(self.placed) < 2, "two models of 16 bit stand on the card"
        return self


def test_the_divergence_of_many_answers_takes_the_memory_of_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """128 answers of 20 tokens over 5,000 words: all their logits would be 51 MB, for one of the two models.

    The card holds one of the three models at a time.
    """
    vocabulary, limit = 5_000, 20
    policy, reference = Counted(vocabulary), Counted(vocabulary)
    chunk = [policies.Item(str(n), "made", [], [3, 4, 5], "") for n in range(128)]
    drawn = [[7] * limit for _ in chunk]
    monkeypatch.setattr(policies.behaviour, "greedy", lambda *_: drawn)
    monkeypatch.setattr(policies.sampling, "sample", lambda *_, **__: drawn)
    monkeypatch.setattr(policies.reward, "rewards", lambda judge, both, size: [0.0] * len(both))
    monkeypatch.setattr(policies, "text_after", lambda *_: "")
    monkeypatch.setattr(policies, "ROWS", 320)
    seen = SimpleNamespace(max_target_length=limit, batch_size=128, seed=1)
    rows = policies.measured(chunk, policy, reference, Counted(vocabulary), None, seen, "card")
    assert [row["positions"] for row in rows] == [limit] * 128 and all(row["kl"] > 0 for row in rows)
    most = max(policy.most, reference.most)
    assert most <= 2 * 320 * vocabulary * 4, f"{most / 1e6:.0f} MB of logits at once"


def test_the_mean_over_answers_is_the_divergence_of_the_sequences(tiny_llama: Any) -> None:
    """The estimate against KL by enumeration: all answers of at most two tokens of three that can be written."""
    import torch

    both = policy, reference = tiny_llama(4), tiny_llama(5)
    prompt, n = [8, 9], 1000
    with torch.no_grad():
        for model in both:
            model.lm_head.weight *= 0.2
            model.lm_head.bias = torch.nn.Parameter(torch.full((640,), -60.0))
            model.lm_head.bias.data[[1, 50, 51]] = 0.0
        p, q = (next_logprobs(model, prompt) for model in both)
        exact = (p.exp() * (p - q)).sum().item()
        for token in (50, 51):
            later, theirs = (next_logprobs(model, [*prompt, token]) for model in both)
            exact += (p[token].exp() * (later.exp() * (later - theirs)).sum()).item()
    assert all(0.1 < p[token].exp() for token in (1, 50, 51))
    drawn = sampling.sample(
        policy, SimpleNamespace(eos_token_id=1), [prompt] * n, [str(i) for i in range(n)],
        temperature=1.0, top_p=1.0, max_new_tokens=2, seed=3, batch_size=200,
    )  # fmt: skip
    logits = [policies.answer_logits(model, [prompt] * n, drawn, 2) for model in both]
    sums = np.array([policies.divergence(*pair).sum().item() for pair in zip(*logits, strict=True)])
    assert exact > 0.01 and sums.std() > 0 and abs(sums.mean() - exact) < 4 * sums.std() / math.sqrt(n)


def next_logprobs(model: Any, ids: list[int]) -> Any:
    """Log-probabilities of the token after `ids`, (vocabulary,), float64."""
    import torch

    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].double().log_softmax(-1)


# --- the records ------------------------------------------------------------------------------------------------------


def test_records_are_what_the_models_say(compared: dict, run_dir: Path, parameters: Any) -> None:
    """Rewards, lengths and KL of one policy against transformers' own forward passes, one sequence at a time."""
    import torch

    sft, dpo = (load_model(run_dir / place / "model").eval() for place in ("04_sft", "05_dpo"))
    judge = reward.load(run_dir / "08_rlhf" / "reward" / "model", "float32", "cpu")
    tokenizer, limit = load_tokenizer(run_dir / "04_sft" / "model"), 10
    rows = list(files.read_jsonl(run_dir / "08_rlhf" / "policies" / "dpo.jsonl"))
    assert [row["id"] for row in rows] == ["q3", "q4", "q5", "q7", "q8", "q9"]
    for row in rows:
        ids = BAICHUAN.encode(row["prompt"], tokenizer, add_generation_prompt=True)
        drawn = sampling.sample(
            dpo, tokenizer, [ids], [f"policy:{row['id']}"],
            temperature=1.0, top_p=1.0, max_new_tokens=limit, seed=parameters.seed, batch_size=1,
        )[0]  # fmt: skip
        greedy = dpo.generate(torch.tensor([ids]), max_new_tokens=limit, do_sample=False)[0, len(ids) :].tolist()
        greedy = greedy[: greedy.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in greedy else greedy
        assert (row["tokens"], row["sampled_tokens"]) == (len(greedy), len(drawn))
        whole = tokenizer.decode(ids[-2:] + greedy, skip_special_tokens=True)
        assert whole.endswith(row["answer"]) and bool(row["answer"]) == bool(greedy)
        assert row["cut"] == (len(greedy) == limit) and row["positions"] == len(drawn) + (len(drawn) < limit)
        for name, answer in (("reward", greedy), ("sampled_reward", drawn)):
            assert row[name] == pytest.approx(reward.rewards(judge, [ids + answer], 1)[0], abs=1e-4)
        logits = [model(torch.tensor([ids + drawn])).logits[0, len(ids) - 1 :].double() for model in (dpo, sft)]
        p, q = (one.log_softmax(-1) for one in logits)
        kl = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1)[: row["positions"]]
        assert row["kl"] == pytest.approx(kl.sum().item(), abs=1e-4) and row["kl"] > 0


def test_nothing_is_done_twice_and_a_torn_record_costs_its_chunk_alone(
    compared: dict, run_dir: Path, parameters: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child in this process, after a kill in the middle of `dpo`'s second chunk; `rl`'s file is missing."""
    folder = run_dir / "08_rlhf" / "policies"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    rows = (folder / "dpo.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    key = files.read_json(folder / "dpo.key.json")["key"]
    part = "".join(['{"key": "' + key + '"}\n', *rows[:5], rows[5][:40]])
    files.write_text(folder / "dpo.part0", part)
    for name in ("dpo.jsonl", "dpo.key.json", "rl.jsonl", "rl.key.json"):
        (folder / name).unlink()
    seen: list[list[str]] = []
    measured = policies.measured

    def counted(chunk: list[policies.Item], *others: Any) -> Any:
        seen.append([item.id for item in chunk])
        return measured(chunk, *others)

    monkeypatch.setattr(policies, "measured", counted)
    stage = Stage(parameters, run_dir, "key", {}, False)
    files.write_json(run_dir / "job.json", policies._job(stage))
    policies.work(run_dir / "job.json")
    assert seen == [["q8", "q9"], ["q3", "q4", "q5", "q7"], ["q8", "q9"]]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    # A finished comparison is read, whatever could start a process.
    monkeypatch.setattr(launch, "run", None)
    assert policies.compare(stage, print) == compared


def test_a_policy_of_another_template_is_refused(compared: dict, run_dir: Path, parameters: Any) -> None:
    facts = run_dir / "05_dpo" / "facts.json"
    files.write_json(facts, {"template": "baichuan", "template_sha256": "other"})
    with pytest.raises(QilinError, match="policy 'dpo' was trained with template 'baichuan' .* run notebooks/05_dpo"):
        policies._job(Stage(parameters, run_dir, "key", {}, False))
    files.write_json(facts, {"template": "baichuan", "template_sha256": BAICHUAN.sha256})


def test_questions_that_fit_no_context_are_counted(run_dir: Path, parameters: Any) -> None:
    wide = parameters.model_copy(update={"max_target_length": 480, "max_items": None})
    data, model = run_dir / "01_build_chimed" / "dpo.jsonl", run_dir / "04_sft" / "model"
    asked, too_long = policies.items(data, BAICHUAN, model, wide)
    assert too_long > 0 and len(asked) + too_long == 8
    assert all(len(item.ids) + 480 <= 512 for item in asked)


# --- the scores -------------------------------------------------------------------------------------------------------


def made(name: str, rewards: list[float], kl: list[float]) -> list[dict[str, Any]]:
    """Records of one policy with the same texts but for their rewards and divergences."""
    return [
        {"id": f"i{i}", "answer": "多喝水，好好休息", "chosen": "请多喝水", "tokens": 100 * i, "cut": i == 0,
         "repetition": 0.25, "reward": value, "sampled_reward": 2 * value, "sampled_tokens": 7, "kl": kl[i],
         "positions": 4 + i}
        for i, value in enumerate(rewards)
    ]  # fmt: skip


def test_scores_are_means_with_intervals_and_paired_differences() -> None:
    draw = np.random.default_rng(2)
    base = draw.normal(-150, 40, 30).tolist()
    gain = draw.normal(5, 2, 30)
    records = {
        "sft": made("sft", base, [0.0] * 30),
        "rl": made("rl", (base + gain).tolist(), draw.gamma(2, 1, 30).tolist()),
    }
    found = policies.score(records, SimpleNamespace(bootstrap_resamples=500, seed=4, chain=DEFAULT))
    sft, rl = found["policies"]["sft"], found["policies"]["rl"]
    # Not percentages: nothing is cut off at 0 or 100.
    assert sft["reward"]["value"] == pytest.approx(np.mean(base)) and sft["reward"]["high"] < -100
    assert sft["tokens"]["value"] == 1450 and sft["tokens"]["high"] > 1450
    total = sum(row["kl"] for row in records["rl"])
    assert rl["kl_answer"]["value"] == pytest.approx(total / 30)
    assert rl["kl_token"]["value"] == pytest.approx(total / sum(4 + i for i in range(30)))
    assert 0 < rl["kl_token"]["low"] < rl["kl_token"]["value"] < rl["kl_token"]["high"]
    assert sft["cut"]["value"] == pytest.approx(100 / 30) and sft["repetition"]["value"] == 25.0
    shared = len(set(tokenize("多喝水，好好休息", "char")) & set("请多喝水"))
    assert sft["rouge_1"]["value"] == pytest.approx(100 * 2 * shared / (8 + 4))
    rows = {row["metric"]: row for row in found["paired"]}
    assert not [name for name in rows if name.startswith("kl")]
    reward_row = rows["reward"]
    assert (reward_row["model_a"], reward_row["model_b"], reward_row["n"]) == ("sft", "rl", 30)
    low, high, p = studentised(policies.mean_of(gain), 500, 4)
    assert [reward_row[name] for name in ("low", "high", "p")] == pytest.approx([low, high, p])
    assert reward_row["difference"] == pytest.approx(gain.mean()) and reward_row["p_adjusted"] < 0.05
    assert rows["bleu_1"]["difference"] == 0.0 and rows["bleu_1"]["p_adjusted"] == 1.0
    assert rows["cut"]["p"] == 1.0


def test_gaps_that_cancel_leave_room_for_others() -> None:
    """Answers 5 tokens shorter and 5 longer: the mean gap is 0, and nobody knows that it is."""
    records = {name: made(name, [float(n) for n in range(12)], [0.0] * 12) for name in ("sft", "rl")}
    for row, gap in zip(records["rl"], [-5, 5, -6, 6, *[0] * 8], strict=True):
        row["tokens"] += gap
    found = policies.score(records, SimpleNamespace(bootstrap_resamples=500, seed=4, chain=DEFAULT))["paired"]
    (row,) = (row for row in found if row["metric"] == "tokens")
    assert row["difference"] == pytest.approx(0) and row["low"] < -1.5 and row["high"] > 1.5


def test_no_questions_give_no_numbers_and_other_questions_are_refused() -> None:
    settings = SimpleNamespace(bootstrap_resamples=100, seed=0, chain=DEFAULT)
    empty = policies.score({"sft": [], "rl": []}, settings)
    assert empty["policies"]["rl"]["reward"] == {"value": None, "n": 0, "low": None, "high": None}
    assert empty["policies"]["sft"]["kl_token"]["value"] is None and empty["paired"] == []
    with pytest.raises(QilinError, match="answered different items"):
        policies.score({"sft": made("sft", [1.0, 2.0], [0, 0]), "rl": made("rl", [1.0], [0])}, settings)
