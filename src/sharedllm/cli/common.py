"""What the commands share: loading a model, progress on stderr, reading files into a memory."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging import CRITICAL, getLogger
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..answering.citations import documents
from ..causal_lm import SharedLLMForCausalLM
from ..context.policies import POLICIES
from ..context.policies.base import without_query
from ..memory.context_memory import ContextMemory
from ..memory.file import open_memory, read_header
from ..memory.fingerprint import fingerprint_tensors
from ..memory.segments import segments_of
from ..scoring import SCORES
from ..store import MemoryStore
from ..store.manifest import NAME as MANIFEST
from ..store.manifest import read_manifest
from ..utils.checkpoints import load_model, load_tokenizer
from ..utils.errors import UserError
from ..utils.text import read_text, tokenize

stderr = Console(stderr=True)

ModelOption = Annotated[str, typer.Option("--model", help="Folder, hub id, or name of a bundled model.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
SelectionOption = Annotated[
    str | None,
    typer.Option(help="What stays fine: " + "; ".join(f"{name}, {about}" for name, about in POLICIES.about.items())),
]
KeepAllOption = Annotated[
    bool, typer.Option("--keep-all", help="Keep every token, so that each question selects within its --budget.")
]
ScoreOption = Annotated[
    str | None, typer.Option(help=f"What a budget goes by: {SCORES.names}. Default: what suits the model.")
]
BatchTokensOption = Annotated[
    int | None,
    typer.Option(min=1, help="Most tokens read at once: bounds working memory. Default: by the free memory."),
]


def load(name: str) -> tuple[SharedLLMForCausalLM, PreTrainedTokenizerBase]:
    """A SharedLLM and its tokenizer, ready to be used."""
    model, tokenizer = load_any(name)
    if not isinstance(model, SharedLLMForCausalLM):
        raise UserError(
            f"{name} is an ordinary {type(model).__name__}: make a SharedLLM of it with `sharedllm extend`."
        )
    return model, tokenizer


def load_any(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Any causal language model and its tokenizer, ready to be used: a base, a SharedLLM or another trained system."""
    quiet()
    return load_model(name, dtype=inference_dtype()).eval(), load_tokenizer(name)


def quiet() -> None:
    """Keep the bars and notices of the libraries off stderr: errors come as one line of our own."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for name in ("huggingface_hub", "datasets"):
        getLogger(name).setLevel(CRITICAL)


def inference_dtype() -> torch.dtype | str:
    """The checkpoint's own dtype, or float32 on processors where bf16 products are emulated."""
    if torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return "auto"
    return torch.float32


@contextmanager
def progress_bar(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on stderr; yields what advances it. Nothing is drawn where stderr is no terminal."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as bar:
        task = bar.add_task(label, total=total)
        yield lambda advance: bar.update(task, advance=advance)


def open_store(model: SharedLLMForCausalLM, tokenizer: PreTrainedTokenizerBase, name: str) -> MemoryStore:
    """A memory on disk, checked; what of it is damaged is named on stderr."""
    total = sum(document.tokens for document in read_manifest(Path(name)).documents)
    with progress_bar(f"opening {name}", total) as advance:
        marks = {"fingerprint": model.fingerprint(), "tokenizer": tokenizer_fingerprint(tokenizer)}
        store = MemoryStore.open(name, **marks, progress=advance)
    for lost in store.damaged:
        note(f"lost: {lost.document}, tokens {lost.start:,}–{lost.end:,}: {lost.reason}")
    return store


def open_file(model: SharedLLMForCausalLM, tokenizer: PreTrainedTokenizerBase, name: str) -> ContextMemory:
    """A memory of one text in a file of its own, as `save_memory` writes it."""
    marked = bool(read_header(name)["tokenizer"])
    memory = open_memory(
        name, fingerprint=model.fingerprint(), tokenizer=tokenizer_fingerprint(tokenizer) if marked else None
    )
    if len(memory) != 1:
        raise UserError(f"{name} holds {len(memory)} texts: save one of them by itself, memory.index_select([0]).")
    return memory


@torch.no_grad()
def read_text_file(
    model: SharedLLMForCausalLM, tokenizer: PreTrainedTokenizerBase, name: str, batch_tokens: int | None, keep_all: bool
) -> ContextMemory:
    """Read a text file, or - for standard input, into a memory that is not kept."""
    ids = tokenize(tokenizer, read_text(name))
    options = {"keep_all": keep_all, "selection": without_query(model.config.selection), "sources": [name]}
    with progress_bar(f"reading {name}", ids.shape[1]) as advance:
        return model.read(ids, batch_tokens=batch_tokens, progress=advance, **options)


def memory_of(
    model: SharedLLMForCausalLM, tokenizer: PreTrainedTokenizerBase, name: str, batch_tokens: int | None
) -> ContextMemory:
    """All that the memory `name` keeps, or that is kept of the text file that it is."""
    if is_memory(name):
        return open_file(model, tokenizer, name) if is_file(name) else open_store(model, tokenizer, name).load()
    return read_text_file(model, tokenizer, name, batch_tokens, keep_all=False)


def everything_of(
    model: SharedLLMForCausalLM, tokenizer: PreTrainedTokenizerBase, name: str, batch_tokens: int | None
) -> ContextMemory | MemoryStore:
    """What a question can select from: a memory on disk that holds every token, or a text file."""
    if is_memory(name):
        memory = open_file(model, tokenizer, name) if is_file(name) else open_store(model, tokenizer, name)
        segments_of(memory)  # says what is missing before anything else is done
        return memory
    return read_text_file(model, tokenizer, name, batch_tokens, keep_all=True)


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Identifies a vocabulary."""
    return fingerprint_tensors((), tokenizer.get_vocab())


def is_memory(name: str) -> bool:
    """By its suffix, or because it is a folder with a manifest."""
    return Path(name).suffix == ".memory" or (name != "-" and (Path(name) / MANIFEST).is_file())


def is_file(name: str) -> bool:
    """Whether a memory is a file of `save_memory`, not a folder."""
    return Path(name).is_file()


def note(line: str, style: str | None = None) -> None:
    """One line on stderr, whatever names are in it."""
    stderr.print(" ".join(line.splitlines()), style=style, highlight=False, markup=False, soft_wrap=True)


def tokens_behind(memory: ContextMemory) -> int:
    """How many tokens of its documents a memory of one text was made from; between them slots may be empty."""
    return sum(document["tokens"] for document in documents(memory))


def print_json(**values: Any) -> None:
    print(json.dumps(values, indent=1))


def tokens_of_length(text: str, window: int, option: str = "--lengths") -> int:
    """Tokens of a length: a number such as 4096, thousands or millions (4K is 4,096, 1M is 1,048,576), or windows (4W)."""
    text = text.strip()
    units = {"W": window, "K": 2**10, "M": 2**20}
    unit = units.get(text[-1:].upper())
    try:
        value = float(text) if unit is None else float(text[:-1]) * unit
    except ValueError:
        value = -1.0
    if not value >= 0 or not value.is_integer():
        raise UserError(f"{option}: {text!r} is no number of tokens or windows: use such as 0,512,64K,4W.")
    return int(value)


def show_sources(sources: list[dict[str, Any]]) -> None:
    """Where an answer comes from (see `answering.citations.describe`), on stderr: a line each, cut to a terminal's width."""
    shown = {"no_wrap": True, "overflow": "ellipsis"} if stderr.is_terminal else {"soft_wrap": True}
    for found in sources:
        place = f"{found['document']}, characters {found['characters'][0]:,}–{found['characters'][1]:,}"
        line = " ".join(f"{place}: {found['text']!r}".splitlines())
        stderr.print(line, style="dim", highlight=False, markup=False, **shown)
