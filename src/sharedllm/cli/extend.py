"""`sharedllm extend`: make a SharedLLM of a base checkpoint, ready to be asked or, with --paper, to be trained."""

from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..causal_lm import SharedLLMForCausalLM
from ..context.policies import POLICIES
from ..prompts import PromptForm
from ..utils.checkpoints import load_model, load_tokenizer
from ..utils.errors import UserError
from ..utils.prose import library_prose
from ..utils.text import read_text, tokenize
from .common import JsonOption, note, print_json, progress_bar, quiet

# Characters of the text that a base is measured on, some 20,000 tokens.
CHARACTERS = 80_000
# Of what the best depth finds, the share that a shallower one has to find: where reading counts more than asking, less.
SHARES = {"few": 0.85, "many": 0.97}


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
    paper: Annotated[
        bool,
        typer.Option("--paper", help="The paper's cross-attention, which has to be trained before it adds anything."),
    ] = False,
    questions: Annotated[
        Literal["few", "many"],
        typer.Option(
            help="How often a text is asked: few, it is read as shallow as will do; many, deeper, for cheaper questions."
        ),
    ] = "few",
    data: Annotated[
        str | None, typer.Option(help="Text file to measure the base on; default: prose that comes with Python.")
    ] = None,
    window: Annotated[int | None, typer.Option(help="W, tokens of running text; default: the base's.")] = None,
    chunk_size: Annotated[int | None, typer.Option(help="C, tokens a chunk. Default: 512; with --paper 1024.")] = None,
    strides: Annotated[str, typer.Option(help="Strides of the tree's levels, coarse to fine.")] = "16,8,4",
    ratios: Annotated[str | None, typer.Option(hidden=True)] = None,  # what --strides was called
    lower_layers: Annotated[
        int | None, typer.Option(help="M, bottom layers that read the context. Default: measured; with --paper 4.")
    ] = None,
    injection_map: Annotated[str | None, typer.Option(help="lower:upper pairs; default i:i for all i < M.")] = None,
    injection: Annotated[
        Literal["deep", "joint", "cross"] | None,
        typer.Option(
            help="deep (what is selected is read on through all layers; the default), joint (one softmax over what was read "
            "through M layers) or cross (the paper's)."
        ),
    ] = None,
    encoding: Annotated[str | None, typer.Option(help="node or chunk. Default: chunk; with --paper node.")] = None,
    overlap: Annotated[int, typer.Option(help="Tokens before a chunk that are read with it, for encoding chunk.")] = 0,
    lower_weights: Annotated[str, typer.Option(help="shared or copy.")] = "shared",
    selection: Annotated[str, typer.Option(help=f"{POLICIES.names}.")] = "right",
    json: JsonOption = False,
) -> None:
    """Extend a base checkpoint, so that it reads texts of any length and answers about them without training.

    How deep it must read and which heads find what is asked for is measured, in a minute or two. With --paper its logits are
    the base's to the bit until it is trained.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} exists and is not an empty folder: choose another one.")
    if paper and injection not in (None, "cross"):
        raise UserError(f"--paper is --injection cross, and --injection {injection} is given: leave one of them out.")
    injection = injection or ("cross" if paper else "deep")
    deep = injection == "deep"
    settings = {
        "window": window,
        "chunk_size": chunk_size or (512 if deep else 1024),
        "strides": numbers("strides", ratios or strides),
        "injection_map": pairs(injection_map) if injection_map is not None else None,
        "injection": injection,
        "encoding": encoding or ("chunk" if deep else "node"),
        "overlap": overlap,
        "lower_weights": lower_weights,
        "selection": selection,
    }
    quiet()
    tokenizer = _tokenizer(base, output, needed=deep)
    loaded = load_model(base, dtype="auto")
    measured = {}
    if deep:
        text = read_text(data) if data is not None else library_prose(CHARACTERS)
        model, measured = _measured(loaded, tokenizer, text[: 2 * CHARACTERS], settings, lower_layers, questions)
    else:
        model = SharedLLMForCausalLM.from_base(
            loaded, **settings, lower_layers=4 if lower_layers is None else lower_layers
        )
    model.save_pretrained(output)
    if tokenizer is not None:
        tokenizer.save_pretrained(output)
    count = sum(p.numel() for p in model.parameters())
    new = sum(p.numel() for n, p in model.named_parameters() if ".injection." in n or "lower_layers" in n)
    if json:
        print_json(model=str(output), parameters=count, new_parameters=new, **measured)
        return
    note(f"wrote {output}: {count:,} parameters, {new:,} of them new")
    if deep:
        heads = (
            ", ".join(f"{layer}:{head}" for layer, head, _ in model.config.selection_heads or []) or "none, words alone"
        )
        note(
            f"reads through {model.config.lower_layers} of {loaded.config.num_hidden_layers} layers; heads that select: {heads}"
        )


def _tokenizer(base: str, output: Path, needed: bool) -> PreTrainedTokenizerBase | None:
    try:
        return load_tokenizer(base)
    except UserError:
        if needed:
            raise UserError(f"{base} has no tokenizer, which it is measured with: add one, or use --paper.") from None
        note(f"{base} has no tokenizer: add one to {output} before reading text.", style="yellow")
        return None


def _measured(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    settings: dict,
    lower_layers: int | None,
    questions: str,
) -> tuple[SharedLLMForCausalLM, dict]:
    """The base, extended as deep as it has to read, and what was measured for that."""
    from ..diagnosis.shallow import QUESTIONS, measure_shallow

    settings = settings | {"prefix": PromptForm.of(tokenizer).head()[0].tolist() or None}
    given = settings.pop("injection_map")
    most = lower_layers or max(1, base.config.num_hidden_layers // 3)
    tried = SharedLLMForCausalLM.from_base(base, **settings, **_through(most, base)).eval()
    size = tokenize(tokenizer, text).shape[1]
    with torch.no_grad(), progress_bar("measuring the base", size + 2 * QUESTIONS) as advance:
        shallow = measure_shallow(tried, tokenizer, text, progress=advance)
    depth = shallow.depths[-1] if lower_layers else shallow.choose(SHARES[questions])
    through = _through(depth.layers, base) | ({"injection_map": given} if given is not None else {})
    kept = {upper for _, upper in through["injection_map"]}
    heads = [head for head in depth.heads if head[0] in kept]
    model = SharedLLMForCausalLM.from_base(base, **settings, **through, selection_heads=heads or None)
    by_depth = {each.layers: round(each.found, 3) for each in shallow.depths}
    measured = {"lower_layers": depth.layers, "selection_heads": heads, "found_by_depth": by_depth}
    return model, measured | {"found_by_words": round(shallow.words, 3), "questions": shallow.questions}


def _through(layers: int, base: PreTrainedModel) -> dict:
    """Settings to read through so many layers. The keys of the next one are kept too, if there is one: heads may use them."""
    most = min(layers, base.config.num_hidden_layers - 1)
    return {"lower_layers": layers, "injection_map": [[i, i] for i in range(most + 1)]}
