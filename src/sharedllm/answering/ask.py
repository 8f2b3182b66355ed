"""A question to a text that was kept whole: the selection within a budget, the answer, and its sources."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..causal_lm import SharedLLMForCausalLM
from ..memory.context_memory import ContextMemory
from ..memory.segments import Source, roots, segments_of
from ..model.config import SharedLLMConfig
from ..prompts import PromptForm, own_words
from ..scoring import SCORES
from ..scoring.base import TokenScore, get_score
from ..scoring.bm25 import in_whole_words
from ..scoring.defaults import default_budget, default_score
from ..scoring.hybrid import HybridScore
from ..scoring.meaning import Compared
from ..scoring.passages import select_pieces
from ..scoring.rankings import RANKINGS, check_ranking
from ..utils.errors import UserError, at_least_one
from ..utils.hardware import now
from .asked import answer_length, check_model, prompt_of, searched_for
from .citations import Citation, cite, describe, supporting
from .nearest import narrowed
from .prefill import Progress, following
from .stream import AnswerStream, StopOnText, cut_off, ending

# Most sources that are named.
SOURCES = 3


@dataclass(frozen=True)
class Chosen:
    """The part of a text that is read for a question.

    memory     the chosen tokens
    scores     (1, Z) how much the token at each slot of the text matters to the question
    citations  the parts that were kept whole, best first; of an `Answer` those that have its words before others
    sources    the citations for display (see `citations.describe`)
    found      None where it is not known: for models that do not read deeper, and for questions of nothing but words such as "what is it"; False: the text has hardly anything of the question and may not answer it
    compared   what was done to compare meanings
    """

    memory: ContextMemory
    scores: Tensor
    citations: list[Citation]
    sources: list[dict[str, Any]]
    found: bool | None
    compared: Compared

    def supporting(self, question: str, answer: str, most: int = SOURCES) -> "Chosen":
        """The same with at most so many citations and sources, those first that have the answer's words."""
        order = supporting([source["text"] for source in self.sources], question, answer)[:most]
        citations, sources = ([every[i] for i in order] for every in (self.citations, self.sources))
        return replace(self, citations=citations, sources=sources)

    def too_little(self, budget: str) -> str | None:
        """What to tell who asked if no part of the text was read whole; None if one was.

        Args:
            budget: the name under which the budget was given.
        """
        read = int(self.memory.kept[0])
        return None if read and self.sources else f"Only {read} tokens of the text were read for this: raise {budget}."


@dataclass(frozen=True)
class Answer(Chosen):
    """An answer, and the data it was made from.

    question, budget, score  as given
    text          the model's text; for models without a chat template its first line
    cut           the text had to end at `max_new_tokens`
    question_ids  (1, Q) the prompt
    answer_ids    (1, A) the tokens up to the end of the text, A ≥ 1
    chunks        slots at which the chunks of the text begin and end, (N,) each
    seconds       by step: select; deepen, or give positions; prefill, up to the first token; decode
    """

    question: str
    budget: int
    score: str
    text: str
    cut: bool
    question_ids: Tensor
    answer_ids: Tensor
    chunks: tuple[Tensor, Tensor]
    seconds: dict[str, float]


@dataclass(frozen=True)
class Written:
    """text: the answer, up to its end (see `PromptForm`). cut: it had to end earlier. ids: (1, A) its tokens. seconds: by step."""

    text: str
    cut: bool
    ids: Tensor
    seconds: dict[str, float]


def checked_score(config: SharedLLMConfig, score: str | None) -> str:
    """The name of a score, checked for a model of a configuration; None gives the default.

    Raises:
        UserError: no score of that name, or the model does not support it.
    """
    score = score or default_score(config)
    if config.injection == "deep":
        check_ranking(config, score)
    elif score in RANKINGS and score not in SCORES:
        raise UserError(
            f"score={score!r} is for models with injection='deep', which `sharedllm extend` makes: use one of {SCORES.names}."
        )
    else:
        get_score(score, config)
    return score


def after_prefix(model: SharedLLMForCausalLM, prompt: Tensor) -> Tensor:
    """(1, Q) the part of a prompt (1, L) after the prefix, which the memory already contains."""
    prefix = list(model.config.prefix or []) if model.config.injection == "deep" else []
    return prompt[:, len(prefix) :] if prompt[0, : len(prefix)].tolist() == prefix else prompt


def answer_over(
    model: SharedLLMForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    memory: ContextMemory,
    prompt: Tensor,
    max_new_tokens: int | None,
    reading: Progress | None = None,
) -> Written:
    """The greedy answer to a prompt (1, Q) over a memory. reading: see `prefill.following`."""
    form = PromptForm.of(tokenizer)
    stream = AnswerStream(tokenizer, one_line=form.one_line, strip=True)
    stop = StopOnText(stream)
    ends, most = ending(model, form), answer_length(model.config, max_new_tokens)
    prompt = after_prefix(model, prompt)
    begin = now()
    with torch.no_grad():
        prepared = model.model.prepare_memory(memory)
    ready = now()
    options: dict[str, Any] = {"max_new_tokens": most, "do_sample": False, "stopping_criteria": [stop], **ends}
    with following(model, reading):
        output = model.generate(prompt, memory=prepared, **options)
    done = now()
    first = stop.first or done
    said = stream.text.rstrip()
    text = stream.finish().rstrip()
    # Only the tokens of the answer itself count, not the ones that end the line.
    needed = stop.needed if text == said else stop.tokens
    ids = output[:, prompt.shape[1] :]
    seconds = {"deepen": ready - begin, "prefill": first - ready, "decode": done - first}
    return Written(text, cut_off(stop, most, ends.get("eos_token_id", [])), ids[:, : needed or ids.shape[1]], seconds)


@torch.no_grad()
def choose(
    model: SharedLLMForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    everything: Source,
    prompt: Tensor,
    form: Tensor | None = None,
    *,
    budget: int,
    score: str | TokenScore | None = None,
    progress: Callable[[int], None] | None = None,
) -> Chosen:
    """Choose the part of a text that is read for a question, within a budget.

    Args:
        prompt: (1, Q) the question. form: (1, F) the same prompt with a placeholder question (see `own_words`).
        Other arguments as for `ask`.
    """
    words = own_words(prompt, form) if form is not None else None
    everything = narrowed(model, tokenizer, everything, prompt, words)
    score = score or default_score(model.config)
    if model.config.injection == "deep":
        own = words if words is not None else torch.ones_like(prompt, dtype=torch.bool)
        asked = after_prefix(model, prompt)
        ranking = score if isinstance(score, str) else score.name
        selected = select_pieces(
            model.model, segments_of(everything), tokenizer, asked, own[:, -asked.shape[1] :], budget, ranking, progress
        )
        return _chosen(tokenizer, selected.memory, selected.scores, selected.found, selected.compared)
    scores = token_scores(model, tokenizer, everything, prompt, words, score)
    memory = model.select(everything, prompt, budget=budget, score=scores)
    return _chosen(tokenizer, memory, scores)


def token_scores(
    model: SharedLLMForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    everything: Source,
    prompt: Tensor,
    words: Tensor | None,
    score: str | TokenScore,
) -> Tensor:
    """(1, Z) how much the token at each slot of a text matters to a prompt (1, Q), of which `words` (1, Q) bool are the
    question's own. Lexical scores compare whole words."""
    scoring = get_score(score, model.config)
    scoring = (
        scoring.in_whole_words(tokenizer) if isinstance(scoring, HybridScore) else in_whole_words(scoring, tokenizer)
    )
    return model.scores(everything, prompt, query_words=words, score=scoring)


def _chosen(
    tokenizer: PreTrainedTokenizerBase,
    memory: ContextMemory,
    scores: Tensor,
    found: bool | None = None,
    compared: Compared | None = None,
) -> Chosen:
    citations = cite(memory, scores)
    sources = [describe(tokenizer, memory, citation) for citation in citations]
    return Chosen(memory, scores, citations, sources, found, compared or Compared())


def ask(
    model: SharedLLMForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    everything: Source,
    question: str,
    *,
    budget: int | None = None,
    score: str | None = None,
    max_new_tokens: int | None = None,
    most_sources: int = SOURCES,
    instruction: str | None = None,
    progress: Callable[[int], None] | None = None,
    reading: Progress | None = None,
) -> Answer:
    """Answer a question over a text of which every token was kept.

    Args:
        everything: one text of `read(…, keep_all=True)`, a `MemoryStore`, or several of them, which are concatenated.
            They are not changed, so they can be asked again.
        budget: most tokens of it to read for this question; default: `default_budget`. score: how the budget is spent
            (see `scoring`; for models that read deeper `scoring.rankings`); default: `default_score`.
        max_new_tokens: longest answer; default: see `asked.answer_length`.
        most_sources: how many sources are named, those first that have the words of the answer.
        instruction: how to answer; nothing is chosen by it. Default: with as few words as possible, where the tokenizer has
            a chat template; else none.
        progress: called with the number of tokens, of text or question, that were read or compared since the last call to
            choose what to read.
        reading: called while the question is read, with how many of its tokens were, and with all of them.

    Raises:
        UserError: an empty or too long question, a budget that is too small for parts of the text, a memory that does not hold every
            token, an argument of a wrong type, or no source asked for.
    """
    begin = now()
    check_model(model, tokenizer)
    most_sources = at_least_one("most_sources", most_sources)
    budget = default_budget(model.config) if budget is None else budget
    score = score or default_score(model.config)
    prompt = prompt_of(model, tokenizer, question, max_new_tokens, instruction)
    searched, form = searched_for(model, tokenizer, question)
    everything = narrowed(model, tokenizer, everything, searched, own_words(searched, form))
    options: dict[str, Any] = {"budget": budget, "score": score, "progress": progress}
    chosen = choose(model, tokenizer, everything, searched, form, **options)
    selecting = {"select": now() - begin}
    written = answer_over(model, tokenizer, chosen.memory, prompt, max_new_tokens, reading)
    chunks = roots(segments_of(everything), 0)
    chosen = chosen.supporting(question, written.text, most_sources)
    return Answer(**vars(chosen), question=question.strip(), budget=budget, score=score, text=written.text, cut=written.cut,
                  question_ids=prompt, answer_ids=written.ids, chunks=chunks, seconds=selecting | written.seconds)  # fmt: skip
