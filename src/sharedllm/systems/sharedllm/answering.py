"""SharedLLM answers prompts of any length."""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ...causal_lm import SharedLLMForCausalLM
from ...memory.context_memory import ContextMemory
from ...prompts import own_words
from ...scoring import DEFAULT_SCORE
from ...utils.errors import UserError
from ...utils.text import tokenize
from ..answering import Prompt, about_model, written


class AnsweringShared:
    """Reads all but the end of a prompt into a memory; the end and the new tokens share the window.

    An answer longer than a quarter of the window is written in pieces of that size, and text that no longer fits into
    the window is read into the memory too. Greedy, without special tokens.

    Args:
        budget: most tokens of the memory that the answer sees, chosen for the question (`Prompt.after`); default: the
            tokens that the model's configuration keeps. score: how a budget is spent. batch_tokens: most tokens read at
            once.
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
            raise UserError(f"budget={budget} leaves nothing to read: give at least one token.")
        self.model, self.tokenizer, self.batch_tokens = model, tokenizer, batch_tokens
        self.budget, self.score = budget, score
        self.about = about_model(model, model.config.window) | {
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

        return written(generate, self.model, self.tokenizer, ids[:, -room:], max_new_tokens, piece)

    def _read(self, far: Tensor, question: Tensor, form: str) -> ContextMemory:
        options: dict[str, Any] = {"batch_tokens": self.batch_tokens, "fingerprint": False}
        if self.budget is None:
            return self.model.read(far, query_ids=question, **options)
        memory = self.model.read(far, keep_all=True, **options)
        words = own_words(question, tokenize(self.tokenizer, form)) if form else None
        return self.model.select(memory, question, query_words=words, budget=self.budget, score=self.score)
