"""Answers that keep to a JSON schema, by llguidance: before each token it says which tokens can come next.

llguidance is chosen over xgrammar: it depends on nothing (xgrammar installs triton and tvm-ffi), needs no compilation
per schema, and refuses what it can't keep instead of leaving it out.
"""

import functools
import json
from typing import Any

import numpy
import torch
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from .errors import invalid

# JSON is written without free white space, of which a small model might write any amount.
_COMPACT: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Grammar:
    """What can come next in an answer that keeps to a JSON schema."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, ends: list[int], vocabulary: int, schema: dict[str, Any], field: str
    ):
        """
        Args:
            ends: tokens that end an answer. vocabulary: number of the model's scores. field: of the request, for errors.

        Raises:
            ServingError: the schema is not one, or can't be kept; or the tokenizer has no fast form. `allow` and `took`
                raise it too, where only an answer shows that the schema has no end.
        """
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise invalid(field, f"{field} needs a fast tokenizer, which this model lacks: leave it out.")
        try:
            grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), defaults=_COMPACT)
            wrong = LLMatcher.validate_grammar(grammar, _tokens(tokenizer, tuple(ends), vocabulary))
        except ValueError as error:
            wrong = str(error)
        if wrong:
            raise invalid(field, f"{field} can't be kept: {' '.join(wrong.split())[:300]}; change it.")
        self._matcher = LLMatcher(_tokens(tokenizer, tuple(ends), vocabulary), grammar, log_level=0)
        self._ends, self._field = ends, field
        self._trial()

    @property
    def ended(self) -> bool:
        """Whether the answer is whole: nothing but an end can come next."""
        return self._matcher.is_stopped() or (not self._ends and self._matcher.is_accepting())

    def allow(self, scores: Tensor) -> Tensor:
        """Scores (1, V) with −∞ for tokens that can't come next."""
        if self.ended:
            return scores
        # llguidance.torch would do this too, but importing it compiles a kernel.
        mask = self._matcher.compute_bitmask()
        self._check(self._matcher)
        allowed = numpy.unpackbits(numpy.frombuffer(mask, numpy.uint8), bitorder="little")
        forbidden = torch.from_numpy(allowed[: scores.shape[1]] == 0)
        return scores.masked_fill(forbidden.to(scores.device), -float("inf"))

    def took(self, token: int) -> None:
        """The token that was chosen."""
        if not self.ended:
            self._matcher.consume_token(token)
            self._check(self._matcher)

    def _trial(self) -> None:
        """Look ahead: that a schema has no end often shows after its first forced tokens, so before anything is said."""
        ahead = self._matcher.deep_copy()
        ahead.consume_tokens(ahead.compute_ff_tokens())
        if not ahead.is_stopped():
            ahead.compute_bitmask()
        self._check(ahead)

    def _check(self, matcher: LLMatcher) -> None:
        """A matcher with an error counts as stopped, as if the answer were whole.

        Raises:
            ServingError: there is an error: the schema has no end, or is too complex.
        """
        if matcher.is_error():
            what = "its schema asks for itself without end, or for too much at once"
            raise invalid(self._field, f"{self._field} can't be kept: {what}; change it.")


@functools.lru_cache(maxsize=4)
def _tokens(tokenizer: PreTrainedTokenizerFast, ends: tuple[int, ...], vocabulary: int) -> LLTokenizer:
    return from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=list(ends) or None)
