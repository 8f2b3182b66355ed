"""From a request to its answers, in the worker's thread: prompt, selection from a memory, and generated text."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..answering.ask import Chosen, after_prefix, choose
from ..answering.nearest import narrowed
from ..answering.stream import COLDEST, ending
from ..causal_lm import SharedLLMForCausalLM
from ..memory.context_memory import ContextMemory
from ..memory.interface import Memory, lacking
from ..memory.segments import Source
from ..prompts import PromptForm, own_words
from ..rows import Begun, Row
from ..scoring.defaults import default_score
from ..utils.control_tokens import checked
from .choice import Choice, Hooks, Writer
from .errors import invalid
from .prompting import Prompt, prompt_of
from .requests import ChatRequest, CompletionRequest, Sampled


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
    writers = [Writer(model, tokenizer, request, prompt, index, hooks) for index in range(request.choices)]
    hooks.prompt(ids.shape[1])
    wanted = named or request.budget is not None
    if source is not None and (wanted or prompt.question.shape[1] <= model.config.window):
        name, store = source
        if store.tokens == sum(lost.end - lost.start for lost in store.damaged):
            raise invalid("memory", f"memory={name!r} holds no readable text: upload a document to it first.")
        budget, score = request.budget or budget, score or default_score(model.config)
        asked = _narrowed(model, tokenizer, store, prompt)
        chosen = _selected(model, tokenizer, asked, prompt, budget, score, hooks.step)
        memory = chosen.memory
        selected = int(memory.kept[0])
        extra = {"memory": name, "budget": budget, "score": score, "selected_tokens": selected}
        extra |= {"found": chosen.found, "sources": chosen.sources} | lacking(store)
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
