"""A request to its answer, in the worker's thread: the prompt, what of a memory is read for it, and the text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..answering.ask import NOTHING, choose, plain
from ..answering.stream import AnswerStream, StopOnText
from ..causal_lm import SharedLLMForCausalLM
from ..memory.context_memory import ContextMemory
from ..store import MemoryStore
from ..utils.text import tokenize
from .errors import invalid
from .requests import ChatRequest, CompletionRequest, Message, Sampled


@dataclass(frozen=True)
class Prompt:
    """text: to be continued. question: what of it a memory is searched for. form: the same with next to nothing asked, if
    questions have a form. one_line: the answer ends with its line."""

    text: str
    question: str
    form: str | None
    one_line: bool


@dataclass(frozen=True)
class Answered:
    """finish: why the text ended, "stop" or "length". extra: what was read from a memory."""

    text: str
    finish: str
    prompt_tokens: int
    tokens: int
    extra: dict[str, Any] = field(default_factory=dict)


def prompt_of(request: ChatRequest | CompletionRequest, tokenizer: PreTrainedTokenizerBase) -> Prompt:
    """What the model is to continue: as the tokenizer's chat template has it, or in the plain form (see `asking.plain`).

    Raises:
        ServingError: messages that make no question.
    """
    if isinstance(request, CompletionRequest):
        return Prompt(request.prompt, request.prompt, None, one_line=False)
    last = request.messages[-1]
    if last.role != "user" or not last.text.strip():
        raise invalid("messages", f"the last message is {last.role}'s, or empty: end with a question of the user.")
    if tokenizer.chat_template:
        form = _templated(tokenizer, [Message(role="user", content=NOTHING)])
        return Prompt(_templated(tokenizer, request.messages), _templated(tokenizer, [last]), form, one_line=False)
    forms = {"user": lambda text: plain(text.strip()), "assistant": lambda text: f" {text.strip()}"}
    text = "".join(forms.get(m.role, lambda text: f"{text}\n")(m.text) for m in request.messages)
    return Prompt(text, plain(last.text.strip()), plain(NOTHING), one_line=True)


@torch.no_grad()
def answer(
    model: SharedLLMForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    request: ChatRequest | CompletionRequest,
    store: MemoryStore | None,
    *,
    budget: int,
    score: str,
    check: Callable[..., None],
    on_prompt: Callable[[int], None],
    on_token: Callable[[], None],
    on_text: Callable[[str], None],
) -> Answered:
    """Answer a request, over what matters of a memory if there is one.

    Args:
        store: the memory to select from. budget: most tokens of it, unless the request says. score: what that goes by.
        check: called often; ends the work by an exception.
        on_prompt: called with the tokens of the prompt. on_token: with each token. on_text: with each piece of the text.

    Raises:
        ServingError: messages that make no question, or a question too long to search for.
        Whatever `check` raises.
    """
    prompt = prompt_of(request, tokenizer)
    ids = tokenize(tokenizer, prompt.text).to(model.device)
    on_prompt(ids.shape[1])
    memory, extra = None, {}
    if store is not None:
        budget = request.budget or budget
        memory, sources = _selected(model, tokenizer, store, prompt, budget, score)
        read = int(memory.kept[0])
        extra = {"memory": request.memory, "budget": budget, "score": score, "read_tokens": read, "sources": sources}
        check()
    running, memory = _far_read(model, ids, memory, check)
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
        **_sampling(request),
    )
    text = stream.finish()
    ended = stream.stopped or stop.last in _ends(model)
    return Answered(text, "stop" if ended else "length", ids.shape[1], stop.tokens, extra)


def _templated(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    turns = [{"role": "system" if m.role == "developer" else m.role, "content": m.text} for m in messages]
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    except TemplateError as error:
        raise invalid("messages", f"the model's chat template refuses these messages: {error}.") from None


def _selected(
    model: SharedLLMForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    store: MemoryStore,
    prompt: Prompt,
    budget: int,
    score: str,
) -> tuple[ContextMemory, list[dict[str, Any]]]:
    """What of a store matters to a question, and the best parts of that."""
    query = tokenize(tokenizer, prompt.question).to(model.device)
    form = tokenize(tokenizer, prompt.form) if prompt.form is not None else None
    window = model.config.window
    if query.shape[1] > window:
        raise invalid(
            "messages",
            f"the question has {query.shape[1]} tokens, the window={window}: shorten it to search the memory for it.",
        )
    chosen = choose(model, tokenizer, store, query, form, budget=budget, score=score)
    return chosen.memory, chosen.sources


def _far_read(
    model: SharedLLMForCausalLM, ids: Tensor, memory: ContextMemory | None, check: Callable[..., None]
) -> tuple[Tensor, ContextMemory | None]:
    """The end of a prompt, and the memory with all before it read behind: whole chunks that the window can't hold.

    As `generate` would do by itself, but in batches, and `check` is called between them.
    """
    size, window = model.config.chunk_size, model.config.window
    far = max(ids.shape[1] - window, 0) // size * size
    if not far:
        return ids, memory
    options = {"query_ids": ids[:, -window:], "progress": check}
    if memory is None:
        return ids[:, far:], model.read(ids[:, :far], fingerprint=False, **options)
    return ids[:, far:], model.append(memory.to(ids.device), ids[:, :far], **options)


def _sampling(request: Sampled) -> dict[str, Any]:
    if not request.temperature:
        return {"do_sample": False}
    top_p = 1.0 if request.top_p is None else request.top_p
    return {"do_sample": True, "temperature": request.temperature, "top_p": top_p, "top_k": 0}


def _ends(model: SharedLLMForCausalLM) -> set[int]:
    config = model.generation_config
    ends = config.eos_token_id if config is not None else None
    return set(ends) if isinstance(ends, list) else {ends} - {None}


class _Checked(StopOnText):
    """Checks before each token whether anybody still waits for it."""

    def __init__(self, stream: AnswerStream, check: Callable[..., None], on_token: Callable[[], None]):
        super().__init__(stream)
        self.check, self.on_token = check, on_token

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        self.check()
        self.on_token()
        return super().__call__(input_ids, scores, **kwargs)
