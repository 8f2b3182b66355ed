"""`sharedllm chat`: questions one after the other over a memory or a text file."""

import contextlib
import json as jsonlib
import sys
import time
from collections.abc import Iterator
from typing import Annotated

import typer

from ..answering.ask import checked_score
from ..answering.chat import CHAT_SCORES, Chat, Turn
from ..scoring import SCORES
from ..utils.errors import UserError
from .common import BatchTokensOption, ModelOption, everything_of, load, note, show_sources, stderr


def command(
    source: Annotated[str, typer.Argument(help="A memory made with --keep-all, or a text file.")],
    model: ModelOption = "tiny",
    budget: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens read for each question, of the text and the chat; default: the window."),
    ] = None,
    score: Annotated[
        str | None, typer.Option(help=f"What a budget goes by: {SCORES.names}. Default: {CHAT_SCORES}.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 128,
    batch_tokens: BatchTokensOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line for each turn.")] = False,
) -> None:
    """Chat over a text: each question selects what it reads of it and of the chat. From a pipe, one question a line."""
    if sys.stdin is None:
        raise UserError("standard input is closed: pipe the questions in, one a line, or ask at a terminal.")
    if source == "-":
        raise UserError("standard input brings the questions: name a memory or a text file.")
    loaded, tokenizer = load(model)
    if score is not None:
        checked_score(loaded, score)
    document = everything_of(loaded, tokenizer, source, batch_tokens)
    options = {"budget": budget, "score": score, "max_new_tokens": max_new_tokens, "batch_tokens": batch_tokens}
    chat = Chat(loaded, tokenizer, document, **options)
    interactive = sys.stdin.isatty()
    if interactive:
        reads = min(chat.budget, chat.tokens)
        note(f"{source}: {chat.tokens:,} tokens, of which each question reads {reads:,}.", "dim")
        note("Ctrl-C stops an answer; /exit or Ctrl-D leaves.", "dim")
    for number, line in enumerate(_typed() if interactive else sys.stdin.buffer, 1):
        try:
            question = _decoded(line)
            if question == "/exit":
                break
            if question:
                start = time.perf_counter()
                turn = _answer(chat, question, json)
                _show(chat, turn, json, time.perf_counter() - start)
        except UserError as error:
            if not interactive:
                raise UserError(f"line {number}: {error}") from None
            note(f"error: {error}")
        except KeyboardInterrupt:
            if not interactive:
                raise
            stderr.print("stopped", style="dim")


def _decoded(line: bytes) -> str:
    try:
        return line.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise UserError(
            f"the question is not UTF-8: byte {error.start} is 0x{line[error.start]:02x}; convert it."
        ) from None


def _typed() -> Iterator[bytes]:
    """Lines typed at a terminal, with a prompt that never gets among the answers."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 (gives input() a history and editing)
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
    """Ask, showing the answer as it comes."""
    if json:
        return chat.ask(question)
    status = stderr.status("reading") if stderr.is_terminal else contextlib.nullcontext()
    with contextlib.ExitStack() as until_it_speaks:
        until_it_speaks.enter_context(status)

        def show(text: str) -> None:
            until_it_speaks.close()
            print(text, end="", flush=True)

        turn = chat.ask(question, show)
    print(flush=True)
    return turn


def _show(chat: Chat, turn: Turn, json: bool, seconds: float) -> None:
    if json:
        record = {
            "question": turn.question,
            "answer": turn.answer,
            "stopped": turn.stopped,
            "context_tokens": chat.tokens,
            "history_tokens": int(chat.history.lengths[0]) if chat.history is not None else 0,
            "running_tokens": turn.running,
            "budget": chat.budget,
            "score": chat.score.name,
            "seconds": round(seconds, 3),
            "sources": turn.sources,
        }
        print(jsonlib.dumps(record), flush=True)
    else:
        show_sources(turn.sources)
    if turn.stopped:
        raise KeyboardInterrupt
