"""One line that says how far a long call is, replaced in place."""

from __future__ import annotations

from collections.abc import Callable

Show = Callable[[str], None]
FINISHED = "finished before: read from the run's folder"
"""What a call says that has nothing to do."""


def live_line() -> Show:
    """A `show(text)` for notebooks; plain prints outside IPython."""
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        return print
    if get_ipython() is None:
        return print
    handle = display({"text/plain": "starting …"}, raw=True, display_id=True)
    return lambda text: handle.update({"text/plain": text}, raw=True)
