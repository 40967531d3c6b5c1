"""Talk to a trained stage of a run: `python -m qilin_lib.chat RUN [--stage dpo]`.

Several turns, in the template the model was trained with, greedy unless --temperature is given. /reset forgets the
conversation; /exit, Ctrl-D and Ctrl-C end it. With --once the whole of standard input is one message, and its answer
alone is written. Research only, not for clinical use.
"""

from __future__ import annotations

import argparse
import sys

from qilin_lib.errors import QilinError, visible
from qilin_lib.evaluate.conversation import Chat, Sampling, converse, found_in, load
from qilin_lib.models.names import STAGES


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m qilin_lib.chat", description=__doc__)
    parser.add_argument("run", help="a folder of runs/, e.g. smoke")
    parser.add_argument("--stage", default="dpo", help=f"{', '.join(STAGES)} (default: dpo)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 = greedy (default)")
    parser.add_argument("--top-p", type=float, default=1.0, help="share of probability to draw from (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: 0)")
    parser.add_argument(
        "--max-new-tokens", type=int, help="of one answer (default: 256, at most a quarter of the context)"
    )
    parser.add_argument(
        "--retrieval", type=int, metavar="K", help="put K passages of the run's ChiMed before a message"
    )
    parser.add_argument("--once", action="store_true", help="answer standard input as one message, and end")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The terminal session; returns the exit code. 2: the call was wrong."""
    options = _parser().parse_args(arguments)
    try:
        sampling = Sampling(options.temperature, options.top_p, options.seed)
        if not options.once:
            print(f"loading {options.stage} of run {options.run} …", flush=True)
        search = found_in(options.run, options.retrieval) if options.retrieval is not None else None
        chat = Chat(load(options.run, options.stage), sampling, options.max_new_tokens, search=search)
        # Bytes that are not UTF-8 are text that the model does not know, and no error.
        sys.stdin.reconfigure(errors="surrogateescape")
        if options.once:
            print(visible(chat.say(sys.stdin.read())[0]))
            return 0
    except QilinError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    if sys.stdin.isatty():
        # Line editing for input(), which needs no more than this import.
        import readline  # noqa: F401

    converse(chat, input, lambda piece: print(piece, end="", flush=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
