"""Rejection sampling: who is asked, what is kept, and that a kill or another batch changes no byte of the pool."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qilin_lib import files, params, runs
from qilin_lib.errors import QilinError
from qilin_lib.models.load import load_model, load_tokenizer
from qilin_lib.tokens.template import BAICHUAN, Template
from qilin_lib.train import job as jobs
from qilin_lib.train import launch, rejection, sampling, vllm_client
from qilin_lib.train.methods import reward, sft

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {
    "finetuning": "lora",
    "prompts": 5,
    "num_samples": 4,
    "rounds": 2,
    "batch_size": 8,
    "max_source_length": 40,
    "max_target_length": 16,
    "temperature": 1.2,
    "top_p": 0.9,
    "seed": 17,
    "max_heldout": 2,
    "rejection": {"per_device_train_batch_size": 4, "num_train_epochs": 1.0, "max_steps": 2, "learning_rate": 1e-3},
}


@pytest.fixture(scope="module")
def corpus(sentences: Callable) -> list[dict[str, Any]]:
    """Twelve questions that may be asked, and one row for each reason not to ask."""
    texts = sentences(40, 11)

    def row(name: str, *turns: str, **other: Any) -> dict[str, Any]:
        roles = ("user", "assistant") * 2
        messages = [{"role": role, "content": text} for role, text in zip(roles, turns, strict=False)]
        usual = {"source": "toyhom_dialogue", "licence": "MIT", "part": "medical", "split": "train"}
        return {"id": name, "messages": messages, **usual, **other}

    good = [row(f"q{i}", texts[i], texts[i + 12]) for i in range(12)]
    return [
        row("held", texts[30], texts[31], split="heldout"),
        *good[:6],
        row("talk", *texts[24:28]),
        row("general", texts[32], texts[33], part="general"),
        row("exam", texts[34], "答案：A", source="cmexam"),
        row("choice", "哪一项正确？\nA. 头痛\nB. 咳嗽", "A"),
        row("unanswered", texts[35]),
        *good[6:],
        row("held-general", texts[36], texts[37], part="general", split="heldout"),
    ]


@pytest.fixture(scope="module")
def judge_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model with a head of random numbers, saved as reward.train saves one."""
    import torch

    folder = tmp_path_factory.mktemp("reward") / "model"
    torch.manual_seed(4)
    model = load_model(tiny_model_dir, rewards=True)
    torch.nn.init.normal_(model.score.weight, std=0.5)
    model.save_pretrained(folder)
    load_tokenizer(tiny_model_dir).save_pretrained(folder)
    return folder


@pytest.fixture
def make_stage(corpus: list, judge_dir: Path, tiny_model_dir: Path, tmp_path: Path) -> Callable[..., runs.Stage]:
    """A run whose stages before 08 are done, and whose reward model is there."""

    def make(name: str = "run", **overrides: Any) -> runs.Stage:
        run = tmp_path / name
        files.write_jsonl(run / "01_build_chimed" / "sft.jsonl", corpus)
        files.write_json(run / "02_tokenize" / "base.json", {"template": "baichuan"})
        for link, target in (("04_sft/model", tiny_model_dir), ("08_rlhf/reward/model", judge_dir)):
            (run / link).parent.mkdir(parents=True)
            (run / link).symlink_to(target)
        files.write_json(run / "08_rlhf" / "in_progress.json", {"key": "key"})
        return runs.Stage(params.load("08_rlhf", SMALL | overrides), run, "key", {}, False)

    return make


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path]]:
    """Children run here; the list names their modules, and the weights that they start from."""
    ran: list[tuple[str, Path]] = []

    def run(arguments: list[str], _: Path, show: Callable[[str], None], __: int, workers: int = 1) -> None:
        path, *phases = arguments[3:]
        paths = jobs.read(path).paths
        ran.append((files.read_json(path)["module"], getattr(paths, "policy", None) or paths.weights))
        show("goes on")
        for phase in phases:
            jobs.run_phase(phase, path)

    monkeypatch.setattr(launch, "run", run)
    return ran


@pytest.fixture
def make_job(
    corpus: list, judge_dir: Path, tiny_model_dir: Path, tmp_path: Path
) -> Callable[..., tuple[SimpleNamespace, Path]]:
    """`make_job(name, **overrides)`: (job of the sampling child, its pool.jsonl), not yet run."""

    def make(name: str, **overrides: Any) -> tuple[SimpleNamespace, Path]:
        out = tmp_path / name / "sampling"
        parameters = params.load("08_rlhf", SMALL | overrides).model_dump(mode="json") | {"round": 1, "questions": {}}
        files.write_jsonl(out / "questions.jsonl", [row for row in corpus if row["id"].startswith("q")][:7])
        paths = {"policy": tiny_model_dir, "reward": judge_dir, "questions": out / "questions.jsonl"}
        job = {"parameters": parameters, "out": str(out), "template": "baichuan"}
        files.write_json(out / "job.json", job | {"paths": {name: str(path) for name, path in paths.items()}})
        return jobs.read(str(out / "job.json")), out.parent / "pool.jsonl"

    return make


def sampled(make_job: Callable, name: str, **overrides: Any) -> list[dict[str, Any]]:
    job, pool = make_job(name, **overrides)
    rejection.work(job)
    return list(files.read_jsonl(pool))


# --- who is asked -----------------------------------------------------------------------------------------------------


def test_questions_are_drawn_by_seed_another_each_round(corpus: list, tmp_path: Path) -> None:
    data = tmp_path / "sft.jsonl"
    files.write_jsonl(data, corpus)
    rounds = [rejection.questions(data, 4, 1, number) for number in (1, 2, 3, 4)]
    names = [[row["id"] for row in rows] for rows, _ in rounds]
    assert sorted(sum(names[:3], [])) == sorted(f"q{i}" for i in range(12)) and set(names[3]) == set(names[0])
    assert rejection.questions(data, 4, 1, 2) == rounds[1] and rejection.questions(data, 4, 2, 2) != rounds[1]
    for rows, counts in rounds:
        assert [row for row in corpus if row in rows] == rows
        assert counts == {"train_medical": 16, "more_turns": 2, "multiple_choice": 2, "drawable": 12, "drawn": 4}


def test_without_a_question_there_is_no_round(corpus: list, tmp_path: Path) -> None:
    files.write_jsonl(tmp_path / "sft.jsonl", [row for row in corpus if not row["id"].startswith("q")])
    with pytest.raises(QilinError, match=r"sft.jsonl: no medical training question .*'multiple_choice': 2"):
        rejection.questions(tmp_path / "sft.jsonl", 4, 1, 1)


@pytest.mark.parametrize(
    "question, offers",
    [
        ("以下正确的是\nA 后方\nB 内侧", True),
        ("选择：\n A．头痛\n B．咳嗽\n C．发热", True),
        ("缺乏维生素A、B吗？", False),
        ("A型血的人\n能吃药吗", False),
        ("我做了检查：\nA 超正常\n需要复查吗", False),
    ],
)
def test_options_are_lines_that_begin_with_letters(question: str, offers: bool) -> None:
    assert bool(rejection.OPTIONS.search(question)) == offers


# --- what is kept -----------------------------------------------------------------------------------------------------


def settings(samples: int, keep: int) -> SimpleNamespace:
    return SimpleNamespace(num_samples=samples, keep=keep, round=3, max_target_length=9)


def test_the_best_are_kept_first_of_equals_and_never_silence() -> None:
    asked = [{"id": name, "messages": [{"role": "user", "content": name}]} for name in "abc"]
    answers = [["x", 1], ["y", 2], ["z", 9], [" \n", 1], ["p", 1], ["q", 1], ["", 0], ["", 0], *[["", 0]] * 4]
    rewards = [1.0, 5.0, 5.0, 9.0, -3.0, -4.0, 7.0, 8.0, 1.0, 2.0, 3.0, 4.0]
    for keep, expected in ((1, [1, 4]), (2, [1, 2, 4, 5]), (4, [0, 1, 2, 4, 5])):
        rows = rejection.pool(asked, answers, rewards, settings(4, keep))
        assert [i for i, row in enumerate(rows) if row["kept"]] == expected and len(rows) == 12
    assert rows[6] == {"id": "b", "round": 3, "prompt": asked[1]["messages"], "sample": 2, "answer": "", "tokens": 0,
                       "reward": 7.0, "kept": False}  # fmt: skip
    facts = rejection.summary(rejection.pool(asked, answers, rewards, settings(4, 1)), settings(4, 1))
    assert facts == {"prompts": 3, "answers": 12, "kept": 2, "empty": 7, "cut": 1, "reward_mean": 3.166667,
                     "reward_best": 7.0, "reward_kept": 1.0}  # fmt: skip


def test_the_last_finished_round_is_found(tmp_path: Path) -> None:
    with pytest.raises(QilinError, match="rejection: holds no finished round"):
        rejection.last_round(tmp_path)
    for number in (1, 2, 9, 10):
        files.write_json(tmp_path / "rejection" / f"round{number}" / "facts.json", {})
    (tmp_path / "rejection" / "round11").mkdir()
    assert rejection.last_round(tmp_path).name == "round10"


# --- the pool ---------------------------------------------------------------------------------------------------------


def test_one_sample_is_plain_sampling(make_job: Callable, corpus: list, tiny_model_dir: Path) -> None:
    """K = 1: the pool is what `sampling.sample` draws, all of it is kept; and it is the first sample of K = 4."""
    single, many = (sampled(make_job, f"k{k}", num_samples=k) for k in (1, 4))
    asked = [row for row in corpus if row["id"].startswith("q")][:7]
    tokenizer = load_tokenizer(tiny_model_dir)
    drawn = sampling.sample(
        load_model(tiny_model_dir),
        tokenizer,
        [BAICHUAN.encode(row["messages"][:1], tokenizer, add_generation_prompt=True)[:40] for row in asked],
        [f"1:{row['id']}:0" for row in asked],
        temperature=1.2,
        top_p=0.9,
        max_new_tokens=16,
        seed=17,
        batch_size=3,
    )
    assert [row["answer"] for row in single] == [tokenizer.decode(ids, skip_special_tokens=True) for ids in drawn]
    assert [row["tokens"] for row in single] == [len(ids) for ids in drawn]
    assert all(row["kept"] for row in single) and len(many) == 28
    for one, first in zip(single, many[::4], strict=True):
        assert {**first, "kept": True, "reward": 0.0} == {**one, "reward": 0.0}
        assert first["reward"] == pytest.approx(one["reward"], abs=1e-4)


def test_rewards_are_the_reward_models(make_job: Callable, judge_dir: Path) -> None:
    rows = sampled(make_job, "pool")
    model, tokenizer = reward.load(judge_dir, "float32", "cpu"), load_tokenizer(judge_dir)
    limits = SimpleNamespace(max_source_length=40, max_target_length=16)
    for row in rows[::3]:
        ids = reward.sequence(row["prompt"], row["answer"], BAICHUAN, tokenizer, limits)
        assert ids[-1] == tokenizer.eos_token_id
        assert row["reward"] == pytest.approx(reward.rewards(model, [ids], 1)[0], abs=1e-4)
    assert len({row["reward"] for row in rows}) > 14 and [row["sample"] for row in rows] == [0, 1, 2, 3] * 7


def test_vllm_draws_from_the_merged_weights_and_its_answers_are_judged(
    make_job: Callable, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is judged, kept and told is as for the kit's own draws."""
    calls: list[Any] = []

    class Engine:
        def __init__(self, *given: Any, **settings: Any) -> None:
            calls.append((given, settings))

        def ask(self, prompts: list, seed: int, **sampling: Any) -> list[list[vllm_client.Answer]]:
            calls.append((seed, sampling))
            assert all(key.startswith("1:q") and len(ids) > 2 for key, ids in prompts)
            return [
                [vllm_client.Answer([100 + number, 101 + k], "stop", None) for k in range(4)]
                for number in range(len(prompts))
            ]

        def close(self) -> None:
            calls.append("closed")

    monkeypatch.setattr(vllm_client, "Engine", Engine)
    monkeypatch.setattr(vllm_client, "check", lambda notebook, python: "0.33.0")
    job, pool = make_job("served", vllm_python="/env/bin/python")
    job.paths.weights = tiny_model_dir
    rejection.work(job)
    rows, tokenizer = list(files.read_jsonl(pool)), load_tokenizer(tiny_model_dir)
    assert [row["answer"] for row in rows[:5]] == [
        tokenizer.decode(ids) for ids in ([100, 101], [100, 102], [100, 103], [100, 104], [101, 101])
    ]
    assert len(rows) == 28 and sum(row["kept"] for row in rows) == 7 and len({row["reward"] for row in rows}) > 14
    how = {"n": 4, "temperature": 1.2, "top_p": 0.9, "max_tokens": 16, "stop_token_ids": [tokenizer.eos_token_id]}
    given = ("/env/bin/python", tiny_model_dir, job.out / "vllm0", 0)
    assert calls == [(given, {"dtype": "float32", "seed": 17}), (17, how), "closed"]
    assert files.read_json(job.out / "facts.json")["sampler"] == "vLLM 0.33.0, merged weights"


@pytest.mark.parametrize("served", [False, True])
def test_a_question_that_cannot_be_answered_is_left_out_and_counted(
    served: bool, make_job: Callable, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """q1 leaves no room for 16 tokens and an end in the context of 512, and vLLM refuses q2; the others go on."""

    class Engine:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def ask(self, prompts: list, _: int, **__: Any) -> list[Any]:
            assert all(len(ids) + 16 <= 512 for _, ids in prompts)
            taken = [vllm_client.Answer([100, 101 + k], "stop", None) for k in range(4)]
            return ["a prompt is not taken" if key == "1:q2" else taken for key, _ in prompts]

        def close(self) -> None: ...

    monkeypatch.setattr(vllm_client, "Engine", Engine)
    monkeypatch.setattr(vllm_client, "check", lambda *_: "0.33.0")
    job, pool = make_job("some", max_source_length=494, vllm_python="/env/bin/python" if served else None)
    job.parameters.questions, job.paths.weights = {"drawn": 7}, tiny_model_dir
    rows = list(files.read_jsonl(job.paths.questions))
    rows[1]["messages"][0]["content"] = "头痛怎么办" * 200
    files.write_jsonl(job.paths.questions, rows)
    rejection.work(job)
    left, facts = ["q0", "q3", "q4", "q5", "q6"], files.read_json(job.out / "facts.json")
    left[1:1] = [] if served else ["q2"]
    assert [row["id"] for row in files.read_jsonl(pool)] == [name for name in left for _ in range(4)]
    assert facts["questions"] == {"drawn": 7, "too_long": 1, "refused": int(served)}
    assert facts["prompts"] == len(left) and facts["answers"] == 4 * len(left)
    assert list(facts["left_out"]) == ["q1", "q2"][: 1 + served] and "512" in facts["left_out"]["q1"]
    assert not served or "a prompt is not taken" in facts["left_out"]["q2"]


def test_a_round_of_which_no_question_can_be_answered_says_why(make_job: Callable) -> None:
    job, _ = make_job("none", max_source_length=600, max_target_length=512)
    with pytest.raises(QilinError, match=r"none of 7 questions .*'q0'.*512.*nearest valid: .*max_target_length"):
        rejection.work(job)


def test_many_processes_share_the_chunks_and_make_the_same_pool(
    make_job: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three ranks one after the other, the first one last: it waits for nobody, and writes what one process writes."""
    expected = sampled(make_job, "alone")
    job, pool = make_job("ranks")
    written = {name: [] for name in ("answers", "rewards")}
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in "210":
        assert not pool.exists()
        monkeypatch.setenv("RANK", rank)
        rejection.work(job)
        for name, counts in written.items():
            counts.append(len(list((job.out / name).iterdir())))
    assert list(files.read_jsonl(pool)) == expected and written == {"answers": [1, 2, 4], "rewards": [1, 2, 4]}


def test_a_reward_that_is_no_number_is_an_error(make_job: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    job, _ = make_job("broken")
    monkeypatch.setattr(reward, "rewards", lambda _, sequences, __: [0.0] * (len(sequences) - 1) + [math.nan])
    with pytest.raises(QilinError, match=r"a reward of \['q0', 'q1'\] is no finite number"):
        rejection.work(job)


# --- a kill -----------------------------------------------------------------------------------------------------------


def test_a_chunk_that_is_not_there_is_drawn_again_alone(make_job: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill leaves finished chunks, and half a file under another name."""
    expected = sampled(make_job, "calm")
    whole = {path.name: path.read_bytes() for path in (make_job("calm")[0].out / "answers").iterdir()}
    assert sorted(whole) == ["0-2.json", "2-4.json", "4-6.json", "6-8.json"]
    asked: list[int] = []
    usual = sampling.sample
    monkeypatch.setattr(sampling, "sample", lambda *a, **k: (asked.append(len(a[2])), usual(*a, **k))[1])
    # The last chunk is one question of four samples.
    for lost, redrawn in (([], 0), ([0, 6], 12)):
        job, pool = make_job("torn" + "".join(map(str, lost)))
        (job.out / "answers").mkdir()
        for name, text in whole.items():
            torn = int(name[0]) in lost
            (job.out / "answers" / (f".{name}.7.tmp" if torn else name)).write_bytes(text[:-9] if torn else text)
        asked.clear()
        rejection.work(job)
        assert list(files.read_jsonl(pool)) == expected and sum(asked) == redrawn


@pytest.mark.parametrize("judged", [False, True])
def test_a_killed_round_goes_on_in_smaller_batches(judged: bool, make_job: Callable) -> None:
    """As after memory ran out: `batch_size` moves no result, so half of the chunks stay as they are."""
    expected = sampled(make_job, "calm")
    job, pool = make_job("smaller", batch_size=4)
    for name in ["answers", "rewards"][: 1 + judged]:
        (job.out / name).mkdir()
        for path in sorted((make_job("calm")[0].out / name).iterdir())[:2]:
            (job.out / name / path.name).write_bytes(path.read_bytes())
    rejection.work(job)
    rows = list(files.read_jsonl(pool))
    same = ("id", "sample", "answer", "kept")
    assert [[row[name] for name in same] for row in rows] == [[row[name] for name in same] for row in expected]
    assert [row["reward"] for row in rows] == pytest.approx([row["reward"] for row in expected], abs=1e-4)


# --- the rounds -------------------------------------------------------------------------------------------------------


def test_two_rounds_chain_and_a_finished_one_is_only_read(
    make_stage: Callable, in_process: list[tuple[str, Path]], corpus: list, tiny_model_dir: Path
) -> None:
    stage, told = make_stage(), []
    facts = rejection.train(stage, told.append)
    folders = [stage.dir / "rejection" / f"round{number}" for number in (1, 2)]
    starts = (stage.run_dir / "04_sft" / "model", folders[0] / "adapter")
    assert in_process == [(module.__name__, start) for start in starts for module in (rejection, sft)]
    assert rejection.last_round(stage.dir) == folders[1]
    by_id = {row["id"]: row for row in corpus}
    for number, (folder, found) in enumerate(zip(folders, facts["rounds"], strict=True), start=1):
        rows, chosen = (list(files.read_jsonl(folder / f"{name}.jsonl")) for name in ("pool", "chosen"))
        kept = [row for row in rows if row["kept"]]
        assert len(rows) == 20 and {row["round"] for row in rows} == {number}
        assert [row["messages"][1]["content"] for row in chosen if row["split"] == "train"] == [
            r["answer"] for r in kept
        ]
        assert [row for row in chosen if row["split"] == "heldout"] == [by_id["held"], by_id["held-general"]]
        for row, made in zip(kept, chosen, strict=False):
            assert made.keys() == by_id[row["id"]].keys() and made["id"] == f"{row['id']}:{row['sample']}"
            assert made["messages"][0] == by_id[row["id"]]["messages"][0]
        pool = found["pool"]
        assert found["examples"] == len(kept) == pool["kept"] and pool["questions"]["drawn"] == 5
        assert pool["reward_best"] >= pool["reward_mean"] and pool["answers"] == 20
        assert files.read_json(folder / "facts.json") == found and not list(folder.glob("sampling/*/*.json"))
        assert len(files.read_json(folder / "heldout.json")["medical"]["before"]) == 1
    assert weights(folders[0]) != weights(folders[1]) != (tiny_model_dir / "model.safetensors").read_bytes()
    drawn = [{row["id"] for row in files.read_jsonl(folder / "pool.jsonl")} for folder in folders]
    assert not drawn[0] & drawn[1] and told == [f"round {number}: goes on" for number in (1, 1, 2, 2)]
    in_process.clear()
    assert rejection.train(stage, told.append) == facts and in_process == []


def weights(folder: Path) -> bytes:
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


def test_answers_that_say_nothing_end_the_round(
    make_stage: Callable, in_process: list[tuple[str, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "sample", lambda _, __, prompts, keys, **___: [[] for _ in prompts])
    with pytest.raises(QilinError, match="none of 20 answers says anything"):
        rejection.train(make_stage(), print)
    assert [module for module, _ in in_process] == [rejection.__name__]


def test_a_template_s_own_words_take_no_room_from_question_and_answer(
    make_stage: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Llama 3.1 and Qwen2.5 write a system turn before every conversation; longer ones would be left out."""
    stage, given, words = make_stage(rounds=1), {}, "You are a helpful assistant. " * 20

    def step(*_: Any, **more: Any) -> dict[str, Any]:
        given.update(more)
        files.write_jsonl(stage.dir / "rejection" / "round1" / "pool.jsonl", [])
        return {"kept": 1, "pool": {}}

    monkeypatch.setattr(jobs, "train_step", step)
    monkeypatch.setattr(rejection, "trained", lambda folder: stage.run_dir / "04_sft" / "model")
    own = Template("own", "问：", "\n", "答：", begin=words)
    files.write_json(stage.parent("02_tokenize") / "base.json", own.described)
    rejection.train(stage, print)
    tokenizer = load_tokenizer(stage.run_dir / "04_sft" / "model")
    assert given["max_length"] > 40 + 16 + len(tokenizer.encode(words, add_special_tokens=False))
