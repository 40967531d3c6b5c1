"""SFT's conversations among DCPT's documents: which, in what words, and that their blocks are trained on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from qilin_lib import files, runs
from qilin_lib.errors import QilinError
from qilin_lib.tokens.pack import load_blocks, pack
from qilin_lib.train import running_text
from qilin_lib.train.methods import dcpt

ASKED, ANSWERED = {"role": "user", "content": "头痛怎么办"}, {"role": "assistant", "content": "多休息"}
ROWS = [
    {"id": str(n), "source": "a", "split": "heldout" if n < 2 else "train", "messages": [ASKED, ANSWERED]}
    for n in range(12)
]


def test_a_seeded_share_of_what_is_held_out_nowhere_is_drawn() -> None:
    half = running_text.drawn(ROWS, {"5"}, 0.5, 1)
    assert half == running_text.drawn(ROWS, {"5"}, 0.5, 1) != running_text.drawn(ROWS, {"5"}, 0.5, 2)
    assert len(half) == 4 and {row["id"] for row in half} <= {str(n) for n in range(2, 12)} - {"5"}
    assert len(running_text.drawn(ROWS, {"5"}, 1.0, 1)) == 9


def test_a_conversation_is_written_as_01_writes_it() -> None:
    assert running_text.text([ASKED, ANSWERED]) == "头痛怎么办\n多休息"
    assert running_text.text([ASKED, ANSWERED, ASKED]) == "患者：头痛怎么办\n医生：多休息\n患者：头痛怎么办"


@pytest.fixture
def stage(tmp_path: Path) -> SimpleNamespace:
    files.write_jsonl(tmp_path / "01_build_chimed" / "sft.jsonl", ROWS)
    files.write_json(tmp_path / "02_tokenize" / "packing.json", {"block_size": 16, "packing": "isolated"})
    for name, held in (("cpt", [{"id": "5"}]), ("general", [])):
        files.write_jsonl(tmp_path / "02_tokenize" / f"{name}_heldout.jsonl", held)
    (tmp_path / "03_dcpt").mkdir()
    parameters = SimpleNamespace(instructions_as_text=1.0, seed=1)
    return SimpleNamespace(
        parent=lambda name: tmp_path / name, dir=tmp_path / "03_dcpt", parameters=parameters, run=runs.Run(tmp_path)
    )


def test_their_blocks_hold_every_token_once(stage: SimpleNamespace, tiny_model_dir: Path, tiny_tokenizer) -> None:
    made = load_blocks(running_text.prepare(stage, tiny_model_dir))
    said = files.read_json(stage.dir / "instructions.json")
    ids = tiny_tokenizer("头痛怎么办\n多休息", add_special_tokens=False)["input_ids"]
    assert said["conversations"] == 9 and said["of"] == 12 and said["tokens"] == 9 * len(ids)
    assert made.ids.ravel()[: len(ids) + 1].tolist() == [*ids, tiny_tokenizer.eos_token_id]
    assert made.useful_tokens == said["tokens_with_loss"]
    stage.parameters.instructions_as_text = 0.01
    (stage.dir / "instructions.npy").unlink()
    with pytest.raises(QilinError, match="none of the 12 conversations .* nearest valid: 0.0"):
        running_text.prepare(stage, tiny_model_dir)


def test_both_are_read_as_one() -> None:
    one, other = (pack([[n] * 5 for n in numbers], 4, 0, 0) for numbers in ((1, 2), (3,)))
    both = running_text.joined(one, other)
    whole = np.concatenate([one.ids, other.ids])
    assert np.array_equal(both.ids[[len(whole) - 1, 0]], whole[[-1, 0]]) and np.array_equal(both.ids[1:4], whole[1:4])
    assert np.array_equal(list(both.ids), whole)
    assert dcpt.learnable(both) == list(range(len(whole)))
    assert dcpt.stack([0, len(whole) - 1], both)["labels"].shape == (2, 4)
