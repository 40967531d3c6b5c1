"""The folder of a server's answers, which processes may share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from qilin_lib.evaluate import server as servers


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
