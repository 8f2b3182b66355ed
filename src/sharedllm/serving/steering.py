"""What a request changes in the scores of the next token, and what it wants to know of them."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from ..utils.text import decode
from .errors import invalid
from .grammar import Grammar
from .requests import Sampled

# The log probability of what can't be, as in OpenAI's API: JSON has no −∞.
_NEVER = -9999.0


@dataclass(frozen=True)
class Scored:
    """A token of an answer. logprob: its natural logarithm of probability, by the model itself: before temperature,
    penalties and grammars, but without what its own configuration rules out, which has `_NEVER`. likeliest: the likeliest
    tokens there, with theirs."""

    token: int
    logprob: float
    likeliest: list[tuple[int, float]]


class Steering(LogitsProcessor):
    """Penalties, bias and grammar of one answer, and the log probabilities of its tokens.

    scored  the tokens so far, if their log probabilities are wanted
    """

    def __init__(self, request: Sampled, vocabulary: int, grammar: Grammar | None):
        """
        Raises:
            ServingError: a biased token is not in the vocabulary.
        """
        self.grammar, self.alternatives = grammar, request.alternatives
        self.frequency, self.presence = request.frequency_penalty or 0.0, request.presence_penalty or 0.0
        bias = request.logit_bias or {}
        if wrong := [token for token in bias if not 0 <= token < vocabulary]:
            raise invalid("logit_bias", f"logit_bias names token {wrong[0]}: use ids from 0 to {vocabulary - 1}.")
        self.bias = torch.zeros(vocabulary)
        self.bias[torch.tensor([*bias], dtype=torch.long)] = torch.tensor([*map(float, bias.values())])
        self.counts = torch.zeros(vocabulary)
        self.changes = bool(bias) or self.frequency != 0 or self.presence != 0
        self.scored: list[Scored] = []
        self._own = torch.zeros(0)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self.alternatives is not None:
            self._own = torch.log_softmax(scores[0].float(), -1).clamp(min=_NEVER).cpu()
        if self.changes:
            less = self.frequency * self.counts + self.presence * (self.counts > 0)
            scores = scores + (self.bias - less).to(scores)
        return scores if self.grammar is None else self.grammar.allow(scores)

    def took(self, token: int) -> None:
        """The token that was chosen."""
        self.counts[token] += 1
        if self.alternatives is not None:
            best = self._own.topk(min(self.alternatives, len(self._own)))
            likeliest = list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
            self.scored.append(Scored(token, float(self._own[token]), likeliest))
        if self.grammar is not None:
            self.grammar.took(token)


def spelled(tokenizer: PreTrainedTokenizerBase, token: int) -> tuple[str, list[int]]:
    """A token's text and its bytes. A part of a character has no text of its own, but bytes in a byte-level vocabulary."""
    text = decode(tokenizer, [token])
    if "\ufffd" in text and (piece := tokenizer.convert_ids_to_tokens(token)) and isinstance(piece, str):
        known = byte_letters()
        if all(c in known for c in piece):
            return text, [known[c] for c in piece]
    return text, list(text.encode("utf-8", "replace"))


def byte_letters() -> dict[str, int]:
    """The letters by which a byte-level vocabulary writes bytes, and those bytes (GPT-2's table)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(b): b for b in shown} | {chr(256 + i): b for i, b in enumerate(hidden)}
