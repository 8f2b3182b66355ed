"""The interface of a system for official tasks: it answers prompts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..memory.fingerprint import model_identity


@dataclass(frozen=True)
class Prompt:
    """before: the instruction in front. context: the long text. after: the question, up to where the answer begins.
    form: the same with a placeholder question, so that its words are not searched for; "" if unknown."""

    before: str
    context: str
    after: str
    form: str = ""

    @property
    def text(self) -> str:
        return self.before + self.context + self.after


class AnsweringSystem(Protocol):
    """Answers prompts. about: everything that decides the answers, as JSON; a run with a different value never reuses
    these results."""

    @property
    def name(self) -> str: ...

    @property
    def about(self) -> dict[str, Any]: ...

    def answer(self, prompt: Prompt, max_new_tokens: int) -> str:
        """The answer, without the prompt."""
        ...


def written(
    generate: Callable[[Tensor, int], Tensor],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Tensor,
    max_new_tokens: int,
    piece: int,
) -> str:
    """The text of greedy decoding in pieces, up to an end token."""
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    ids = prompt
    while (left := max_new_tokens - (ids.shape[1] - prompt.shape[1])) > 0:
        count = min(piece, left)
        longer = generate(ids, count)
        short = longer.shape[1] < ids.shape[1] + count
        ids = longer
        if short or int(ids[0, -1]) in ends:
            break
    return str(tokenizer.decode(ids[0, prompt.shape[1] :], skip_special_tokens=True))


def about_model(model: PreTrainedModel, window: int) -> dict[str, Any]:
    """The settings that decide a model's answers."""
    return {
        "model": model_identity(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "window": window,
    }
