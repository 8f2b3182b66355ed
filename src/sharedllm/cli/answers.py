"""What commands print of a question and its answer: how far it is, the words, their sources, and what is to be known about them.

Like `common` it loads quickly.
"""

import re
import sys
from collections.abc import Callable
from typing import Any

from ..utils.text_files import harmless
from .common import note, stderr

# Most characters of a source's text that are shown, and least in a narrow terminal.
MOST_SHOWN, LEAST_SHOWN = 300, 40
# Tokens that take long to be read on for a single question.
MANY_READ_ON = 32_768


def reading_line(tell: Callable[[str], None]) -> Callable[[int, int], None]:
    """What `answering` calls while a question is read, to tell it in a line."""
    return lambda done, tokens: tell(f"reading the question: {done:,} of {tokens:,} tokens …")


def choosing_line(tell: Callable[[str], None]) -> Callable[[int], None]:
    """What `answering` calls while it chooses what to read, to tell in a line how much it has read and compared for it."""
    compared = 0

    def progress(tokens: int) -> None:
        nonlocal compared
        compared += tokens
        tell(f"choosing what to read: {compared:,} tokens compared …")

    return progress


def say(text: str, end: str = "\n") -> None:
    """Print a model's words on stdout. A text can make a model repeat sequences that control a terminal: there they are
    escaped."""
    if sys.stdout.isatty():
        text = "".join(part if part in ("\n", "\t") else harmless(part) for part in re.split(r"([\n\t])", text))
    print(text, end=end, flush=True)


def note_cut(cut: bool) -> None:
    """Say so where an answer had to end before its text did."""
    if cut:
        note("The answer is cut: raise --max-new-tokens.", style="yellow")


def show_found(found: bool | None) -> None:
    """Say so where a text seems not to answer the question; see `answering.ask.Chosen`."""
    if found is False:
        note("This may not be in the text: no part of it says much of the question.", style="yellow")


def note_read_on(tokens: int) -> None:
    """Say why much of a text was read on for one question, and how to spare it."""
    from ..scoring.meaning import WHOLE

    if tokens >= MANY_READ_ON:
        note(
            f"{tokens:,} tokens had to be read deeper for this question, because the text has few of its words. The folder of "
            f"a memory of up to {WHOLE:,} tokens keeps that for later questions; a model of `sharedllm extend --encoder` never needs it."
        )


def show_sources(sources: list[dict[str, Any]], about: str) -> None:
    """Print the sources of an answer (see `answering.citations.describe`) on stderr: one line each, of long ones the part that
    says most of a question and its answer, `about`. In a terminal it fits into the width."""
    from ..answering.citations import around

    cut = stderr.is_terminal
    for found in sources:
        characters = f"characters {found['characters'][0]:,}–{found['characters'][1]:,}"
        place = f"{found['document']}, {found['place'] or characters}"
        room = max(LEAST_SHOWN, stderr.width - len(place) - len(": “……”")) if cut else MOST_SHOWN
        excerpt = around(" ".join(found["excerpt"].split()), about, min(room, MOST_SHOWN))
        line = harmless(" ".join(f"{place}: “{excerpt}”".split("\n")))
        stderr.print(
            line,
            style="dim",
            highlight=False,
            markup=False,
            no_wrap=cut or None,
            overflow="ellipsis" if cut else None,
            soft_wrap=not cut,
        )
