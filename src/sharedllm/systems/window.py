"""The window alone: the base, which does not see the far context. The lower bound in every table."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..utils.errors import UserError
from ..utils.text import tokenize
from .answering import Prompt, about_model, written
from .causal import with_causal_attention
from .evaluated import Scores, SystemSpec, scores_of
from .timed import Setting, TimedSystem


@dataclass(frozen=True)
class Window:
    model: PreTrainedModel
    running: int
    name: str = "window"

    def prepare(self, far: Tensor, query: Tensor) -> None:
        return None

    def score(self, state: None, running: Tensor, targets: int) -> Scores:
        return scores_of(self.model(running, logits_to_keep=targets + 1, use_cache=False).logits, running, targets)


def window(spec: SystemSpec) -> Window:
    return Window(spec.model, spec.window)


class TimedWindow(TimedSystem):
    """The base, by a kernel with built-in causal masking."""

    def __init__(self, name: str, model: PreTrainedModel, setting: Setting):
        super().__init__(name, with_causal_attention(model), setting)


class AnsweringWindow:
    """A base that sees the last tokens of a prompt, as many as fit into its window with the new ones: the lower bound."""

    name = "window"

    def __init__(self, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, window: int):
        if window < 2:
            raise UserError(f"window={window} has no room for a prompt and an answer: give at least 2 tokens.")
        self.base, self.tokenizer, self.window = base, tokenizer, window
        self.about = about_model(base, window)

    @torch.no_grad()
    def answer(self, prompt: Prompt, max_new_tokens: int) -> str:
        ids = tokenize(self.tokenizer, prompt.text).to(self.base.device)
        piece = min(max_new_tokens, max(1, self.window // 4))

        def generate(running: Tensor, count: int) -> Tensor:
            seen = running[:, -(self.window - piece) :]
            options = {"attention_mask": torch.ones_like(seen), "pad_token_id": 0}
            new = self.base.generate(seen, max_new_tokens=count, do_sample=False, **options)[:, seen.shape[1] :]
            return torch.cat([running, new], 1)

        return written(generate, self.base, self.tokenizer, ids, max_new_tokens, piece)
