"""A chat box for a notebook: no model is loaded before the first message."""

from __future__ import annotations

from typing import Any

from qilin_lib import runs
from qilin_lib.errors import QilinError
from qilin_lib.evaluate.conversation import DISCLAIMER, Chat, load, told_forgotten
from qilin_lib.models.names import describe_run, places
from qilin_lib.report.markup import Box, card


def widget(stage: runs.Stage) -> Any:
    """The box: the conversation, a menu of the run's finished stages, a field, Send and Reset."""
    import ipywidgets as widgets

    names, folders = describe_run(stage)["names"], places(stage.run.chain)
    names = {model: name for model, name in names.items() if stage.run.finished(folders[model])}
    which = widgets.Dropdown(options=[(name, model) for model, name in names.items()], value=list(names)[-1])
    text = widgets.Text(placeholder="a message, then Enter", continuous_update=False, layout={"width": "auto"})
    send, reset = widgets.Button(description="Send"), widgets.Button(description="Reset")
    shown, told, chats = widgets.HTML(), [], {}

    def show() -> None:
        shown.value = card(DISCLAIMER, told)._repr_html_()

    def exchange(_: Any) -> None:
        asked, text.value = text.value.strip(), ""
        if not asked:
            return
        told.append(Box("you", asked))
        try:
            if which.value not in chats:
                chats.clear()
                chats[which.value] = Chat(load(stage.run_dir.name, which.value))
            answer, forgotten = chats[which.value].say(asked)
            told.append(Box(names[which.value], answer, told_forgotten(forgotten)))
        except QilinError as error:
            told.append(Box("error", str(error)))
        show()

    def forget(_: Any) -> None:
        chats.clear()
        told.clear()
        show()

    # Enter changes the value; so does leaving the field for the button, which then finds it empty.
    text.observe(exchange, "value")
    which.observe(forget, "value")
    send.on_click(exchange)
    reset.on_click(forget)
    show()
    return widgets.VBox([shown, which, text, widgets.HBox([send, reset])])
