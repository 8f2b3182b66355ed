"""The questions of `sharedllm chat`, typed or piped in, and the output for each."""

import codecs
import contextlib
import io
import json as jsonlib
import re
import sys
import time
from collections.abc import Iterator

import typer

from ..answering.chat import Chat, Turn
from ..memory.interface import lacking
from ..utils.errors import UserError
from .answers import choosing_line, note_cut, reading_line, say, show_found, show_sources
from .common import note, status_line, stderr

KEYS = "Ctrl-C stops an answer; /exit or Ctrl-D leaves."


def talk(chat: Chat, source: str, json: bool) -> None:
    """Answer each question of standard input until it ends. One that can't be answered is named in a line, and the next follows.

    Args:
        source: the text of the chat, as named by the user. json: print one object per line for each turn.

    Raises:
        typer.Exit: with code 2, at the end, if a piped question could not be answered.
        UserError: standard output is closed.
    """
    interactive, failed = sys.stdin.isatty(), 0
    print(end="")  # if standard output is closed, no question is worth the time
    if interactive:
        reads = min(chat.budget, chat.tokens)
        note(f"{source}: {chat.tokens:,} tokens, of which each question reads {reads:,}.", "dim")
        note(KEYS, "dim")
    for number, line in enumerate(_typed() if interactive else sys.stdin.buffer, 1):
        try:
            # Some programs put a byte order mark before the first line.
            question = _decoded(line.removeprefix(codecs.BOM_UTF8) if number == 1 else line)
            if question in ("/exit", "/quit"):
                break
            if question in ("/help", "/?"):
                note(KEYS, "dim")
                continue
            if re.fullmatch("/[a-z]+", question):
                raise UserError(f"{question} is no command: use /help or /exit.")
            if question:
                start = time.perf_counter()
                turn = _answer(chat, question, json)
                _show(chat, turn, json, number, time.perf_counter() - start)
        except UserError as error:
            where = "" if interactive else f"line {number}: "
            note(f"error: {where}{error}")
            if json:
                print(jsonlib.dumps({"line": number, "error": str(error)}), flush=True)
            failed += 1
        except KeyboardInterrupt:
            if not interactive:
                raise
            stderr.print("stopped", style="dim")
    if failed and not interactive:
        raise typer.Exit(2)


def _decoded(line: bytes) -> str:
    try:
        return line.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise UserError(
            f"the question is not UTF-8: byte {error.start} is 0x{line[error.start]:02x}; convert it."
        ) from None


def _typed() -> Iterator[bytes]:
    """Lines typed at a terminal, with a prompt that never mixes with the answers."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 (gives input() a history and editing)
    if isinstance(sys.stdin, io.TextIOWrapper):
        # Bytes that are not UTF-8 are told of below, as from a pipe; a terminal's stream would raise.
        sys.stdin.reconfigure(errors="surrogateescape")
    while True:
        try:
            if sys.stdout.isatty():
                line = input("> ")
            else:
                stderr.print("> ", end="")
                line = sys.stdin.readline()
                if not line:
                    raise EOFError
        except EOFError:
            stderr.print()
            return
        except KeyboardInterrupt:
            stderr.print()
            continue
        yield line.encode("utf-8", "surrogateescape")


def _answer(chat: Chat, question: str, json: bool) -> Turn:
    """Ask, showing how far it is chosen what to read and the question is read, and the answer as it is generated."""
    with contextlib.ExitStack() as until_it_speaks:
        tell = until_it_speaks.enter_context(status_line("reading"))
        told = {"progress": choosing_line(tell), "reading": reading_line(tell)}
        if json:
            return chat.ask(question, **told)

        def show(text: str) -> None:
            until_it_speaks.close()
            say(text, end="")

        turn = chat.ask(question, show, **told)
    print(flush=True)
    return turn


def _show(chat: Chat, turn: Turn, json: bool, line: int, seconds: float) -> None:
    if json:
        record = {
            "line": line,
            "question": turn.question,
            "answer": turn.answer,
            "stopped": turn.stopped,
            "cut": turn.cut,
            "context_tokens": chat.tokens,
            "selected_tokens": int(turn.memory.kept[0]),
            "history_tokens": int(chat.history.lengths[0]) if chat.history is not None else 0,
            "running_tokens": turn.running,
            "budget": chat.budget,
            "score": chat.score_name,
            "seconds": round(seconds, 3),
            "sources": turn.sources,
            "found": turn.found,
        } | lacking(chat.document)
        print(jsonlib.dumps(record), flush=True)
    else:
        show_found(turn.found)
        note_cut(turn.cut)
        show_sources(turn.sources, f"{turn.question} {turn.answer}")
    if turn.stopped:
        raise KeyboardInterrupt
