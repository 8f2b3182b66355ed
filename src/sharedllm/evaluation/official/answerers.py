"""Who answers: a SharedLLM that reads the whole prompt, or a base that sees the end of it."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...answering.ask import own_words
from ...causal_lm import SharedLLMForCausalLM
from ...memory.context_memory import ContextMemory
from ...memory.fingerprint import fingerprint_tensors
from ...scoring import DEFAULT_SCORE
from ...utils.errors import UserError
from ...utils.text import tokenize
from .base import Prompt


class Answerer(Protocol):
    """Whoever answers prompts. about: what decides the answers, as JSON; another one never goes on with these results."""

    @property
    def name(self) -> str: ...

    @property
    def about(self) -> dict[str, Any]: ...

    def answer(self, prompt: Prompt, max_new_tokens: int) -> str:
        """The answer, without the prompt."""
        ...


class SharedAnswerer:
    """Reads all but the end of a prompt into a memory; the end fills the window beside the new tokens.

    An answer longer than a quarter of the window is written in pieces of that size, and what then no longer fits into the
    window is read into the memory as well. Greedy, without special tokens.

    Args:
        budget: tokens of the memory that the answer sees, chosen for the question (`Prompt.after`); default: as the
            model's configuration keeps them. score: what a budget goes by. batch_tokens: most tokens read at once.
    """

    name = "sharedllm"

    def __init__(
        self,
        model: SharedLLMForCausalLM,
        tokenizer: PreTrainedTokenizerBase,
        budget: int | None = None,
        score: str = DEFAULT_SCORE,
        batch_tokens: int | None = None,
    ):
        if budget is not None and budget < 1:
            raise UserError(f"budget={budget} leaves nothing to see: give at least one token.")
        self.model, self.tokenizer, self.batch_tokens = model, tokenizer, batch_tokens
        self.budget, self.score = budget, score
        self.about = _about(model, model.config.window) | {
            "selection": model.config.selection,
            "ratios": list(model.config.strides),
            "budget": budget,
            "score": None if budget is None else score,
        }

    @torch.no_grad()
    def answer(self, prompt: Prompt, max_new_tokens: int) -> str:
        ids = tokenize(self.tokenizer, prompt.text).to(self.model.device)
        window = self.model.config.window
        piece = min(max_new_tokens, max(1, window // 4))
        room = window - piece
        asked = tokenize(self.tokenizer, prompt.after).shape[1] or room
        question = ids[:, -min(asked, room) :]
        memory = self._read(ids[:, :-room], question, prompt.form) if ids.shape[1] > room else None

        def generate(running: Tensor, count: int) -> Tensor:
            return self.model.generate(running, memory=memory, max_new_tokens=count, do_sample=False)

        return _written(generate, self.model, self.tokenizer, ids[:, -room:], max_new_tokens, piece)

    def _read(self, far: Tensor, question: Tensor, form: str) -> ContextMemory:
        options: dict[str, Any] = {"batch_tokens": self.batch_tokens, "fingerprint": False}
        if self.budget is None:
            return self.model.read(far, query_ids=question, **options)
        memory = self.model.read(far, keep_all=True, **options)
        words = own_words(question, tokenize(self.tokenizer, form)) if form else None
        return self.model.select(memory, question, query_words=words, budget=self.budget, score=self.score)


class WindowAnswerer:
    """A base that sees the last tokens of a prompt, as many as fit into its window beside the new ones: the floor."""

    name = "window"

    def __init__(self, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, window: int):
        if window < 2:
            raise UserError(f"window={window} has no room for a prompt and an answer: give at least 2 tokens.")
        self.base, self.tokenizer, self.window = base, tokenizer, window
        self.about = _about(base, window)

    @torch.no_grad()
    def answer(self, prompt: Prompt, max_new_tokens: int) -> str:
        ids = tokenize(self.tokenizer, prompt.text).to(self.base.device)
        piece = min(max_new_tokens, max(1, self.window // 4))

        def generate(running: Tensor, count: int) -> Tensor:
            seen = running[:, -(self.window - piece) :]
            options = {"attention_mask": torch.ones_like(seen), "pad_token_id": 0}
            new = self.base.generate(seen, max_new_tokens=count, do_sample=False, **options)[:, seen.shape[1] :]
            return torch.cat([running, new], 1)

        return _written(generate, self.base, self.tokenizer, ids, max_new_tokens, piece)


def _written(
    generate: Callable[[Tensor, int], Tensor],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Tensor,
    max_new_tokens: int,
    piece: int,
) -> str:
    """The text that pieces of greedy decoding give, up to an end token."""
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


def _about(model: PreTrainedModel, window: int) -> dict[str, Any]:
    return {
        "model": fingerprint_tensors(sorted(model.state_dict().items()), {}),
        "dtype": str(model.dtype).removeprefix("torch."),
        "window": window,
    }
