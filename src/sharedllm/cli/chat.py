"""`sharedllm chat`: questions one after the other over a memory or a text file."""

import sys
from typing import Annotated

import typer

from ..scoring import BUDGET, CHAT_SCORES
from ..utils.errors import UserError
from .common import SCORE_HELP, BatchTokensOption, ModelOption, check_source


def command(
    source: Annotated[str, typer.Argument(help="A memory made with --keep-all, a corpus or its URI, or a text file.")],
    model: ModelOption = "tiny",
    budget: Annotated[
        int | None,
        typer.Option(min=1, help=f"Tokens of text and chat read for each question. Default: {BUDGET}."),
    ] = None,
    score: Annotated[str | None, typer.Option(help=f"{SCORE_HELP} Default: {CHAT_SCORES}.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 128,
    instruction: Annotated[
        str, typer.Option(help="How to answer each question. Default: none, so chat models use whole sentences.")
    ] = "",
    batch_tokens: BatchTokensOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line for each turn.")] = False,
) -> None:
    """Chat over a text: each question selects from the text and the chat. From a pipe, one question per line."""
    if sys.stdin is None:
        raise UserError("standard input is closed: pipe the questions in, one per line, or ask at a terminal.")
    if source == "-":
        raise UserError("standard input is for the questions: name a memory or a text file.")
    check_source(source)
    from ..answering.ask import checked_score
    from ..answering.chat import Chat
    from .loading import config_of, load, open_source
    from .talking import talk

    if score is not None:
        checked_score(config_of(model), score)
    loaded, tokenizer = load(model, source)
    document = open_source(loaded, tokenizer, source, batch_tokens, keep_all=True)
    chat = Chat(
        loaded,
        tokenizer,
        document,
        budget=budget,
        score=score,
        max_new_tokens=max_new_tokens,
        instruction=instruction,
        batch_tokens=batch_tokens,
    )
    talk(chat, source, json)
