"""A chat box for a notebook: ipywidgets where a kernel runs, a first exchange that stands without one."""

from __future__ import annotations

from typing import Any

from qilin_lib import runs
from qilin_lib.errors import QilinError
from qilin_lib.evaluate.conversation import DISCLAIMER, Chat, load, told_forgotten
from qilin_lib.models.names import describe_run
from qilin_lib.report.case_study import box, plain
from qilin_lib.report.markup import CASE_STYLE, Html, escape, styled

# What the notebook asks when nobody is there to type.
FIRST_QUESTION = "您好，我最近经常头痛，应该注意什么？"


def widget(stage: runs.Stage, name: str | None = None) -> Html:
    """Show a chat box with the last training or `name`, and return a first exchange, with a fixed question, that stands
    without it."""
    import ipywidgets as widgets
    from IPython.display import display

    name = name or stage.parameters.chain[-1]
    chat, caption = Chat(load(stage.run_dir.name, name)), describe_run(stage)["names"][name]
    opened = _exchange(chat, caption, FIRST_QUESTION)
    text = widgets.Text(placeholder="a message, then Enter", continuous_update=False, layout={"width": "auto"})
    send, reset = widgets.Button(description="Send"), widgets.Button(description="Reset")
    shown = widgets.HTML(_conversation([]))
    said: list[str] = []

    def exchange(_: Any) -> None:
        asked, text.value = text.value.strip(), ""
        if asked:
            said.append(_exchange(chat, caption, asked))
            shown.value = _conversation(said)

    def forget(_: Any) -> None:
        chat.reset()
        said.clear()
        shown.value = _conversation(said)

    # Enter changes the value; so does leaving the field for the button, which then finds it empty.
    text.observe(exchange, "value")
    send.on_click(exchange)
    reset.on_click(forget)
    display(widgets.VBox([shown, text, widgets.HBox([send, reset])]))
    return Html(_conversation([opened]))


def _exchange(chat: Chat, name: str, asked: str) -> str:
    try:
        answer, forgotten = chat.say(asked)
    except QilinError as error:
        return box("you", plain(asked)) + box("error", plain(str(error)))
    return box("you", plain(asked)) + box(name, plain(answer), told_forgotten(forgotten))


def _conversation(said: list[str]) -> Html:
    head = f'<div class="head">{escape(DISCLAIMER)}</div>'
    return styled(CASE_STYLE, f'<div class="qm-case">{head}{"".join(said)}</div>')
