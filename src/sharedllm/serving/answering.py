"""From a request to its answer, in the worker's thread: prompt, selection from a memory, and generated text."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..answering.ask import after_prefix, choose
from ..answering.stream import COLDEST, AnswerStream, StopOnText, end_tokens, ending
from ..causal_lm import SharedLLMForCausalLM
from ..memory.context_memory import ContextMemory
from ..memory.interface import Memory
from ..prompts import NOTHING, PromptForm, with_beginning
from ..scoring.defaults import default_score
from ..utils.control_tokens import checked
from ..utils.errors import UserError
from ..utils.text import tokenize
from .errors import invalid
from .requests import ChatRequest, CompletionRequest, Sampled


@dataclass(frozen=True)
class Prompt:
    """ids: (1, L) to continue. question: (1, Q) the part to search a memory for. form: (1, F) the same with a
    placeholder question, if questions have a form. one_line: the answer is one line."""

    ids: Tensor
    question: Tensor
    form: Tensor | None
    one_line: bool


@dataclass(frozen=True)
class Answered:
    """finish: why the text ended, "stop" or "length". extra: data about the selection from a memory."""

    text: str
    finish: str
    prompt_tokens: int
    tokens: int
    extra: dict[str, Any] = field(default_factory=dict)


def prompt_of(request: ChatRequest | CompletionRequest, tokenizer: PreTrainedTokenizerBase) -> Prompt:
    """The prompt to continue, in the form of the model's tokenizer (see `PromptForm`).

    Raises:
        ServingError: the messages don't end with a question.
    """
    if isinstance(request, CompletionRequest):
        ids = tokenize(tokenizer, request.prompt)
        return Prompt(with_beginning(tokenizer, ids), ids, None, one_line=False)
    last, form = request.messages[-1], PromptForm.of(tokenizer)
    if last.role != "user" or not last.text.strip():
        raise invalid(
            "messages",
            f"the last message is empty or has the role {last.role!r}: end with a question, of the role 'user'.",
        )
    turns = [("system" if m.role == "developer" else m.role, m.text) for m in request.messages]
    try:
        return Prompt(form.conversation(turns), form.whole(last.text), form.whole(NOTHING), form.one_line)
    except UserError as error:
        raise invalid("messages", str(error)) from None


@torch.no_grad()
def answer(
    model: SharedLLMForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    request: ChatRequest | CompletionRequest,
    source: tuple[str, Memory] | None,
    *,
    budget: int,
    score: str | None,
    check: Callable[..., None],
    on_prompt: Callable[[int], None],
    on_token: Callable[[], None],
    on_text: Callable[[str], None],
) -> Answered:
    """Answer a request, over a selection from a memory if there is one.

    Args:
        source: name and store of the memory to select from. If the request did not name it, it is left out when the
            question is too long to search for, as in a prompt that contains its own text. budget: most tokens of it,
            unless the request says otherwise. score: how the budget is spent.
        check: called often; stops the work by raising an exception.
        on_prompt: called with the number of prompt tokens. on_token: called for each token. on_text: called with each
            piece of text.

    Raises:
        ServingError: the messages don't end with a question, or the question is too long to search for.
        Whatever `check` raises.
    """
    with checked(check):
        prompt, form = prompt_of(request, tokenizer), PromptForm.of(tokenizer)
    ids = prompt.ids.to(model.device)
    on_prompt(ids.shape[1])
    memory, extra = None, {}
    wanted = request.memory is not None or request.budget is not None
    if source is not None and (wanted or prompt.question.shape[1] <= model.config.window):
        name, store = source
        budget, score = request.budget or budget, score or default_score(model.config)
        memory, sources = _selected(model, tokenizer, store, prompt, budget, score)
        read = int(memory.kept[0])
        extra = {"memory": name, "budget": budget, "score": score, "read_tokens": read, "sources": sources}
        check()
    running, memory = _far_read(model, ids, memory, check)
    running = after_prefix(model, running) if memory is not None else running
    stream = AnswerStream(tokenizer, on_text, stops=request.stops, one_line=prompt.one_line, strip=prompt.one_line)
    stop = _Checked(stream, check, on_token)
    if request.seed is None:
        torch.seed()
    else:
        torch.manual_seed(request.seed)
    model.generate(
        running,
        memory=memory,
        max_new_tokens=request.tokens,
        stopping_criteria=[stop],
        **_sampling(model, request),
        **ending(model, form),
    )
    text = stream.finish()
    ended = stream.stopped or stop.last in end_tokens(model, form)
    return Answered(text, "stop" if ended else "length", ids.shape[1], stop.tokens, extra)


def _selected(
    model: SharedLLMForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    store: Memory,
    prompt: Prompt,
    budget: int,
    score: str,
) -> tuple[ContextMemory, list[dict[str, Any]]]:
    """The part of a store that matters to a question, and the best parts of it."""
    query = prompt.question.to(model.device)
    window = model.config.window
    if query.shape[1] > window:
        raise invalid(
            "messages",
            f"the question has {query.shape[1]} tokens, the window={window}: shorten it to search the memory for it.",
        )
    chosen = choose(model, tokenizer, store, query, prompt.form, budget=budget, score=score)
    return chosen.memory, chosen.sources


def _far_read(
    model: SharedLLMForCausalLM, ids: Tensor, memory: ContextMemory | None, check: Callable[..., None]
) -> tuple[Tensor, ContextMemory | None]:
    """The end of a prompt, and the memory with everything before it appended: the whole chunks that don't fit into the window.

    `generate` would do the same, but this works in batches and calls `check` between them.
    """
    size, window = model.config.chunk_size, model.config.window
    far = max(ids.shape[1] - window, 0) // size * size
    if not far:
        return ids, memory
    options = {"query_ids": ids[:, -window:], "progress": check}
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


class _Checked(StopOnText):
    """Checks before each token whether the client is still waiting."""

    def __init__(self, stream: AnswerStream, check: Callable[..., None], on_token: Callable[[], None]):
        super().__init__(stream)
        self.check, self.on_token = check, on_token

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        self.check()
        self.on_token()
        return super().__call__(input_ids, scores, **kwargs)
