"""The embedded sample: hand-written knowledge, rendered into raw folders that look like the real sources."""

from __future__ import annotations

from qilin_lib.sample.render import raw_dir, render

__all__ = ["raw_dir", "render"]
