"""The form of prompts, in one place: a question is put to the model in its chat template or in a plain form.

The form surrounds the user's words: a *head* before them and a *tail* after them, which ends where the answer begins.
Text to read, or the selected part of it, is inside the user's turn:

    head | pieces of text | "\\n\\n", question, tail | answer

The head is the same for every question, so a long text can be read after it once. Contents are data: imitated control
tokens in a question are encoded as characters; only those of the template itself are control tokens.
"""

import functools
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .utils.control_tokens import control_pattern, control_tokens, encode_form
from .utils.errors import UserError
from .utils.text import tokenize

# A placeholder question, to get the form alone.
NOTHING = "?"
# How a chat model is told to answer a question about a text: it would talk in whole sentences, which a short answer has no room for.
FEW_WORDS = "Answer with as few words as possible."
# Templates that write the date always get this one, so that text read after the head stays valid.
_DATE = "26 Jul 2024"


@dataclass(frozen=True)
class PromptForm:
    """How questions are put to a tokenizer's model; see `of`. Ids are (1, n) tensors on the CPU.

    chat    use the tokenizer's chat template; otherwise the plain form for base models, in which the answer is one line
    system  system message; None for the template's own
    """

    tokenizer: PreTrainedTokenizerBase
    chat: bool
    system: str | None = None

    @classmethod
    def of(
        cls, tokenizer: PreTrainedTokenizerBase, *, system: str | None = None, chat: bool | None = None
    ) -> "PromptForm":
        """The form for a tokenizer.

        Args:
            system: system message. chat: whether to use the chat template; default: if there is one.

        Raises:
            UserError: `chat` without a chat template.
        """
        there = bool(tokenizer.chat_template)
        if chat and not there:
            raise UserError("the tokenizer has no chat template: set chat to false, or name a chat model's tokenizer.")
        return cls(tokenizer, there if chat is None else chat, system)

    @property
    def one_line(self) -> bool:
        """Whether an answer is one line."""
        return not self.chat

    def head(self) -> Tensor:
        """(1, H) the part before the user's text in every prompt: the tokenizer's beginning-of-text tokens, the system
        turn, and the beginning of the user's turn. H may be 0."""
        if not self.chat:
            return _row(beginning_of(self.tokenizer))
        return _row(self._head(self._around("", after_context=True)[0]))

    def question(self, text: str, *, after_context: bool = False, lead: str = "") -> Tensor:
        """(1, Q) the part after the head, up to where the answer begins.

        Args:
            after_context: pieces of text are inserted between the head and this. lead: words that the answer begins with.

        Raises:
            UserError: the template refuses it.
        """
        if not self.chat:
            return tokenize(self.tokenizer, plain(text.strip(), lead))
        head, rest = self._around(text.strip(), after_context)
        before, ids = self._head(head), self._encode(head + rest + lead, beginning=True)
        # The whole text is tokenised as one; if a token crosses the border, each side is tokenised by itself.
        same = not after_context and ids[: len(before)] == before
        return _row(ids[len(before) :] if same else self._encode(rest + lead))

    def whole(self, text: str, *, lead: str = "") -> Tensor:
        """(1, H + Q) the prompt of a single question."""
        return torch.cat([self.head(), self.question(text, lead=lead)], 1)

    def with_instruction(self, question: str, instruction: str) -> str:
        """The user's words for a question and how to answer it.

        In a chat template the instruction comes first and the question is marked as one: a small chat model answers so more
        often right than with the instruction behind it (docs/real/choices.md).
        """
        if not instruction:
            return question
        return f"{instruction}\nQuestion: {question}\nAnswer:" if self.chat else f"{question}\n{instruction}"

    def following(self, text: str) -> Tensor:
        """(1, Q) a later question of a conversation: everything between the last answer and the next one."""
        text = text.strip()
        if not self.chat:
            return tokenize(self.tokenizer, plain(text))
        said = _mark()
        turns = [{"role": "user", "content": NOTHING}, {"role": "assistant", "content": said}]
        rendered = self.rendered([*turns, {"role": "user", "content": text}])
        return _row(self._encode(rendered.split(said, 1)[1]))

    def answer(self, text: str) -> Tensor:
        """(1, A) an answer within a conversation, between `whole` or `following` and the next `following`."""
        return tokenize(self.tokenizer, text if self.chat or not text else f" {text}")

    def conversation(
        self, messages: Sequence[tuple[str, str]], *, turns: list[dict[str, Any]] | None = None,
        tools: list[dict[str, Any]] | None = None, lead: str = "",
    ) -> Tensor:  # fmt: skip
        """(1, L) a whole conversation, up to where the next answer begins.

        Args:
            messages: pairs of role ("system", "user" or "assistant") and text.
            turns: the same as chat templates take them, which may have more: calls of tools and their results.
            tools: descriptions of tools, as chat templates take them. lead: words of the template that the answer begins with.

        Raises:
            UserError: the template refuses them.
        """
        if self.chat:
            turns = turns or [{"role": role, "content": text} for role, text in messages]
            return _row(self._encode(self.rendered(turns, tools) + lead, beginning=True))
        forms = {"user": lambda text: plain(text.strip()), "assistant": lambda text: f" {text.strip()}"}
        text = "".join(forms.get(role, lambda text: f"{text}\n")(text) for role, text in messages)
        return torch.cat([self.head(), tokenize(self.tokenizer, text)], 1)

    def own_words(self, ids: Tensor) -> Tensor:
        """(1, Q) bool: which tokens of `question`, `whole` or `following` are the question's own."""
        first, later = self.whole(NOTHING), self.following(NOTHING)
        return own_words(ids, first) & own_words(ids, later)

    @functools.cached_property
    def ends(self) -> frozenset[int]:
        """Ids that end the model's turn, according to tokenizer and template; a model's configuration may add more."""
        return frozenset(i for i in (self._text_end, self.turn_end) if i is not None)

    @functools.cached_property
    def turn_end(self) -> int | None:
        """Id of the control token that the template writes after an answer, or else the end-of-text token."""
        if self.chat:
            said = _mark()
            turns = [{"role": "user", "content": NOTHING}, {"role": "assistant", "content": said}]
            behind = self.rendered([*turns, {"role": "user", "content": NOTHING}]).split(said, 1)[1]
            found = control_pattern(self.tokenizer).match(behind.lstrip())
            if found is not None and found[0] != self.tokenizer.bos_token:
                return control_tokens(self.tokenizer)[found[0]]
        return self._text_end

    @property
    def _text_end(self) -> int | None:
        """Id of the token that ends a text, if there is one."""
        end = self.tokenizer.eos_token_id
        return end if isinstance(end, int) else None

    def _around(self, text: str, after_context: bool) -> tuple[str, str]:
        """The text of the template's head, and the text after it."""
        here = _mark()
        content = f"{here}\n\n{text}" if after_context else f"{here}{text}"
        head, rest = self.rendered([{"role": "user", "content": content}]).split(here, 1)
        return head, rest

    def _head(self, text: str) -> list[int]:
        # A space before the question belongs to its first word.
        return self._encode(text.rstrip(" "), beginning=True)

    def rendered(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None, reply: bool = True
    ) -> str:
        """Messages in the form of the template. Imitated control tokens in them are replaced by marks.

        Args:
            tools: descriptions of tools. reply: end where the next answer begins.

        Raises:
            UserError: the template refuses them.
        """
        if self.system is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.system}, *messages]
        messages, tools = _all_hidden(self.tokenizer, messages), _all_hidden(self.tokenizer, tools)
        tries, rest = [messages], messages[1:]
        if messages[0]["role"] == "system" and rest and rest[0]["role"] == "user":
            # Some templates have no system role: its message then begins the first question.
            joined = rest[0] | {"content": f"{messages[0]['content']}\n\n{rest[0]['content']}"}
            tries.append([joined, *rest[1:]])
        refused = ""
        for turns in tries:
            try:
                return self._templated(turns, tools, reply)
            except TemplateError as error:
                refused = str(error)
        raise UserError(f"the model's chat template refuses these messages: {refused}.")

    def _templated(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, reply: bool) -> str:
        # A template ignores variables that it does not know. Answers are short, so thinking is turned off.
        known: dict[str, Any] = {"date_string": _DATE, "enable_thinking": False}
        template = self.tokenizer.get_chat_template(tools=tools)
        if "strftime_now" in template:
            known["chat_template"] = f"{{% macro strftime_now(_) %}}{_DATE}{{% endmacro %}}{template}"
        known |= {"tools": tools, "tokenize": False, "add_generation_prompt": reply}
        return str(self.tokenizer.apply_chat_template(messages, **known))

    def _encode(self, rendered: str, beginning: bool = False) -> list[int]:
        """Ids of the template's output. beginning: it begins a text, so the tokenizer's first tokens are added, once."""
        ids: list[int] = []
        for place, part in enumerate(_MARK.split(rendered)):
            imitated = place % 2 == 1
            text = bytes.fromhex(part).decode() if imitated else part
            ids += tokenize(self.tokenizer, text)[0].tolist() if imitated else encode_form(self.tokenizer, text)
        if beginning:
            first = beginning_of(self.tokenizer)
            ids = ids if ids[: len(first)] == first else [*first, *ids]
        return ids


def plain(question: str, lead: str = "") -> str:
    """The prompt for a model without a chat template; the answer is one line. lead: words that the answer begins with;
    a space at their end belongs to the next word."""
    return f"\nQuestion: {question}\nAnswer: {lead}".rstrip(" ")


def own_words(ids: Tensor, form: Tensor) -> Tensor:
    """Which tokens of a prompt are the question's own, so that only its words are looked for in a text.

    Args:
        ids: (1, Q) a prompt. form: (1, F) the same prompt with a placeholder question.

    Returns:
        (1, Q) bool.
    """
    asked, rest = ids[0].tolist(), form[0].tolist()
    own = torch.ones_like(ids, dtype=torch.bool)
    for block in SequenceMatcher(None, rest, asked, autojunk=False).get_matching_blocks():
        # A single token may be in both by chance.
        if block.size > 1:
            own[0, block.b : block.b + block.size] = False
    return own


def beginning_of(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that a tokenizer puts in front of every text, such as BOS; empty for most."""
    own, with_more = (tokenizer("a", add_special_tokens=more).input_ids for more in (False, True))
    places = range(len(with_more) - len(own) + 1)
    at = next((i for i in places if with_more[i : i + len(own)] == own), 0)
    return with_more[:at]


def with_beginning(tokenizer: PreTrainedTokenizerBase, ids: Tensor) -> Tensor:
    """Ids (1, T) of a text, preceded by the ids that its tokenizer puts in front of every text."""
    return torch.cat([_row(beginning_of(tokenizer)).to(ids.device), ids], 1)


# Replaces an imitated control token in a rendered prompt: a secret of this process, which no text can contain, and the
# token as hexadecimal bytes.
_SECRET = secrets.token_hex(8)
_MARK = re.compile(f"0x{_SECRET}x([0-9a-f]+)x0")


def _hidden(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """A text in which marks replace imitated control tokens."""
    return control_pattern(tokenizer).sub(lambda match: f"0x{_SECRET}x{match[0].encode().hex()}x0", text)


def _all_hidden(tokenizer: PreTrainedTokenizerBase, value: Any) -> Any:
    """The same for every text in messages or descriptions of tools."""
    if isinstance(value, str):
        return _hidden(tokenizer, value)
    if isinstance(value, dict):
        return {_all_hidden(tokenizer, k): _all_hidden(tokenizer, v) for k, v in value.items()}
    return [_all_hidden(tokenizer, item) for item in value] if isinstance(value, list) else value


def _mark() -> str:
    """A word that occurs in no text."""
    return f"0y{secrets.token_hex(8)}y0"


def _row(ids: list[int]) -> Tensor:
    return torch.tensor([ids], dtype=torch.long)
