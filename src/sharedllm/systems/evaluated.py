"""The interface of a system for evaluation: it reads a far context once, then scores running texts after it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..utils.errors import UserError
from ..utils.registry import load
from . import SYSTEMS, System
from .trained import system_of_type, trained_systems


@dataclass(frozen=True)
class Scores:
    """For the target tokens: log-probabilities (B, n) in nats, and whether each is the likeliest token (B, n)."""

    log_probs: Tensor
    hits: Tensor


class EvaluatedSystem(Protocol):
    """Reads a far context once, then scores running texts after it.

    The evaluation cuts a text: its last tokens, at most `running`, are the running text, and everything before is the
    far context. A system may use as much of that as it can.
    """

    @property
    def running(self) -> int:
        """Most tokens of running text."""
        ...

    @property
    def model(self) -> PreTrainedModel:
        """The model; texts come to it on its device."""
        ...

    @property
    def name(self) -> str: ...

    def prepare(self, far: Tensor, query: Tensor) -> Any:
        """Read the far context.

        Args:
            far: (B, T) token ids, T may be 0. query: (B, Q) the question, for systems that search.
        """
        ...

    def score(self, state: Any, running: Tensor, targets: int) -> Scores:
        """Score the last `targets` tokens of the running text (B, L), L > targets, given all before each of them."""
        ...


def scores_of(logits: Tensor, running: Tensor, targets: int) -> Scores:
    """Scores from logits (B, at least targets + 1, V) for the end of the running text."""
    logits, wanted = logits[:, -targets - 1 : -1].float(), running[:, -targets:]
    log_probs = torch.log_softmax(logits, -1).gather(-1, wanted[..., None])[..., 0]
    return Scores(log_probs, logits.argmax(-1) == wanted)


@dataclass(frozen=True)
class SystemSpec:
    """What a system is made from.

    name       as requested, such as "budget:focus@512"     kind      its entry, "budget"
    variant    between : and @, "focus"; or None          numbers   after @, (512,); or None
    model      the one that the entry needs                        window    of the base, in tokens
    """

    name: str
    kind: str
    variant: str | None
    numbers: tuple[int, ...] | None
    model: Any
    tokenizer: PreTrainedTokenizerBase
    window: int

    def unknown(self) -> UserError:
        return _unknown(self.name)


def name_of_trained(model: PreTrainedModel) -> str:
    """The system as which a trained model is measured: its own, or fine-tuned full attention."""
    own = system_of_type(model.config.model_type)
    return own or next(name for name, how in trained_systems().items() if not how.model)


def evaluated_names() -> list[str]:
    """Systems that can be evaluated."""
    return [name for name, system in SYSTEMS.items() if system.evaluated]


def make_evaluated(
    name: str,
    model: PreTrainedModel | None,
    base: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase,
    window: int,
    trained: Mapping[str, PreTrainedModel] | None = None,
) -> EvaluatedSystem:
    """A system by its name, with its variant and numbers.

    Args:
        model, base: a SharedLLM and its base. trained: models of other systems, by `name_of_trained`.

    Raises:
        UserError: no such system, or the model that it needs is missing.
    """
    entry, variant, numbers = parsed(name)
    needed = {"model": model, "base": base, "trained": (trained or {}).get(entry.name)}[entry.needs]
    if needed is None:
        raise UserError(f"system {name!r} needs a model: give {entry.needs}=NAME.")
    return load(entry.evaluated)(SystemSpec(name, entry.name, variant, numbers, needed, tokenizer, window))


def parsed(name: str) -> tuple[System, str | None, tuple[int, ...] | None]:
    """Entry, variant and numbers of `NAME[:VARIANT][@1/2/3]`.

    Raises:
        UserError: no such system, or it has no variants.
    """
    match = re.fullmatch(r"([a-z0-9-]+)(?::(\w+))?(?:@(\d+(?:/\d+)*))?", name)
    kind, variant, numbers = match.groups() if match else ("", None, None)
    entry = SYSTEMS.get(kind)
    if entry is None or not entry.evaluated or ((variant or numbers) and not entry.variants):
        raise _unknown(name)
    return entry, variant, tuple(map(int, numbers.split("/"))) if numbers else None


def _unknown(name: str) -> UserError:
    return UserError(f"systems={name!r} is not known: use one of {', '.join(evaluated_names())}.")
