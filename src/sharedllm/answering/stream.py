"""Decoding a stream of tokens to pieces of text, and finding where the text ends."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria

from ..prompts import PromptForm
from ..utils.hardware import now
from ..utils.text import decode

# Among so many tokens an incomplete character is considered broken, except the last one: UTF-8 has at most four bytes.
_BROKEN = 8
# A temperature at or below this takes the likeliest token: scores divided by it would leave the range of float32.
COLDEST = 1e-6


class Decoder:
    """Decodes text token by token, at a cost that does not grow with the text.

    `DecodeStream` of tokenizers is not used: it has no end, so it loses a character that is incomplete where an answer is
    cut off, and it fails on broken bytes in vocabularies with byte fallback (tests/answering/test_stream.py).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._tokenizer = tokenizer
        # The last emitted tokens, which affect how the next ones are decoded, and the tokens not emitted yet.
        self._before: list[int] = []
        self._held: list[int] = []

    def add(self, token: int) -> str:
        """The text that the token completes; empty while a character is incomplete."""
        self._held.append(token)
        text = self._decode(self._before + self._held)
        if not text.endswith("\ufffd"):
            return self._take(text, len(self._held))
        if len(self._held) < _BROKEN:
            return ""
        sure = self._sure(text)
        return self._take(self._decode(self._before + self._held[:sure]), sure)

    def finish(self) -> str:
        """The remaining text."""
        return self._take(self._decode(self._before + self._held), len(self._held))

    def _take(self, text: str, count: int) -> str:
        """Emit so many of the held tokens, which together with those before have this text."""
        before = self._decode(self._before)
        self._before, self._held = self._held[:count] or self._before, self._held[count:]
        return text[len(before) :]

    def _sure(self, text: str) -> int:
        """How many of the held tokens stay as they are in a text that ends with a broken character: all but the last ones,
        up to three, with which a good character may begin."""
        every = len(self._held)
        for count in range(every - 1, every - 4, -1):
            sure = self._decode(self._before + self._held[:count])
            if len(sure) < len(text) and text.startswith(sure):
                return count
        return every

    def _decode(self, ids: list[int]) -> str:
        return decode(self._tokenizer, ids, skip_special_tokens=True)


class AnswerStream:
    """The text of an answer up to the first stop. A possible beginning of a stop is held back until it is certain.

    text     the text emitted so far
    stopped  a stop was found; everything after it is dropped
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        say: Callable[[str], None] | None = None,
        *,
        stops: Sequence[str] = (),
        one_line: bool = False,
        strip: bool = False,
    ):
        """
        Args:
            say: called with each piece.
            stops: texts that end the answer and are not part of it. one_line: the end of a line ends it too.
            strip: leave out white space before the answer.
        """
        self._decoder, self._say = Decoder(tokenizer), say
        self._stops = (*stops, "\n") if one_line else tuple(stops)
        self._strip = strip
        self._held = self.text = ""
        self.stopped = False

    def add(self, token: int) -> None:
        self._take(self._decoder.add(token), end=False)

    def finish(self) -> str:
        """Emit the text held back; returns the whole answer."""
        self._take(self._decoder.finish(), end=True)
        return self.text

    def _take(self, new: str, end: bool) -> None:
        if self.stopped:
            return
        held = self._held + new
        if self._strip and not self.text:
            held = held.lstrip()
        found = min((place for stop in self._stops if (place := held.find(stop)) >= 0), default=None)
        self.stopped = found is not None
        if found is not None or end:
            piece, self._held = held[:found], ""
        else:
            kept = self._may_stop(held)
            piece, self._held = held[: len(held) - kept], held[len(held) - kept :]
        self.text += piece
        if piece and self._say is not None:
            self._say(piece)

    def _may_stop(self, text: str) -> int:
        """The number of characters at the end that may begin a stop."""
        return max(
            (n for s in self._stops for n in range(1, min(len(s), len(text) + 1)) if text.endswith(s[:n])), default=0
        )


class StopOnText(StoppingCriteria):
    """Writes each token as `generate` chooses it for the first row, or as a row of a batch does, and ends generation where
    the text stops.

    tokens  how many there were; last: the last one
    needed  how many of them make up the text, without white space after it
    first   time of the first token by `utils.hardware.now`; 0.0 before it
    """

    def __init__(self, stream: AnswerStream):
        self.stream = stream
        self.tokens, self.last, self.needed, self.first = 0, -1, 0, 0.0

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        return torch.full((len(input_ids),), self.took(int(input_ids[0, -1])), device=input_ids.device)

    def took(self, token: int) -> bool:
        """The token that was chosen; whether the text stops here."""
        self.first = self.first or now()
        before = len(self.stream.text.rstrip())
        self.tokens, self.last = self.tokens + 1, token
        self.stream.add(token)
        if len(self.stream.text.rstrip()) > before:
            self.needed = self.tokens
        return self.stream.stopped

    def ended(self) -> None:
        """For a row (see `rows.Listener`): nothing more to do."""


def cut_off(stop: StopOnText, limit: int, ends: Sequence[int]) -> bool:
    """Whether an answer of at most `limit` tokens had to end before its text did, which one of the tokens `ends` shows."""
    return stop.tokens >= limit and not stop.stream.stopped and stop.last not in ends


def end_tokens(model: PreTrainedModel, form: PromptForm) -> list[int]:
    """Every token that ends an answer according to the configuration, the generation configuration, the tokenizer or
    its chat template."""
    config = model.config.get_text_config()
    known = [config.eos_token_id, getattr(model.generation_config, "eos_token_id", None), list(form.ends)]
    ends = {i for ids in known if ids is not None for i in (ids if isinstance(ids, list | tuple) else [ids])}
    return sorted(i for i in ends if 0 <= i < config.vocab_size)


def ending(model: PreTrainedModel, form: PromptForm) -> dict[str, Any]:
    """Arguments of `generate` that end an answer at any of these tokens."""
    ends = end_tokens(model, form)
    padding = getattr(model.generation_config, "pad_token_id", None)
    return {"eos_token_id": ends, "pad_token_id": ends[0] if padding is None else padding} if ends else {}
