"""Models, memories and texts that the commands load. Imports torch and transformers: commands import this in their bodies."""

from logging import CRITICAL, getLogger
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..answering.citations import documents
from ..causal_lm import SharedLLMForCausalLM
from ..context.policies.base import without_query
from ..memory.context_memory import ContextMemory
from ..memory.file import open_memory, read_header
from ..memory.fingerprint import fingerprint_tensors
from ..memory.segments import segments_of
from ..store import MemoryStore
from ..store.manifest import NAME as MANIFEST
from ..store.manifest import read_manifest
from ..utils.checkpoints import load_model, load_tokenizer
from ..utils.errors import UserError
from ..utils.text import tokenize
from ..utils.text_files import read_text
from .common import note, progress_bar


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


def selects(model: SharedLLMForCausalLM, source: str) -> bool:
    """Whether a question chooses what is read, where nothing is said: of all that was kept whole, or can be."""
    if not is_memory(source):
        return model.config.encoding == "chunk"
    if is_file(source):
        # What is read deeper can only be a part of a text: a file of it is always selected from.
        return model.config.injection == "deep"
    return read_manifest(Path(source)).complete


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Identifies a vocabulary."""
    return fingerprint_tensors((), tokenizer.get_vocab())


def is_memory(name: str) -> bool:
    """By its suffix, or because it is a folder with a manifest."""
    return Path(name).suffix == ".memory" or (name != "-" and (Path(name) / MANIFEST).is_file())


def is_file(name: str) -> bool:
    """Whether a memory is a file of `save_memory`, not a folder."""
    return Path(name).is_file()


def tokens_behind(memory: ContextMemory) -> int:
    """How many tokens of its documents a memory of one text was made from; between them slots may be empty."""
    return sum(document["tokens"] for document in documents(memory))
