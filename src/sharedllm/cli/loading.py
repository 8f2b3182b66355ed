"""Loads models, memories and texts for the commands. Imports torch and transformers, so commands import this in their
bodies."""

import os
import shlex
from logging import CRITICAL, getLogger
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..answering.citations import documents
from ..answering.reading import read_document
from ..causal_lm import SharedLLMForCausalLM
from ..documents import open_document
from ..loading import load_shared, load_shared_config
from ..memory.context_memory import ContextMemory
from ..memory.fingerprint import tokenizer_fingerprint
from ..memory.interface import Memory, incomplete
from ..model.base_config import check_base
from ..model.config import SharedLLMConfig
from ..store import is_memory, look, open_memory
from ..utils.checkpoints import load_model, load_tokenizer
from ..utils.errors import UserError
from ..utils.hardware import default_device, inference_dtype
from ..utils.text import tokenize
from ..utils.text_files import some
from .common import note, note_repair, progress_bar


def config_of(name: str) -> SharedLLMConfig:
    """As `load_shared_config`."""
    quiet()
    return load_shared_config(name)


def load(name: str, source: str | Path = "") -> tuple[SharedLLMForCausalLM, PreTrainedTokenizerBase]:
    """Load a SharedLLM and its tokenizer, ready for use.

    Args:
        source: what it reads; where that is a memory of this model in another dtype, the model is loaded in it.
    """
    quiet()
    reads = look(source).fingerprint if source and is_memory(source) else ""
    said = f"{source} was read in {{}}, so {name} runs in it"
    return load_shared(name, reads, lambda dtype: note(said.format(dtype))), load_tokenizer(name)


def check_named_base(name: str) -> None:
    """As `check_base`, for an option of a command that also loads a model: its base is refused before either is loaded."""
    quiet()
    check_base(name)


def load_any(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load any causal language model and its tokenizer, ready for use: a base, a SharedLLM or another trained system."""
    quiet()
    device = default_device()
    return load_model(name, device, dtype=inference_dtype(device)).eval(), load_tokenizer(name)


def quiet() -> None:
    """Keep the libraries' progress bars and notices off stderr; errors are one line of our own."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # `datasets` sets the level of its own log when it is imported, which may be later.
    os.environ.setdefault("DATASETS_VERBOSITY", "critical")
    for name in ("huggingface_hub", "datasets"):
        getLogger(name).setLevel(CRITICAL)


def open_source(
    model: SharedLLMForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    batch_tokens: int | None = None,
    *,
    keep_all: bool,
) -> Memory:
    """Open a memory on disk; or read a document, or - for standard input, keeping every token or the tree's.

    Raises:
        UserError: as `open_memory`; a memory of several texts, or a document that can't be read.
    """
    if is_memory(name):
        return open_own(model, tokenizer, name)
    return read_text_file(model, tokenizer, name, batch_tokens, keep_all)


def open_own(model: SharedLLMForCausalLM, tokenizer: PreTrainedTokenizerBase, name: str) -> Memory:
    """Open and check a memory made by a model; reports damage on stderr."""
    with progress_bar(f"opening {name}", None) as advance:
        memory = open_memory(
            name, fingerprint=model.fingerprint(), tokenizer=tokenizer_fingerprint(tokenizer), progress=advance
        )
    if memory.texts != 1:
        raise UserError(f"{name} holds {memory.texts} texts: save one of them alone, memory.index_select([0]).")
    note_damage(memory, name)
    return memory


def note_damage(memory: Memory, name: str | Path) -> None:
    """Report lost parts, and documents whose reading was interrupted, on stderr."""
    for lost in memory.damaged:
        note(f"lost: {lost.document}, tokens {lost.start:,}–{lost.end:,}: {lost.reason}")
    if memory.damaged:
        note_repair(name)
    for document in incomplete(memory):
        note(f"incomplete: {document['name']} {_rest_of(document, name)}.", style="yellow")


def _rest_of(document: dict[str, Any], memory: str | Path) -> str:
    """How much of an incomplete document a memory holds, and what reads the rest of it."""
    if not (whole := document.get("part_of")):
        return f"was read up to {some(document['tokens'], 'token')}: go on with `sharedllm read --append`"
    if os.path.isfile(whole):  # noqa: PTH113 (false also for what can be no name)
        return f"lacks its beginning: `sharedllm read {shlex.quote(whole)} -o {memory} --sync` reads all of it"
    return (
        f"lacks its beginning, and {whole} is not here to read it again: `sharedllm memory forget {memory} "
        f"{shlex.quote(document['name'])}` drops it"
    )


@torch.no_grad()
def read_text_file(
    model: SharedLLMForCausalLM, tokenizer: PreTrainedTokenizerBase, name: str, batch_tokens: int | None, keep_all: bool
) -> ContextMemory:
    """Read a document, or - for standard input, into a temporary memory."""
    opened = open_document(name)
    if opened.read_as:
        note(f"{name}: read as {opened.read_as}")
    ids = tokenize(tokenizer, opened.text())
    with progress_bar(f"reading {name}", ids.shape[1]) as advance:
        return read_document(model, ids, opened, keep_all=keep_all, batch_tokens=batch_tokens, progress=advance)


def tokens_behind(memory: ContextMemory) -> int:
    """Number of document tokens in a memory of one text, which may have empty slots between documents."""
    return sum(document["tokens"] for document in documents(memory))
