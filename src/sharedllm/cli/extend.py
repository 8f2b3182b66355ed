"""`sharedllm extend`: make a SharedLLM of a base checkpoint, ready to be trained."""

from pathlib import Path
from typing import Annotated

import typer

from ..causal_lm import SharedLLMForCausalLM
from ..context.policies import POLICIES
from ..utils.checkpoints import checkpoint, load_tokenizer
from ..utils.errors import UserError
from .common import JsonOption, note, print_json, quiet


def numbers(field: str, text: str) -> list[int]:
    try:
        return [int(n) for n in text.split(",")]
    except ValueError:
        raise UserError(f"--{field} {text!r} must be whole numbers with commas, such as 16,8,4.") from None


def pairs(text: str) -> list[list[int]]:
    try:
        return [[int(n) for n in pair.split(":", 1)] for pair in text.split(",") if ":" in pair or int("")]
    except ValueError:
        raise UserError(f"--injection-map {text!r} must be lower:upper pairs, such as 0:0,1:1,3:5.") from None


def command(
    base: Annotated[str, typer.Argument(help="Folder or hub id of a causal language model.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write.")],
    window: Annotated[int | None, typer.Option(help="W, tokens of running text; default: the base's.")] = None,
    chunk_size: Annotated[int, typer.Option(help="C, tokens a chunk.")] = 1024,
    strides: Annotated[str, typer.Option(help="Strides of the tree's levels, coarse to fine.")] = "16,8,4",
    ratios: Annotated[str | None, typer.Option(hidden=True)] = None,  # what --strides was called
    lower_layers: Annotated[int, typer.Option(help="M, bottom layers that read the context.")] = 4,
    injection_map: Annotated[str | None, typer.Option(help="lower:upper pairs; default i:i for all i < M.")] = None,
    injection: Annotated[
        str, typer.Option(help="cross (after the paper) or joint (one softmax, no training needed).")
    ] = "cross",
    encoding: Annotated[str, typer.Option(help="node or chunk.")] = "node",
    overlap: Annotated[int, typer.Option(help="Tokens before a chunk that are read with it, for encoding chunk.")] = 0,
    lower_weights: Annotated[str, typer.Option(help="shared or copy.")] = "shared",
    selection: Annotated[str, typer.Option(help=f"{POLICIES.names}.")] = "right",
    json: JsonOption = False,
) -> None:
    """Extend a base checkpoint. With cross-attention its logits are the base's to the bit until it is trained."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} exists and is not an empty folder: choose another one.")
    settings = {
        "window": window,
        "chunk_size": chunk_size,
        "strides": numbers("strides", ratios or strides),
        "lower_layers": lower_layers,
        "injection_map": pairs(injection_map) if injection_map is not None else None,
        "injection": injection,
        "encoding": encoding,
        "overlap": overlap,
        "lower_weights": lower_weights,
        "selection": selection,
    }
    quiet()
    base = checkpoint(base)
    model = SharedLLMForCausalLM.from_base(base, **settings)
    model.save_pretrained(output)
    try:
        load_tokenizer(base).save_pretrained(output)
    except UserError:
        note(f"{base} has no tokenizer: add one to {output} before reading text.", style="yellow")
    count = sum(p.numel() for p in model.parameters())
    new = sum(p.numel() for n, p in model.named_parameters() if ".injection." in n or "lower_layers" in n)
    if json:
        print_json(model=str(output), parameters=count, new_parameters=new)
    else:
        note(f"wrote {output}: {count:,} parameters, {new:,} of them new")
