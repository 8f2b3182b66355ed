"""The self-check: what this package is for, done once on a small scale with the bundled model."""

import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ..answering.ask import ask
from ..causal_lm import SharedLLMForCausalLM
from ..memory.context_memory import ContextMemory
from ..memory.file import save_memory
from ..reference import reference_logits
from ..store import open_memory
from ..utils.checkpoints import load_model, load_tokenizer
from ..utils.text import tokenize

_FILLER = "The lanterns burned low in the harbour, and nobody came ashore. "
TEXT = _FILLER * 40 + "The secret code of the silver falcon is 48213. " + _FILLER * 60
QUESTION, ANSWER = "What is the secret code of the silver falcon?", "48213"
# Logits are about 20 in size; rounding in float32 gives differences of 1e-4.
MOST_DIFFERENCE = 0.02
# Text for the comparison with the reference, whose loops are slow: two chunks, and a little running text.
_CONTEXT, _RUNNING = 140, 8


@dataclass(frozen=True)
class Check:
    """What was checked, whether it held, in how many seconds, and what was found."""

    name: str
    ok: bool
    seconds: float
    found: str


@dataclass
class _Parts:
    """What the checks make for each other, in their order."""

    device: torch.device
    model: SharedLLMForCausalLM | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    memory: ContextMemory | None = None


def self_check(device: torch.device) -> Iterator[Check]:
    """Do the checks one by one. One that fails gives its reason, and those after it that need its result fail too."""
    parts = _Parts(device)
    for name, step in STEPS.items():
        start = time.perf_counter()
        try:
            ok, found = step(parts)
        except Exception as error:  # whatever it is, the report has to say it
            last = traceback.extract_tb(error.__traceback__)[-1]
            ok, found = False, f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"
        yield Check(name, ok, round(time.perf_counter() - start, 2), " ".join(found.split()))


def _load(parts: _Parts) -> tuple[bool, str]:
    model: Any = load_model("tiny", parts.device, dtype=torch.float32)
    parts.model, parts.tokenizer = model.eval(), load_tokenizer("tiny")
    return True, f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}M parameters on {parts.device}"


def _read(parts: _Parts) -> tuple[bool, str]:
    model, tokenizer = _needed(parts.model), _needed(parts.tokenizer)
    ids = tokenize(tokenizer, TEXT)
    start = time.perf_counter()
    with torch.no_grad():
        parts.memory = memory = model.read(ids.to(parts.device), keep_all=True)
    rate = ids.shape[1] / (time.perf_counter() - start)
    return (
        memory.complete,
        f"{ids.shape[1]:,} tokens, {ids.shape[1] / model.config.window:.1f} windows, {rate:,.0f} tokens/s",
    )


def _recall(parts: _Parts) -> tuple[bool, str]:
    said = ask(_needed(parts.model), _needed(parts.tokenizer), _needed(parts.memory), QUESTION, max_new_tokens=8).text
    return ANSWER in said, f"answered {said!r}" + ("" if ANSWER in said else f", not {ANSWER}")


def _disk(parts: _Parts) -> tuple[bool, str]:
    memory, model = _needed(parts.memory), _needed(parts.model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "check.memory"
        save_memory(memory, path)
        again = open_memory(path, fingerprint=model.fingerprint()).load()
        # Read everything before the file is removed.
        same = all(torch.equal(tensor.cpu(), again.tensors()[name].cpu()) for name, tensor in memory.tensors().items())
        size = path.stat().st_size
        del again
    return same, f"{size / 1e6:.1f} MB written and read back, " + ("equal" if same else "not equal")


def _compare(parts: _Parts) -> tuple[bool, str]:
    model = _needed(parts.model)
    ids = tokenize(_needed(parts.tokenizer), TEXT)[:, : _CONTEXT + _RUNNING].to(parts.device)
    context, running = ids[:, :_CONTEXT], ids[:, _CONTEXT:]
    with torch.no_grad():
        fast = model(running, context_ids=context).logits[0]
        slow = reference_logits(model, running[0].tolist(), context[0].tolist())
    difference = float((fast - slow).abs().max())
    return difference < MOST_DIFFERENCE, f"largest difference of logits {difference:.1e}, allowed {MOST_DIFFERENCE}"


STEPS: dict[str, Callable[[_Parts], tuple[bool, str]]] = {
    "load the bundled model": _load,
    "read a text": _read,
    "recall a fact of it": _recall,
    "save and open its memory": _disk,
    "the fast path equals the reference": _compare,
}


def _needed(part: Any) -> Any:
    if part is None:
        raise RuntimeError("an earlier check did not get so far")
    return part
