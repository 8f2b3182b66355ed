"""Methods by name, over one base and the SharedLLM that was made of it."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...causal_lm import SharedLLMForCausalLM
from ...scoring import SCORES
from ...utils.errors import UserError
from .base import Method, Scores
from .beacon import Beacon
from .cepe import Cepe
from .full import SCALINGS, Full
from .retrieval import Retrieval
from .shared import Budgeted, Empty, Shared
from .streaming import Streaming
from .window import Window

__all__ = ["DESCRIPTIONS", "OURS", "Method", "Scores", "make_method", "rival_name"]

OURS = ("sharedllm", "int8", "budget", "empty")
DESCRIPTIONS = {
    "sharedllm": "the far context read into a memory; sharedllm:POLICY and sharedllm@4/2/1 for other policies and strides",
    "int8": "sharedllm with its memory in 8 bits, as storage int8 brings it back and as memory_dtype int8 holds it",
    "budget": "everything read, the question selects: budget:SCORE@TOKENS with focus, bm25, attention, hybrid or cosine",
    "empty": "the same trained model without its memory",
    "window": "the base with the window alone",
    "streaming": "the base with sinks and recent tokens (StreamingLLM)",
    "bm25": "the base with the best pieces by BM25 in half of its window",
    "full": "the base over everything, positions as they are",
    "pi": "the base over everything, positions interpolated",
    "ntk": "the base over everything, NTK-aware positions",
    "yarn": "the base over everything, YaRN positions",
    "tuned": "the base over everything, trained on longer samples: a --rival of method full",
    "cepe": "the far context through a small encoder and cross-attention (CEPE): a --rival",
    "beacon": "the far context condensed into beacons (Activation Beacon): a --rival",
}
RIVALS = {"sharedllm_cepe": "cepe", "sharedllm_beacon": "beacon"}


def rival_name(model: PreTrainedModel) -> str:
    """The method that a trained rival is measured as."""
    return RIVALS.get(model.config.model_type, "tuned")


def make_method(
    name: str,
    shared: SharedLLMForCausalLM | None,
    base: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase,
    window: int,
    rivals: Mapping[str, PreTrainedModel] | None = None,
) -> Method:
    """A method by its name.

    Args:
        rivals: models of the methods that are trained, by `rival_name`.

    Raises:
        UserError: there is no such method, or the model that it needs is missing.
    """
    match = re.fullmatch(r"([a-z0-9]+)(?::(\w+))?(?:@(\d+(?:/\d+)*))?", name)
    kind, policy, strides = match.groups() if match else ("", None, None)
    wrong = (policy or strides) and kind not in ("sharedllm", "budget")
    if kind not in DESCRIPTIONS or wrong or (kind == "budget" and not (policy in SCORES and (strides or "").isdigit())):
        raise UserError(f"method {name!r} is not known: use one of {', '.join(DESCRIPTIONS)}.")
    makers: dict[str, Callable[[Any], Method]] = {
        "sharedllm": lambda m: Shared(m, name, policy, tuple(map(int, strides.split("/"))) if strides else None),
        "int8": lambda m: Shared(m, name, rounded=True),
        "budget": lambda m: Budgeted(m, name, policy, int(strides)),
        "empty": lambda m: Empty(m),
        "window": lambda m: Window(m, window),
        "streaming": lambda m: Streaming(m, window),
        "bm25": lambda m: Retrieval(m, tokenizer, window),
        "tuned": lambda m: Full(m, window, "tuned"),
        "cepe": Cepe,
        "beacon": Beacon,
    }
    makers |= {full: lambda m, s=scaling, n=full: Full(m, window, n, s) for full, scaling in SCALINGS.items()}
    model, option = (shared, "--model") if kind in OURS else (base, "--base")
    if kind in ("tuned", "cepe", "beacon"):
        model, option = (rivals or {}).get(kind), "--rival"
    if model is None:
        raise UserError(f"method {name!r} needs a model: name one with {option}.")
    return makers[kind](model)
