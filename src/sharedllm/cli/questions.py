"""`sharedllm questions`: question–answer samples over long documents, made from any text."""

import json as jsonlib
import random
from pathlib import Path
from typing import Annotated

import typer

from ..data.questions import MIX, QUESTIONS
from ..utils.errors import UserError
from ..utils.files import write_text
from ..utils.text_files import check_file, expand, read_text
from .common import JsonOption, check_model, check_not_read, output_file_option, print_json, progress_bar


def command(
    files: Annotated[list[str], typer.Argument(help="Text files, globs, or - for standard input.")],
    output: Annotated[Path, output_file_option("JSON-lines file to write.")],
    task: Annotated[
        list[str] | None, typer.Option(help=f"Kinds of questions: {QUESTIONS.names}. Default: {', '.join(MIX)}.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Number of samples.")] = 100,
    tokens: Annotated[int, typer.Option(min=64, help="Length of each context.")] = 4096,
    tokenizer: Annotated[
        str, typer.Option(callback=check_model, help="Folder, hub id, or name of a bundled model.")
    ] = "tiny",
    split: Annotated[str, typer.Option(help="train, validation or test: keys and phrasings differ.")] = "train",
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same samples.")] = 0,
    json: JsonOption = False,
) -> None:
    """Hide facts in pieces of the files and ask for them. Each record holds context, question and answer."""
    if split not in ("train", "validation", "test"):
        raise UserError(f"--split {split!r} is not known: use train, validation or test.")
    names = expand(files)
    for name in names:
        check_file(name)
        check_not_read(output, name)
    from ..data.questions.base import hide, sentence_borders
    from ..utils.checkpoints import load_tokenizer
    from ..utils.text import tokenize
    from .loading import quiet

    quiet()
    tasks = [QUESTIONS.find(name) for name in task or MIX]
    loaded = load_tokenizer(tokenizer)
    texts = [(file, tokenize(loaded, read_text(file))[0].numpy()) for file in names]
    long = [(file, ids) for file, ids in texts if len(ids) >= tokens]
    if not long:
        raise UserError(
            f"no file has {tokens:,} tokens, the longest has {max(len(i) for _, i in texts):,}: lower --tokens."
        )
    rng, records = random.Random(seed), []
    with progress_bar("asking", count) as advance:
        for number in range(count):
            file, ids = rng.choice(long)
            start = rng.randrange(len(ids) - tokens + 1)
            filler = ids[start : start + tokens]
            chosen = tasks[number % len(tasks)]
            quiz = chosen.make(rng, loaded.decode(filler), split)
            facts = [tokenize(loaded, fact)[0].numpy() for fact in quiz.facts]
            context = hide(rng, filler, facts, tokens, sentence_borders(loaded, filler))
            records.append(
                {
                    "id": number,
                    "task": chosen.name,
                    "context": loaded.decode(context),
                    "question": quiz.question,
                    "lead": quiz.lead,
                    "answer": quiz.answer,
                    "source": file,
                    "seed": seed,
                }
            )
            advance(1)
    write_text(output, "".join(jsonlib.dumps(record, ensure_ascii=False) + "\n" for record in records))
    by_task = {t.name: sum(r["task"] == t.name for r in records) for t in tasks}
    if json:
        print_json(output=str(output), samples=len(records), by_task=by_task)
    else:
        print(f"{output}: {len(records)} samples, " + ", ".join(f"{n} {name}" for name, n in by_task.items()))
