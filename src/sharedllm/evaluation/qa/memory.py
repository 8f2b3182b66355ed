"""The memory as a system, through the public API: read once with every token kept, then `answering.ask`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ...answering.ask import Answer
from ...answering.ask import ask as ask_memory
from ...causal_lm import SharedLLMForCausalLM
from ...context.pieces import Pieces
from ...memory.context_memory import ContextMemory
from ...memory.segment import Segment
from ...memory.segments import segments_of
from ...model.encode import pieces_of
from ...prompts import NOTHING, PromptForm, own_words
from ...scoring.encoder import encoder_of
from ...scoring.rankings import check_ranking, rank_pieces
from ...scoring.text_index import TextIndex, index_of
from ...systems.sharedllm.operations import deep_answer, deep_compare, deep_select, shared_read
from ...utils.text import tokenize
from .meter import Meter
from .pieces import Piece
from .sets import PackedText, Question, Span
from .systems import Ask, Decided, Reply


@dataclass(frozen=True)
class Memory(Decided):
    """score: how a budget is spent; "" for the default. name: "sharedllm", or with the score after a colon."""

    model: SharedLLMForCausalLM
    tokenizer: PreTrainedTokenizerBase
    meter: Meter
    score: str = ""
    budgeted: bool = True
    follows: str = ""

    @property
    def name(self) -> str:
        return f"sharedllm:{self.score}" if self.score else "sharedllm"

    @torch.no_grad()
    def prepare(self, text: PackedText) -> tuple[ContextMemory, np.ndarray, int]:
        """The memory, where each of its tokens ends, and the operations of reading it."""
        ids, config = tokenize(self.tokenizer, text.text), self.model.config
        memory = self.model.read(ids.to(self.model.device), keep_all=True, fingerprint=False)
        pieces = pieces_of(config, ids, torch.tensor([ids.shape[1]])).length if config.closing else None
        read = shared_read(config, ids.shape[1], True, causal=True, pieces=pieces)
        if (encoder := encoder_of(self.model.model)) is not None:
            before, segments = encoder.operations, segments_of(memory)
            index_of(segments, self.tokenizer, config.window, config.marks).sentences(encoder, segments)
            read += int(encoder.operations - before)
        return memory, self.meter.tokens(text.text)[1], read

    @torch.no_grad()
    def answer(self, state: tuple[ContextMemory, np.ndarray, int], ask: Ask) -> Reply:
        memory, ends, read = state
        assert ask.budget is not None
        options = {"score": self.score} if self.score else {}
        answer = ask_memory(
            self.model,
            self.tokenizer,
            memory,
            ask.question.question,
            instruction=ask.instruction,
            budget=ask.budget,
            max_new_tokens=ask.new_tokens,
            **options,
        )
        kept = answer.memory.position[0][answer.memory.mask[0]].cpu().numpy()
        prompt = answer.question_ids.shape[1]
        first, again = self._operations(answer, len(ends))
        return Reply(
            answer.text, len(kept) + prompt, len(kept), dict(answer.seconds), first, spans_of(kept, ends),
            answer.answer_ids.shape[1], read, again,
        )  # fmt: skip

    def _operations(self, answer: Answer, length: int) -> tuple[int, int] | tuple[None, None]:
        """Operations of a question to a text of `length` tokens whose pieces are read deeper: by select and answer, and if
        they are read already. None for other models."""
        config = self.model.config
        if config.injection != "deep":
            return None, None
        kept, running = int(answer.memory.kept[0]), answer.question_ids.shape[1]
        heads = check_ranking(config, answer.score)[1]
        select = deep_select(config, length, running, causal=True) if heads else 0
        select += deep_compare(config, answer.compared, causal=True)
        # The pass over the question gives the first token of the answer.
        new = answer.answer_ids.shape[1] - 1
        first, again = (deep_answer(config, kept, running, new, causal=True, again=a) for a in (False, True))
        return select + first, select + again


@dataclass(frozen=True)
class MemoryRanking:
    """Pieces ranked by a memory's token score: by their best token, or with "~mean" by the mean of all tokens. Where a model that
    reads deeper ranks by words or by a sentence encoder, it need not read the text.

    name: "memory:SCORE" or "memory:SCORE~mean".
    """

    model: SharedLLMForCausalLM
    tokenizer: PreTrainedTokenizerBase
    meter: Meter
    name: str
    _indexed: dict = field(default_factory=dict)

    @torch.no_grad()
    def index(self, text: PackedText, pieces: Sequence[Piece]) -> tuple[ContextMemory | Segment, np.ndarray]:
        """The memory, or the text alone if that is enough, and the token at which each piece begins (pieces,)."""
        ids, config = tokenize(self.tokenizer, text.text).to(self.model.device), self.model.config
        begin = np.searchsorted(self.meter.tokens(text.text)[1], [piece.start for piece in pieces], side="right")
        if config.injection == "deep":
            ranking, heads = check_ranking(config, self._score)
            if not heads and not (ranking.meaning and config.sentence_encoder is None):
                return unread(ids, config.chunk_size), begin
        return self.model.read(ids, keep_all=True, fingerprint=False), begin

    @property
    def _score(self) -> str:
        return self.name.removeprefix("memory:").partition("~")[0]

    @torch.no_grad()
    def scores(self, index: tuple[ContextMemory | Segment, np.ndarray], question: Question) -> np.ndarray:
        memory, starts = index
        if self.model.config.injection == "deep":
            return self._by_pieces(memory, starts, question.question)
        assert isinstance(memory, ContextMemory)
        form = PromptForm.of(self.tokenizer)
        prompt = form.whole(question.question)
        words = form.own_words(prompt).to(self.model.device)
        prompt = prompt.to(self.model.device)
        tokens = self.model.scores(memory, prompt, query_words=words, score=self._score)[0].float().cpu().numpy()
        if self.name.endswith("~mean"):
            sizes = np.diff([*starts, len(tokens)])
            return np.add.reduceat(tokens, starts) / np.maximum(sizes, 1)
        return np.maximum.reduceat(tokens, starts)

    def _by_pieces(self, memory: ContextMemory | Segment, starts: np.ndarray, question: str) -> np.ndarray:
        segments, end = [memory] if isinstance(memory, Segment) else segments_of(memory), int(memory.lengths[0])
        cut = Pieces(torch.from_numpy(starts), torch.from_numpy(np.append(starts[1:], end)))
        key = (id(memory), starts.tobytes())
        if self._indexed.get("key") != key:
            config = self.model.config
            index = TextIndex(segments, self.tokenizer, config.window, cut, config.marks)
            self._indexed.update(key=key, index=index, memory=memory)
        form = PromptForm.of(self.tokenizer)
        asked, nothing = (form.question(text, after_context=True) for text in (question, NOTHING))
        own = own_words(asked, nothing)
        asked = asked.to(self.model.device)
        ranked = rank_pieces(self.model.model, segments, self._indexed["index"], question, asked, own, self._score)
        return ranked.scores.double().numpy()


def unread(ids: Tensor, chunk_size: int) -> Segment:
    """A text (1, T) that no model has read, in place of its memory where only its tokens count."""

    def nothing(*_: Any) -> Tensor:
        raise AssertionError("nobody has read this text")

    lengths = torch.tensor([ids.shape[1]])
    return Segment(ids.int().cpu(), lengths, chunk_size, 0, nothing, nothing, sources=(({"start": 0},),))


def spans_of(positions: np.ndarray, ends: np.ndarray) -> tuple[Span, ...]:
    """Characters of tokens at ascending positions; adjacent tokens form one span.

    Args:
        ends: the character at which each token of the text ends.
    """
    found: list[Span] = []
    for position in positions.tolist():
        start, end = int(ends[position - 1]) if position else 0, int(ends[position])
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return tuple(found)
