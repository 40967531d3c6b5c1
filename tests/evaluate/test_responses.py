"""A server's answers: how they end in the words of services, and their folder, which processes may share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.serving import Faulty, serving

from qilin_lib.evaluate import server as servers
from qilin_lib.evaluate.endpoint import EndpointBackend
from qilin_lib.evaluate.prompts import Prompt
from qilin_lib.evaluate.replies import ERROR, LENGTH, STOP
from qilin_lib.schema import Baseline

ENDS = {"model_length": LENGTH, "model_context_window_exceeded": LENGTH, "sensitive": ERROR, "end_turn": STOP}


@pytest.mark.parametrize("finish", ENDS)
def test_services_have_their_own_words_for_an_end(finish: str, tmp_path: Path) -> None:
    with serving(Faulty()) as server:
        server.reply = lambda *_: (200, {"choices": [{"message": {"content": "多休"}, "finish_reason": finish}]})
        backend = EndpointBackend(Baseline(model="m", endpoint=server.url, template="chat"), 1, tmp_path)
        (reply,) = backend.generate([Prompt([{"role": "user", "content": "q"}], "", [], "", 0, False)], 5)
    assert (reply.text, reply.finish) == ("多休", ENDS[finish])


def test_two_processes_share_the_folder(tmp_path: Path) -> None:
    program = (
        "import sys; from qilin_lib.evaluate.server import keep\n"
        "from pathlib import Path\n"
        "for n in range(60): keep(Path(sys.argv[1]), {'q': n % 3}, {'text': 'long ' * 9999 + str(n % 3)})"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    writers = [subprocess.Popen(command) for _ in range(2)]
    read = 0
    while any(writer.poll() is None for writer in writers):
        for n in range(3):
            answer = servers.kept(tmp_path, {"q": n})
            read += answer is not None
            assert answer is None or answer["text"].endswith(f"long {n}")
    assert [writer.wait() for writer in writers] == [0, 0] and read > 3
    assert len(list(tmp_path.iterdir())) == 3, "no temporary file stays"
