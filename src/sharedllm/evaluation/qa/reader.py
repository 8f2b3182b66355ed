"""A base model that reads a prompt, writes a greedy answer, and reports the cost of each step.

The common beginning of many prompts is read once: its keys and values stay, and everything read after it is cropped again.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from ...answering.stream import end_tokens
from ...prompts import PromptForm
from ...utils.hardware import now
from ...utils.text import tokenize


class TooLong(Exception):
    """A text can't be read: it does not fit, or takes longer than allowed."""


@dataclass
class Start:
    """A beginning that was read once: keys and values of `length` tokens."""

    cache: DynamicCache
    length: int
    seconds: float
    operations: float


@dataclass(frozen=True)
class Written:
    """text: the reply. tokens: its number of tokens. seconds: by step. operations: of all steps."""

    text: str
    tokens: int
    seconds: dict[str, float]
    operations: float


class Reader:
    """chunk: tokens read at once. window: most tokens of prompt and answer together."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, chunk: int = 1024):
        self.model, self.tokenizer, self.chunk = model, tokenizer, chunk
        self.form = PromptForm.of(tokenizer)
        self.ends = set(end_tokens(model, self.form))
        self.window = int(getattr(model.config, "max_position_embeddings", 0) or 2**31)
        config = model.config
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._attention = 4 * config.num_hidden_layers * config.num_attention_heads * head
        embedded = {id(m.weight) for m in (model.get_input_embeddings(), model.get_output_embeddings())}
        self._linear = 2 * sum(p.numel() for p in model.parameters() if id(p) not in embedded and p.ndim > 1)
        self._output = 2 * model.get_output_embeddings().weight.numel()
        self._head: Start | None = None

    def ids(self, text: str) -> Tensor:
        """(1, T) ids of a text to read. It is data: imitated control tokens are encoded as characters."""
        ids = tokenize(self.tokenizer, text) if text else torch.zeros(1, 0, dtype=torch.long)
        return ids.to(self.model.device)

    def beginning(self, text: str) -> Tensor:
        """(1, T) the head of the chat template, and a text after it."""
        return torch.cat([self.form.head().to(self.model.device), self.ids(text)], 1)

    def prompt(self, shown: str, question: str, after_text: bool) -> Tensor:
        """(1, Q) the part after the head, or after a text that was read: pieces of text, and the question.

        Args:
            after_text: whether a text precedes the question, either in the pieces or read before.
        """
        asked = self.form.question(question, after_context=after_text).to(self.model.device)
        return torch.cat([self.ids(shown), asked], 1)

    def operations(self, tokens: int, before: int, outputs: int = 0) -> float:
        """Floating-point operations of reading tokens after others: products with weights, attention (causal attention
        counts half of its square), and logits of `outputs` tokens."""
        return tokens * self._linear + self._attention * tokens * (before + (tokens + 1) / 2) + outputs * self._output

    def head(self) -> Start:
        """The head of the chat template, read once."""
        if self._head is None:
            self._head = self.read("")
        return self._head

    @torch.no_grad()
    def read(
        self, text: str, limit_s: float | None = None, progress: Callable[[int], None] = lambda tokens: None
    ) -> Start:
        """Keys and values of the head, and a text after it.

        Raises:
            TooLong: it does not fit into the window, or takes longer than `limit_s` seconds.
        """
        ids, begin = self.beginning(text), now()
        if ids.shape[1] > self.window:
            raise TooLong(f"{ids.shape[1]:,} tokens do not fit into the window of {self.window:,}")
        cache = DynamicCache(config=self.model.config)
        for start in range(0, ids.shape[1], self.chunk):
            part = ids[:, start : start + self.chunk]
            self.model(part, past_key_values=cache, use_cache=True, logits_to_keep=1)
            progress(part.shape[1])
            if limit_s is not None and now() - begin > limit_s and start + self.chunk < ids.shape[1]:
                raise TooLong(f"{start + part.shape[1]:,} of {ids.shape[1]:,} tokens took {limit_s:,.0f} s")
        # Layers with a sliding window would otherwise forget what they need again after a question.
        cache.activate_past_recording()
        return Start(cache, ids.shape[1], now() - begin, self.operations(ids.shape[1], 0))

    @torch.no_grad()
    def write(self, start: Start, ids: Tensor, max_new_tokens: int) -> Written:
        """The greedy answer to a prompt (1, Q) after a beginning, which is restored afterwards.

        Raises:
            TooLong: prompt and answer do not fit into the window.
        """
        length = start.length + ids.shape[1]
        if length + max_new_tokens > self.window:
            raise TooLong(f"{length + max_new_tokens:,} tokens do not fit into the window of {self.window:,}")
        begin = now()
        try:
            for at in range(0, ids.shape[1], self.chunk):
                part = ids[:, at : at + self.chunk]
                logits = self.model(part, past_key_values=start.cache, use_cache=True, logits_to_keep=1).logits
            token, new = logits[:, -1:].argmax(-1), []
            read, passes = now(), 0
            while int(token) not in self.ends:
                new.append(int(token))
                if len(new) == max_new_tokens or (self.form.one_line and "\n" in self._text(new).lstrip()):
                    break
                logits = self.model(token, past_key_values=start.cache, use_cache=True, logits_to_keep=1).logits
                token, passes = logits[:, -1:].argmax(-1), passes + 1
        finally:
            self._shorten(start)
        seconds = {"prefill": read - begin, "decode": now() - read}
        operations = self.operations(ids.shape[1], start.length, 1) + self.operations(passes, length, passes)
        text = self._text(new).strip()
        return Written(text.split("\n")[0] if self.form.one_line else text, len(new), seconds, operations)

    @staticmethod
    def _shorten(start: Start) -> None:
        """Crop everything read after the beginning. `crop` takes the negative number of tokens to remove."""
        if (more := start.cache.get_seq_length() - start.length) > 0:
            start.cache.crop(-more)

    def _text(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))
