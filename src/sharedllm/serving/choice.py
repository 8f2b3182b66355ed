"""One answer to a request, written as its row is continued: its pieces, its end, and the calls in it."""

from collections.abc import Callable
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from ..answering.stream import AnswerStream, StopOnText, end_tokens
from ..causal_lm import SharedLLMForCausalLM
from ..prompts import PromptForm
from .grammar import Grammar
from .prompting import Prompt
from .requests import ChatRequest, CompletionRequest, Sampled
from .steering import Scored, Steering
from .tools import Call


@dataclass(frozen=True)
class Piece:
    """A piece of an answer's text. choice: of which answer. scored: the tokens since the piece before, if their log probabilities
    are wanted; the last piece may have no text but tokens."""

    choice: int
    text: str
    scored: list[Scored] | None


@dataclass(frozen=True)
class Choice:
    """One answer. finish: why its text ended, "stop", "length" or "tool_calls". tokens: how many were generated.
    scored: all of these, if their log probabilities are wanted."""

    text: str
    finish: str
    tokens: int
    scored: list[Scored] | None = None
    calls: list[Call] = field(default_factory=list)


@dataclass(frozen=True)
class Hooks:
    """Called while a request is answered.

    check   often; stops the work by raising an exception. prompt: with the number of prompt tokens
    token   for each token. piece: with each piece of text
    pause   between two steps of reading a long prompt, or of comparing meanings; may answer other requests
    """

    check: Callable[..., None]
    prompt: Callable[[int], None]
    token: Callable[[], None]
    piece: Callable[[Piece], None]
    pause: Callable[[], None]

    def step(self, _: int = 0) -> None:
        self.check()
        self.pause()


class _Pieces:
    """Sends the pieces of an answer, each with the log probabilities of its tokens.

    said  how many tokens the pieces so far are made of
    """

    def __init__(self, index: int, steering: Steering, send: Callable[[Piece], None]):
        self.index, self.steering, self.send, self.said = index, steering, send, 0

    def say(self, text: str) -> None:
        scored = None
        if self.steering.alternatives is not None:
            scored = self.steering.scored[self.said :]
            self.said = len(self.steering.scored)
        self.send(Piece(self.index, text, scored))

    def finish(self) -> None:
        """Send the tokens that are in no piece: white space before a text that didn't begin, and what ended the text."""
        if self.said < len(self.steering.scored):
            self.say("")


class Writer(StopOnText):
    """Writes one answer as its row is continued: checks before each token whether the client is still waiting, and ends an
    answer whose grammar has ended.

    said    the tokens of the text, without those that end it
    choice  the whole answer, once it has ended
    """

    choice: Choice

    def __init__(
        self,
        model: SharedLLMForCausalLM,
        tokenizer: PreTrainedTokenizerBase,
        request: ChatRequest | CompletionRequest,
        prompt: Prompt,
        index: int,
        hooks: Hooks,
    ):
        """
        Raises:
            ServingError: the model can't do what a field asks for.
        """
        self.steering = _steering(model, tokenizer, request, prompt)
        plain = prompt.one_line and self.steering.grammar is None
        # Whether a text is a call is known at its end, so it is not sent in pieces.
        self._pieces = _Pieces(index, self.steering, (lambda _: None) if prompt.calls is not None else hooks.piece)
        say = self._pieces.say
        # A forced call is JSON that its grammar ends: a stop within it would leave half a call.
        stops = () if isinstance(request, ChatRequest) and request.forced else request.stops
        super().__init__(AnswerStream(tokenizer, say, stops=stops, one_line=plain, strip=prompt.one_line))
        self._ends = end_tokens(model, PromptForm.of(tokenizer))
        self._request, self._prompt, self._index, self._hooks = request, prompt, index, hooks
        self._written: list[int] = []

    @property
    def said(self) -> list[int]:
        return self._written[: self.needed or self.tokens]

    def took(self, token: int) -> bool:
        self._hooks.check()
        self._hooks.token()
        self._written.append(token)
        self.steering.took(token)
        return super().took(token) or self._stopped

    def ended(self) -> None:
        request, text = self._request, self.stream.finish()
        self._pieces.finish()
        scored = None if request.alternatives is None else self.steering.scored
        finish = "stop" if self._stopped or self.last in self._ends else "length"
        calls = []
        if isinstance(request, ChatRequest) and self._prompt.calls is not None:
            text, calls = self._prompt.calls.read(text, request.forced or request.offered)
            calls = calls[:1] if request.parallel_tool_calls is False else calls
            finish = "tool_calls" if calls else finish
            if text or scored:
                self._hooks.piece(Piece(self._index, text, scored))
        self.choice = Choice(text, finish, self.tokens, scored, calls)

    @property
    def _stopped(self) -> bool:
        return self.stream.stopped or (self.steering.grammar is not None and self.steering.grammar.ended)


def _steering(
    model: SharedLLMForCausalLM, tokenizer: PreTrainedTokenizerBase, request: Sampled, prompt: Prompt
) -> Steering:
    vocabulary = model.config.text_config.vocab_size
    schema, where, grammar = request.schema_of_text, "response_format", None
    if isinstance(request, ChatRequest) and request.forced and prompt.calls is not None:
        schema, where = prompt.calls.schema(request.forced), "tools"
    if schema is not None:
        grammar = Grammar(tokenizer, end_tokens(model, PromptForm.of(tokenizer)), vocabulary, schema, where)
    return Steering(request, vocabulary, grammar)
