from __future__ import annotations

from collections.abc import Sequence

from qilin_lib.evaluate.replies import Reply


def texts(replies: Sequence[Reply]) -> list[str]:
    """What was written, without how it ended."""
    return [reply.text for reply in replies]
