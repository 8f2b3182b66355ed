"""`sharedllm calibrate`: choose the heads whose attention decides how a budget is spent."""

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ..utils.errors import UserError
from ..utils.files import write_text
from ..utils.text_files import check_file, text_pieces
from .common import BatchTokensOption, JsonOption, check_model, note, print_json, progress_bar


def command(
    model: Annotated[
        str, typer.Argument(help="Folder of a SharedLLM with a joint softmax; its config.json is changed.")
    ],
    data: Annotated[str, typer.Option("--data", help="A text file in which facts are hidden.")],
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of the text to use.")] = 32_768,
    questions: Annotated[int, typer.Option(min=1, help="Number of facts.")] = 32,
    most: Annotated[int, typer.Option(min=1, help="Most heads to choose.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Seed of facts and places.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the result without changing anything.")] = False,
    batch_tokens: BatchTokensOption = None,
    json: JsonOption = False,
) -> None:
    """Hide facts in a text, ask for them, and let the heads that find them decide how a --budget is spent."""
    check_file(data)
    check_model(model)
    import torch

    from ..diagnosis.heads import choose_heads, measure_heads
    from ..utils.text import tokenize_piece
    from .loading import load

    loaded, tokenizer = load(model)
    if not dry_run and not (Path(model) / "config.json").is_file():
        raise UserError(f"{model} is not a folder with a config.json: save the model to a folder, or use --dry-run.")
    ids = torch.zeros(0, dtype=torch.long)
    for piece in text_pieces(data):
        ids = torch.cat([ids, tokenize_piece(tokenizer, piece)[0]])
        if len(ids) >= tokens:
            break
    if len(ids) < tokens:
        raise UserError(
            f"{data} has {len(ids):,} tokens, --tokens asks for {tokens:,}: lower it, or name a longer text."
        )
    with progress_bar("asking", questions) as advance:
        heads = measure_heads(
            loaded, tokenizer, ids[:tokens], questions=questions, seed=seed, batch_tokens=batch_tokens, progress=advance
        )
    chosen = choose_heads(heads, most)
    if not dry_run:
        # Nothing else in it changes, not even the dtype in which this machine loads the model.
        path = Path(model) / "config.json"
        content = jsonlib.loads(path.read_text(encoding="utf-8")) | {"selection_heads": chosen}
        write_text(path, jsonlib.dumps(content, indent=2) + "\n")
    if json:
        print_json(selection_heads=chosen, heads=[vars(head) for head in heads])
        return
    table = Table("layer", "head", "score", "worst rank", title=f"{questions} facts in {tokens:,} tokens")
    for head in heads[: 2 * most]:
        mark = [head.layer, head.head] in [entry[:2] for entry in chosen]
        cells = str(head.layer), str(head.head), f"{head.score:.3f}", f"{head.worst:,}"
        table.add_row(*cells, style="bold" if mark else "dim")
    Console().print(table)
    if not dry_run:
        note(f"wrote {path}: {len(chosen)} heads selected")
