"""`sharedllm generate`: continue a prompt over a context."""

import math
from typing import Annotated, Literal

import typer

from ..utils.errors import UserError
from .answers import say
from .common import BatchTokensOption, JsonOption, ModelOption, check_source, print_json


def command(
    prompt: Annotated[str, typer.Option(help="Text to continue.")],
    context: Annotated[str | None, typer.Option(help="A memory, a text file, or - for standard input.")] = None,
    model: ModelOption = "tiny",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens to add.")] = 64,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token.")] = 0.8,
    seed: Annotated[int, typer.Option(min=-(2**63), max=2**63 - 1, help="Seed of the sampling.")] = 0,
    batch_tokens: BatchTokensOption = None,
    memory_dtype: Annotated[
        Literal["model", "int8"],
        typer.Option(help="Format of the context's keys and values: as the weights, or rounded to 8 bits."),
    ] = "model",
    json: JsonOption = False,
) -> None:
    """Continue a prompt, with a file or a memory as context. The beginning of a long prompt becomes context
    automatically."""
    if not 0 <= temperature < math.inf:
        raise UserError(f"--temperature {temperature} is not a temperature: use a number of at least 0.")
    if not prompt:
        raise UserError("--prompt is empty: give at least one token to continue.")
    if context is not None:
        check_source(context)
    import torch

    from ..answering.stream import COLDEST, ending
    from ..memory.interface import lacking
    from ..prompts import PromptForm, with_beginning
    from ..utils.text import decode, tokenize
    from .loading import load, open_source, tokens_behind

    loaded, tokenizer = load(model, context or "")
    memory, unread = None, {}
    if context is not None:
        opened = open_source(loaded, tokenizer, context, batch_tokens, keep_all=False)
        memory, unread = opened.load(), lacking(opened)
    ids = with_beginning(tokenizer, tokenize(tokenizer, prompt)).to(loaded.device)
    torch.manual_seed(seed)
    sampling = {"do_sample": True, "temperature": temperature} if temperature > COLDEST else {"do_sample": False}
    output = loaded.generate(
        ids,
        memory=memory,
        memory_dtype=memory_dtype,
        max_new_tokens=max_new_tokens,
        **sampling,
        **ending(loaded, PromptForm.of(tokenizer)),
    )
    text = decode(tokenizer, output[0, ids.shape[1] :].tolist(), skip_special_tokens=True)
    if json:
        tokens = tokens_behind(memory) if memory is not None else 0
        print_json(prompt=prompt, text=text, context_tokens=tokens, **unread)
    else:
        say(text)
