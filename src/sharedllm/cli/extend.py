"""`sharedllm extend`: make a SharedLLM from a base checkpoint, ready for questions or, with --paper, for training."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..context.policies import POLICIES
from ..utils.errors import UserError
from ..utils.text_files import check_file
from .common import JsonOption, check_model, note, output_option, print_json
from .injections import DEFAULTS, Injection, default


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


def check_together(
    injection: Injection, other: str, questions: str, lower_layers: int | None, data: str | None, encoder: str | None
) -> None:
    """Refuse what only injection deep has, with another one. other: the option that asks for that one.

    Raises:
        UserError: two options contradict each other.
    """
    deep = injection == "deep"
    if questions == "many" and (lower_layers is not None or not deep):
        wrong = [*([] if deep else [other]), *(["--lower-layers"] if lower_layers is not None else [])]
        raise UserError(f"--questions many means all layers, and injection deep: leave out {' and '.join(wrong)}.")
    if data is not None and not deep:
        raise UserError(
            f"--data {data} is for measuring the base, and {other} measures nothing: leave one of them out."
        )
    if encoder is not None and not deep:
        raise UserError(
            f"--encoder {encoder} ranks what a model with injection deep reads, and {other} makes another one: leave one of them out."
        )


def command(
    base: Annotated[
        str, typer.Argument(callback=check_model, help="Folder or hub id of a causal language model, or a .gguf file.")
    ],
    output: Annotated[Path, output_option("Folder to write.")],
    paper: Annotated[
        bool,
        typer.Option("--paper", help="The paper's: --injection cross, which has no effect until it is trained."),
    ] = False,
    questions: Annotated[
        Literal["few", "many"],
        typer.Option(
            help="How often a text is asked: few, it is read no deeper than necessary; many, more than once for every 300 "
            "of its tokens, through all layers, which makes a question the cheapest, but alike facts are mistaken more often."
        ),
    ] = "few",
    adapter: Annotated[
        Path | None,
        typer.Option(help="Folder of an adapter that `train` wrote for this base; it brings all settings with it."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Text file for measuring the base (deep); default: prose that comes with Python."),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Sentence encoder (deep), a folder or hub id such as sentence-transformers/all-MiniLM-L6-v2: finds what a question "
            "means in long texts. It is copied into the model's folder, and reads texts too."
        ),
    ] = None,
    window: Annotated[int | None, typer.Option(help="W, tokens of running text; default: the base's.")] = None,
    chunk_size: Annotated[int | None, typer.Option(help=f"C, tokens per chunk. {default('chunk_size')}")] = None,
    strides: Annotated[str, typer.Option(help="Strides of the tree's levels, coarse to fine.")] = "16,8,4",
    ratios: Annotated[str | None, typer.Option(hidden=True)] = None,  # old name of --strides
    lower_layers: Annotated[
        int | None, typer.Option(help=f"M, bottom layers that read the context. {default('lower_layers')}")
    ] = None,
    injection_map: Annotated[str | None, typer.Option(help="lower:upper pairs; default i:i for all i < M.")] = None,
    injection: Annotated[
        Injection | None,
        typer.Option(
            help="deep (selected tokens are read through all layers; the default), joint (one softmax over text read "
            "through M layers) or cross (the paper's)."
        ),
    ] = None,
    encoding: Annotated[
        Literal["chunk", "node"] | None,
        typer.Option(
            help=f"Whether a chunk is read once, or each of its nodes alone, which can't keep every token. {default('encoding')}"
        ),
    ] = None,
    overlap: Annotated[int, typer.Option(help="Tokens before a chunk that are read with it, for encoding chunk.")] = 0,
    lower_weights: Annotated[
        Literal["shared", "copy"], typer.Option(help="Whether the context is read by the base's layers or by a copy.")
    ] = "shared",
    selection: Annotated[str, typer.Option(help=f"Which parts stay fine: {POLICIES.names}.")] = "right",
    json: JsonOption = False,
) -> None:
    """Extend a base checkpoint, so that it reads texts of any length and answers questions about them without training.

    The necessary reading depth and the heads that find answers are measured for injection deep, in a minute or two. With
    --paper the logits equal the base's to the bit until the model is trained.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} exists and is not an empty folder: choose another one.")
    if paper and injection not in (None, "cross"):
        raise UserError(
            f"--paper means --injection cross, but --injection {injection} is given: leave one of them out."
        )
    if adapter is not None:
        own = (window, chunk_size, lower_layers, injection_map, injection, encoding, data, ratios, encoder)
        if paper or overlap or any(value is not None for value in own):
            raise UserError("--adapter brings all settings with it: leave the other options out.")
        from .extending import adapted, parameters, save

        model, tokenizer, card = adapted(base, adapter, output)
        save(model, tokenizer, card, output)
        count = parameters(model)
        if json:
            print_json(model=str(output), parameters=count)
        else:
            note(f"wrote {output}: {base} with {adapter}, {count:,} parameters")
        return
    asked, injection = injection, injection or ("cross" if paper else "deep")
    check_together(injection, "--paper" if paper else f"--injection {asked}", questions, lower_layers, data, encoder)
    POLICIES.check(selection)
    defaults = DEFAULTS[injection]
    chunk: int = defaults["chunk_size"] if chunk_size is None else chunk_size
    if overlap > chunk:
        raise UserError(f"--overlap {overlap} is more than a chunk, of {chunk} tokens: lower it.")
    settings = {
        "window": window,
        "chunk_size": chunk,
        "strides": numbers("strides", ratios or strides),
        "injection_map": pairs(injection_map) if injection_map is not None else None,
        "injection": injection,
        "encoding": encoding or defaults["encoding"],
        "overlap": overlap,
        # Without it a memory costs a base that is not trained half a nat (docs/training/real.md).
        "anchor": injection == "joint",
        "lower_weights": lower_weights,
        "selection": selection,
    }
    if data is not None:
        check_file(data)
    from ..training.card import extended_card
    from .extending import extended, measured_line, parameters, save

    model, tokenizer, measured = extended(base, settings, lower_layers, questions, data, encoder, output)
    count = parameters(model)
    save(model, tokenizer, extended_card(output.absolute().name, base, model.config, count), output)
    new = sum(p.numel() for n, p in model.named_parameters() if ".injection." in n or "lower_layers" in n)
    if json:
        print_json(model=str(output), parameters=count, new_parameters=new, **measured)
        return
    note(f"wrote {output}: {count:,} parameters, {new:,} of them new")
    if injection == "deep":
        note(measured_line(model.config, encoder))
