"""`sharedllm explain`: an answer, and a page that explains it."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..scoring import BUDGET
from ..utils.errors import UserError
from ..utils.files import write_text
from .answers import choosing_line, note_cut, reading_line, say
from .common import (
    BatchTokensOption,
    JsonOption,
    ModelOption,
    NewTokensOption,
    ScoreOption,
    check_not_read,
    check_source,
    note,
    output_file_option,
    print_json,
    status_line,
    stderr,
)

# More sources than `ask` shows, because the page has space.
MOST_SOURCES = 8


def command(
    source: Annotated[
        str, typer.Argument(help="A --keep-all memory, a corpus or its URI, a text file, or - for standard input.")
    ],
    question: Annotated[str, typer.Argument(help="What to ask.")],
    output: Annotated[Path, output_file_option("Page to write.")] = Path("explain.html"),
    model: ModelOption = "tiny",
    budget: Annotated[
        int | None,
        typer.Option(min=1, help=f"Tokens of the text to read, selected for the question. Default: {BUDGET}."),
    ] = None,
    score: ScoreOption = None,
    max_new_tokens: NewTokensOption = None,
    batch_tokens: BatchTokensOption = None,
    json: JsonOption = False,
) -> None:
    """Answer a question, and write one HTML page that shows which parts were read at which stride, scores, attention
    and sources."""
    if output.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"{output} does not end in .html: name it so that a browser opens it.")
    check_source(source)
    check_not_read(output, source)
    from ..answering.ask import ask, checked_score
    from ..answering.asked import checked_question, prompt_of
    from ..explain import gather, render
    from ..memory.interface import lacking
    from ..scoring.defaults import default_budget
    from .loading import config_of, load, open_source

    checked_question(question)
    score = checked_score(config_of(model), score)
    loaded, tokenizer = load(model, source)
    prompt_of(loaded, tokenizer, question, max_new_tokens)
    everything = open_source(loaded, tokenizer, source, batch_tokens, keep_all=True)
    with status_line("choosing what to read, and answering …") as tell:
        size = default_budget(loaded.config) if budget is None else budget
        limits = {"budget": size, "score": score, "max_new_tokens": max_new_tokens, "most_sources": MOST_SOURCES}
        told = {"progress": choosing_line(tell), "reading": reading_line(tell)}
        answer = ask(loaded, tokenizer, everything, question, **told, **limits)
    with stderr.status("collecting what the answer was made of …"):
        facts = gather(loaded, tokenizer, answer, model)
        page = render(facts)
    write_text(output, page)
    if json:
        print_json(**asdict(facts), **lacking(everything))
    else:
        say(answer.text)
        note_cut(answer.cut)
    note(f"{output} ({len(page.encode()) / 1e3:,.0f} KB) shows how: open it in a browser")
