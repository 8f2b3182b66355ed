"""Chat over a document: each turn makes a new selection, within one budget, from the document and the earlier turns.

The last turns are running text. When they outgrow the window, their oldest chunks are read into a separate memory, the
history. It keeps every token, as the document does, so no word of the document or the chat is ever lost.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..causal_lm import SharedLLMForCausalLM
from ..memory.context_memory import ContextMemory
from ..memory.interface import Memory, Searched
from ..memory.segments import segments_of
from ..prompts import NOTHING, PromptForm
from ..scoring.base import TokenScore, get_score
from ..scoring.defaults import default_budget, default_score
from ..utils.errors import UserError, at_least_one
from .ask import after_prefix, choose
from .asked import check_model, checked_instruction, checked_question
from .conversation import sought
from .prefill import Progress, following
from .stream import AnswerStream, StopOnText, cut_off, ending

HISTORY = "this chat"


@dataclass(frozen=True)
class Turn:
    """A question with its answer and sources.

    memory     the selection for the question
    running    number of earlier tokens that were read whole, as running text
    sources    the best parts of the memory (see `citations.describe`); "this chat" is the history
    stopped    the answer was interrupted
    cut        the answer had to end at `max_new_tokens`
    found      as in `ask.Chosen`; None too for a question that goes on with the one before (see `conversation`): it is searched
               for with the earlier answer, whose words need not be the text's
    """

    question: str
    answer: str
    memory: ContextMemory
    running: int
    sources: list[dict[str, Any]]
    stopped: bool = False
    cut: bool = False
    found: bool | None = None


class Chat:
    """A conversation over a document.

    history   ContextMemory of the turns before those in `running`; None at first
    running   (1, R) token ids of the last turns
    """

    def __init__(
        self,
        model: SharedLLMForCausalLM,
        tokenizer: PreTrainedTokenizerBase,
        document: Memory,
        *,
        budget: int | None = None,
        score: str | TokenScore | None = None,
        max_new_tokens: int = 128,
        instruction: str = "",
        batch_tokens: int | None = None,
    ):
        """
        Args:
            document: one text of which every token is kept (`model.read(…, keep_all=True)`), in memory or on disk.
            budget: most tokens of document and history together that a turn reads; default: the window, or for a model that `extend`
                made 512, or a quarter of the window if that is less.
            score: how the budget is spent (see `scoring`); default: `default_score`.
            max_new_tokens: longest answer. If it does not fit into the window, half the window is kept free, and the
                answer continues by folding (see `folding`).
            instruction: how to answer each question, as for `ask.ask`. Default: none, because people talk in whole sentences.
                Nothing is chosen by it. Earlier turns keep it: a small model that finds them in another form than the new
                question repeats their answers.
            batch_tokens: most tokens of the history read at once.

        Raises:
            UserError: `model` or `tokenizer` is none; the document is another model's, has several texts, or does not hold every token; `budget` or
                `max_new_tokens` is below 1; there is no such score, or the instruction is no text.
        """
        check_model(model, tokenizer)
        # A corpus has segments for a question only.
        segments = [] if isinstance(document, Searched) else segments_of(document)
        if document.texts != 1:
            raise UserError(f"the memory holds {document.texts} texts: chat over one of them.")
        budget = default_budget(model.config) if budget is None else budget
        budget = at_least_one("budget", budget)
        max_new_tokens = at_least_one("max_new_tokens", max_new_tokens)
        self.model, self.tokenizer, self.document = model, tokenizer, document
        self.form = PromptForm.of(tokenizer)
        self.tokens = sum(int(segment.lengths[0]) for segment in segments) or document.tokens
        self._device = segments[0].token_ids.device if segments else torch.device("cpu")
        self.budget = budget
        self._given = None if score is None else self._scored(score)
        self.max_new_tokens, self.batch_tokens = max_new_tokens, batch_tokens
        self.instruction = checked_instruction(instruction)
        self.history: ContextMemory | None = None
        self._earlier: tuple[str, str] | None = None
        self.running = torch.zeros(1, 0, dtype=torch.long, device=model.device)

    @property
    def score(self) -> str | TokenScore:
        """What the budget of the next question goes by. The default changes when turns have become part of what is searched,
        because they repeat the words of questions."""
        if self._given is not None:
            return self._given
        return self._scored(default_score(self.model.config, chat=self.history is not None))

    @property
    def score_name(self) -> str:
        """Of what the budget goes by."""
        return self.score if isinstance(self.score, str) else self.score.name

    def _scored(self, score: str | TokenScore) -> str | TokenScore:
        return score if self.model.config.injection == "deep" else get_score(score, self.model.config)

    @torch.no_grad()
    def ask(
        self,
        question: str,
        on_text: Callable[[str], None] | None = None,
        reading: Progress | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Turn:
        """Answer a question.

        Args:
            on_text: called with each piece of the answer as it is generated; joined they are the answer.
            reading: called while the running text and the question are read, with how many of their tokens were, and with all
                of them.
            progress: called before that, as by `ask.ask`, while it is chosen what to read.

        Raises:
            UserError: the question has no word or is too long; the chat is unchanged.
            KeyboardInterrupt: only before the answer has begun. Later, the answer ends there and is kept.
        """
        question = checked_question(question)
        window, new = self.model.config.window, self.max_new_tokens
        asked = self._form(self.form.with_instruction(question, self.instruction))
        room = window - (new if new < window else window // 2)
        if asked.shape[1] > room:
            told = "the question with its instruction" if self.instruction else "the question"
            raise UserError(
                f"{told} has {asked.shape[1]:,} tokens; {room:,} fit alongside {window - room} new ones in the "
                f"window={window}: shorten it, or allow fewer new tokens."
            )
        self._fold(room - asked.shape[1])
        everything = self._everything()
        form = self._form(NOTHING)
        whole = sought(question, self._earlier)
        searched = self._form(whole)
        searched = searched if searched.shape[1] <= room else self._form(question)
        choosing = {"budget": self.budget, "score": self.score, "progress": progress}
        chosen = choose(self.model, self.tokenizer, everything, searched, form, **choosing)
        prompt = after_prefix(self.model, torch.cat([self.running, asked], 1))
        stream = AnswerStream(self.tokenizer, on_text, one_line=self.form.one_line, strip=True)
        stop, ends = StopOnText(stream), ending(self.model, self.form)
        options = {"memory": chosen.memory, "max_new_tokens": new, "do_sample": False, **ends}
        stopped = False
        try:
            with following(self.model, reading):
                self.model.generate(prompt, stopping_criteria=[stop], **options)
        except KeyboardInterrupt:
            if not stream.text:
                raise
            stopped = True
        said = stream.finish().strip()
        cut = not stopped and cut_off(stop, new, ends.get("eos_token_id", []))
        sources = chosen.supporting(question, said).sources
        found = chosen.found if whole == question else None
        turn = Turn(question, said, chosen.memory, self.running.shape[1], sources, stopped, cut, found)
        self.running = torch.cat([prompt, self.form.answer(said).to(prompt.device)], 1)
        self._earlier = question, said
        return turn

    def _form(self, question: str) -> Tensor:
        """The question in the prompt's form: everything between the last answer and the next one."""
        begun = self.history is not None or self.running.shape[1] > 0
        asked = self.form.following(question) if begun else self.form.whole(question)
        return asked.to(self.running.device)

    def _everything(self) -> list[Memory]:
        """The memories that a turn selects from."""
        return [self.document] if self.history is None else [self.document, self.history]

    def _fold(self, room: int) -> None:
        """Read the oldest chunks of the running text into the history, as few as possible so that at most `room` tokens
        stay."""
        excess, size = self.running.shape[1] - room, self.model.config.chunk_size
        if excess <= 0:
            return
        oldest = self.running[:, : -(-excess // size) * size]
        if self.history is None:
            history = self.model.read(oldest, keep_all=True, batch_tokens=self.batch_tokens)
        else:
            history = self.model.append(self.history.to(self.running.device), oldest, batch_tokens=self.batch_tokens)
        # The history moves to the document's device, as one source.
        source = {"name": HISTORY, "tokens": int(history.lengths[0])}
        self.history = replace(history.to(self._device), sources=((source,),))
        self.running = self.running[:, oldest.shape[1] :]
