"""From a request to its prompt, in the form of the model's tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..answering.conversation import sought
from ..prompts import NOTHING, PromptForm, with_beginning
from ..scoring.words import said
from ..utils.errors import UserError
from ..utils.text import tokenize
from .errors import ServingError, invalid
from .messages import Message
from .requests import ChatRequest, CompletionRequest
from .tools import CallForm


@dataclass(frozen=True)
class Prompt:
    """field: of the request, that holds the question. ids: (1, L) to continue. question: (1, Q) the part to search a memory
    for. form: (1, F) the same with a placeholder question, if questions have a form. text: the question's words. searched:
    those of `question`. one_line: the answer is one line. calls: how the model calls tools, if it may. warning: of what the
    request offers, and the model can't use."""

    field: str
    ids: Tensor
    question: Tensor
    form: Tensor | None
    text: str
    searched: str
    one_line: bool
    calls: CallForm | None = None
    warning: str | None = None

    @property
    def has_words(self) -> bool:
        """Whether there is something to search a memory for."""
        return bool(said(self.searched))


def prompt_of(
    request: ChatRequest | CompletionRequest, tokenizer: PreTrainedTokenizerBase, window: int | None = None
) -> Prompt:
    """The prompt to continue, in the form of the model's tokenizer (see `PromptForm`).

    Args:
        window: most tokens to search for, default: any number; a question goes on with an earlier one only if both fit (see `sought`).

    Raises:
        ServingError: the messages don't end with a question or the result of a tool; or they use tools, or the model has to
            call one, and its template has no form for them.
    """
    field = request.asked_in
    if isinstance(request, CompletionRequest):
        ids = tokenize(tokenizer, request.prompt)
        words = request.prompt
        return Prompt(field, with_beginning(tokenizer, ids), ids, None, words, words, one_line=False)
    form, calls, warning = PromptForm.of(tokenizer), None, None
    if request.offered:
        try:
            calls = CallForm.of(form, "tool_choice" if request.forced else "tools")
        except ServingError as error:
            # Tools that the model may call, as some clients offer them to every model, are not ones that it has to.
            if request.forced:
                raise
            warning = f"no tool can be called: {error}"
    if any(message.role == "tool" or message.tool_calls for message in request.messages):
        CallForm.of(form, field)
    last = request.messages[-1]
    # After the result of a tool the question is the last one that was asked.
    asked = next((m for m in reversed(request.messages) if last.role == "tool" and m.role == "user"), last)
    if asked.role != "user":
        raise invalid(field, f"the last message has the role {last.role!r}: end with a question, of the role 'user'.")
    if not asked.text.strip():
        raise invalid(field, "the message that asks is empty: end with a question.")
    turns = [message.turn for message in request.messages]
    tools = [tool.described for tool in request.offered] if calls is not None else None
    lead = calls.begin if calls is not None and request.forced else ""
    try:
        ids = form.conversation([(t["role"], t["content"]) for t in turns], turns=turns, tools=tools, lead=lead)
        form_only = form.whole(NOTHING)
        words = sought(asked.text, _earlier(request.messages, asked))
        searched = form.whole(words)
        if window is not None and searched.shape[1] > window:
            words, searched = asked.text, form.whole(asked.text)
        return Prompt(field, ids, searched, form_only, asked.text, words, form.one_line, calls, warning=warning)
    except UserError as error:
        raise invalid(field, str(error)) from None


def _earlier(messages: Sequence[Message], asked: Message) -> tuple[str, str] | None:
    """The question and the answer right before a message that asks; None if something else is there."""
    place = next(i for i, message in enumerate(messages) if message is asked)
    if place < 2 or (messages[place - 2].role, messages[place - 1].role) != ("user", "assistant"):
        return None
    return messages[place - 2].text, messages[place - 1].text
