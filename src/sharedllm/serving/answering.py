"""From a request to its answers, in the worker's thread: prompt, selection from a memory, and generated text."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..answering.ask import Chosen, after_prefix, choose
from ..answering.nearest import narrowed
from ..answering.stream import COLDEST, AnswerStream, StopOnText, end_tokens, ending
from ..causal_lm import SharedLLMForCausalLM
from ..memory.context_memory import ContextMemory
from ..memory.interface import Memory
from ..memory.segments import Source
from ..prompts import PromptForm, own_words
from ..rows import Begun, Row
from ..scoring.defaults import default_score
from ..utils.control_tokens import checked
from .errors import invalid
from .grammar import Grammar
from .prompting import Prompt, prompt_of
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
class Read:
    """What an answer was given over, for explaining it. running: (1, L) the prompt after the memory."""

    chosen: Chosen
    source: Source
    question: str
    budget: int
    score: str
    running: Tensor
    text: str
    cut: bool
    ids: Tensor


@dataclass(frozen=True)
class Answered:
    """extra: data about the selection from a memory, or that none was read. read: what the first answer was given over, if it can be explained."""

    choices: list[Choice]
    prompt_tokens: int
    extra: dict[str, Any] = field(default_factory=dict)
    read: Read | None = None

    @property
    def tokens(self) -> int:
        return sum(choice.tokens for choice in self.choices)


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


@torch.no_grad()
def answer(
    model: SharedLLMForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    request: ChatRequest | CompletionRequest,
    source: tuple[str, Memory] | None,
    *,
    named: bool,
    budget: int,
    score: str | None,
    hooks: Hooks,
    warning: str | None = None,
) -> Generator[list[Row], None, Answered]:
    """Answer a request, over a selection from a memory if there is one.

    Args:
        source: name and store of the memory to select from. named: the request names it; otherwise it is left out when
            the question is too long to search for, as in a prompt that contains its own text. budget: most tokens of it,
            unless the request says otherwise. score: how the budget is spent.
        warning: for the client, if no memory is read.

    Yields:
        Once, when the prompt was read: a row for each answer, to be continued to its end before this goes on.

    Raises:
        ServingError: the messages don't end with a question, the question is too long to search for, or the model can't
            do what a field asks for.
        Whatever `hooks.check` raises.
    """
    with checked(hooks.check):
        prompt = prompt_of(request, tokenizer, model.config.window)
    ids = prompt.ids.to(model.device)
    memory, chosen, asked = None, None, None
    extra: dict[str, Any] = {} if warning is None else {"memory": None}
    warnings = [warning, prompt.warning]
    writers = [_Writer(model, tokenizer, request, prompt, index, hooks) for index in range(request.choices)]
    hooks.prompt(ids.shape[1])
    wanted = named or request.budget is not None
    if source is not None and (wanted or prompt.question.shape[1] <= model.config.window):
        name, store = source
        if not store.tokens:
            raise invalid("memory", f"memory={name!r} holds no readable text: upload a document to it first.")
        budget, score = request.budget or budget, score or default_score(model.config)
        asked = _narrowed(model, tokenizer, store, prompt)
        chosen = _selected(model, tokenizer, asked, prompt, budget, score, hooks.step)
        memory = chosen.memory
        selected = int(memory.kept[0])
        extra = {"memory": name, "budget": budget, "score": score, "selected_tokens": selected}
        extra |= {"found": chosen.found, "sources": chosen.sources}
        warnings = [chosen.too_little("budget"), prompt.warning]
        hooks.check()
    if said := " ".join(filter(None, warnings)):
        extra |= {"warning": said}
    running, memory = _far_read(model, ids, memory, hooks.step)
    whole = running.shape[1] == ids.shape[1]
    running = after_prefix(model, running) if memory is not None else running
    options = _sampling(model, request) | ending(model, PromptForm.of(tokenizer))
    begun = Begun(model, running, memory, request.tokens, **options)
    yield [
        Row(begun, writer, [writer.steering], None if request.seed is None else request.seed + index)
        for index, writer in enumerate(writers)
    ]
    choices = [writer.choice for writer in writers]
    if chosen is not None:
        chosen = chosen.supporting(prompt.text, choices[0].text)
        extra |= {"sources": chosen.sources}
    explained = None
    if request.explain and asked is not None and chosen is not None and whole and writers[0].said:
        # Of a long answer as much as fits into the window together with the prompt.
        said = torch.tensor([writers[0].said[: model.config.window - running.shape[1] + 1]])
        first, prompted = choices[0], running.cpu()
        cut = first.finish == "length"
        explained = Read(chosen, asked, prompt.text, budget, str(score), prompted, first.text, cut, said)
    return Answered(choices, ids.shape[1], extra, explained)


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


def _narrowed(model: SharedLLMForCausalLM, tokenizer: PreTrainedTokenizerBase, store: Memory, prompt: Prompt) -> Source:
    """The store, or of a corpus the documents for a question.

    Raises:
        ServingError: the question is too long to search for, or has no word.
    """
    if not prompt.has_words:
        raise invalid(
            prompt.field,
            f'the question {prompt.text.strip()[:40]!r} has no word to search the memory for: ask with one, or send memory="".',
        )
    query, window = prompt.question.to(model.device), model.config.window
    if query.shape[1] > window:
        raise invalid(
            prompt.field,
            f"the question has {query.shape[1]:,} tokens, the window={window}: shorten it to search the memory for it.",
        )
    own = own_words(query, prompt.form) if prompt.form is not None else None
    return narrowed(model, tokenizer, store, query, own)


def _selected(
    model: SharedLLMForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    store: Source,
    prompt: Prompt,
    budget: int,
    score: str,
    step: Callable[[int], None],
) -> Chosen:
    """The part of a store that matters to a question, and the best parts of it."""
    query = prompt.question.to(model.device)
    return choose(model, tokenizer, store, query, prompt.form, budget=budget, score=score, progress=step)


def _far_read(
    model: SharedLLMForCausalLM, ids: Tensor, memory: ContextMemory | None, step: Callable[[int], None]
) -> tuple[Tensor, ContextMemory | None]:
    """The end of a prompt, and the memory with everything before it appended: the whole chunks that don't fit into the window.

    `generate` would do the same, but this works in batches and calls `step` between them.
    """
    size, window = model.config.chunk_size, model.config.window
    far = max(ids.shape[1] - window, 0) // size * size
    if not far:
        return ids, memory
    options = {"query_ids": ids[:, -window:], "progress": step}
    if memory is None:
        return ids[:, far:], model.read(ids[:, :far], fingerprint=False, **options)
    return ids[:, far:], model.append(memory.to(ids.device), ids[:, :far], **options)


def _sampling(model: SharedLLMForCausalLM, request: Sampled) -> dict[str, Any]:
    """Sampling arguments: the request's, and otherwise those of the model's generation configuration."""
    if (request.temperature or 0) <= COLDEST:
        return {"do_sample": False}
    said = {"do_sample": True, "temperature": request.temperature}
    own = model.generation_config
    if request.top_p is not None or own is None or own.top_p is None:
        said["top_p"] = 1.0 if request.top_p is None else request.top_p
    if own is None or own.top_k is None:
        said["top_k"] = 0
    return said


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


class _Writer(StopOnText):
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
