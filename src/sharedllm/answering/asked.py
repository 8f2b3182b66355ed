"""The prompt of a question: its form, and whether it fits into the window together with the answer."""

from itertools import count
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..causal_lm import SharedLLMForCausalLM
from ..model.config import SharedLLMConfig
from ..prompts import FEW_WORDS, NOTHING, PromptForm
from ..scoring.words import said
from ..utils.errors import UserError, at_least_one, named_type, shown

# Names and numbers need few tokens, but a summary more, and an identifier of 36 characters up to 36.
ANSWER_TOKENS = 128


def check_model(model: Any, tokenizer: Any) -> None:
    """Refuse what can't be asked.

    Raises:
        UserError: `model` is no SharedLLM, or `tokenizer` none.
    """
    if not isinstance(model, SharedLLMForCausalLM):
        raise UserError(f"model is {named_type(model)}: pass a SharedLLMForCausalLM.")
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise UserError(f"tokenizer is {named_type(tokenizer)}: pass the tokenizer of the model.")


def checked_question(question: Any) -> str:
    """A question without spaces around it.

    Raises:
        UserError: it is no text, or has no word to look for.
    """
    if not isinstance(question, str):
        raise UserError(f"question={shown(question)} is {named_type(question)}: pass a text.")
    if not question.strip():
        raise UserError("the question is empty: ask something.")
    if not said(question):
        raise UserError(f"the question {shown(question.strip())} has no word: ask with one of what you look for.")
    return question.strip()


def prompt_of(
    model: SharedLLMForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    question: str,
    max_new_tokens: int | None,
    instruction: str | None = None,
) -> Tensor:
    """(1, Q) token ids of a question in the form that the model was trained on.

    Raises:
        UserError: the question is no text, has no word, or does not fit into the window together with the answer; or
            `max_new_tokens` is no whole number, or below 0.
    """
    if max_new_tokens not in (None, 0):
        max_new_tokens = at_least_one("max_new_tokens", max_new_tokens)
    ids = asked_ids(model, tokenizer, with_instruction(tokenizer, checked_question(question), instruction)).to(
        model.device
    )
    new, window = answer_length(model.config, max_new_tokens), model.config.window
    if (most := window - ids.shape[1]) < new:
        asked = "the question with its instruction" if instruction else "the question"
        if max_new_tokens is not None and most > 0:
            raise UserError(
                f"max_new_tokens={max_new_tokens} does not fit: {asked} has {ids.shape[1]:,} tokens of the window={window}; "
                f"ask for at most {most}, or shorten the question."
            )
        raise UserError(
            f"{asked} has {ids.shape[1]:,} tokens; {max(0, window - new):,} fit alongside {new} new ones in the "
            f"window={window}: shorten it."
        )
    return ids


def searched_for(
    model: SharedLLMForCausalLM, tokenizer: PreTrainedTokenizerBase, question: str
) -> tuple[Tensor, Tensor]:
    """(1, Q) the prompt by which parts of a text are chosen, and (1, F) the same with a placeholder question (see `own_words`).

    It has no instruction: what is chosen does not depend on how the answer should look.

    Raises:
        UserError: as `prompt_of`.
    """
    searched = prompt_of(model, tokenizer, question, 0, instruction="")
    return searched, asked_ids(model, tokenizer, with_instruction(tokenizer, NOTHING, "")).to(model.device)


def with_instruction(tokenizer: PreTrainedTokenizerBase, question: str, instruction: str | None) -> str:
    """The user's words for a question and how to answer it; None: the default, "": nothing. Raises as `checked_instruction`."""
    form = PromptForm.of(tokenizer)
    if instruction is None:
        instruction = FEW_WORDS if form.chat else ""
    return form.with_instruction(question, checked_instruction(instruction))


def checked_instruction(instruction: Any) -> str:
    """An instruction without spaces around it.

    Raises:
        UserError: it is no text.
    """
    if not isinstance(instruction, str):
        raise UserError(f"instruction={instruction!r} is {named_type(instruction)}: pass a text.")
    return instruction.strip()


def asked_ids(model: SharedLLMForCausalLM, tokenizer: PreTrainedTokenizerBase, question: str) -> Tensor:
    """(1, Q) the prompt of a question; if the memory begins with the prefix, the part after the selected tokens."""
    return _ids(tokenizer, question, model.config.injection)


def _ids(tokenizer: PreTrainedTokenizerBase, question: str, injection: str) -> Tensor:
    form = PromptForm.of(tokenizer)
    return form.question(question, after_context=True) if injection == "deep" else form.whole(question)


def answer_length(config: SharedLLMConfig, max_new_tokens: int | None) -> int:
    """The most tokens of an answer: as given, else `ANSWER_TOKENS` or half the window if that is less."""
    return _default_length(config.window) if max_new_tokens is None else max_new_tokens


def least_window(tokenizer: PreTrainedTokenizerBase, injection: str) -> int:
    """The smallest window of a model with this tokenizer and kind of injection in which a question of one word fits, as `ask`
    puts it."""
    tokens = _ids(tokenizer, with_instruction(tokenizer, "Who?", None), injection).shape[1]
    return next(window for window in count(tokens) if tokens + _default_length(window) <= window)


def _default_length(window: int) -> int:
    return min(ANSWER_TOKENS, window // 2)
