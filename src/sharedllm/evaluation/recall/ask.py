"""Answers to the questions of one text, by each policy and budget: the text is read once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...asking import NOTHING, own_words, plain
from ...memory import ContextMemory
from ...modeling import SharedLLMForCausalLM
from ...selection.parts import parts_of
from ...selection.scores import CosineScore, HybridScore, OracleScore, get_score
from ...text import tokenize
from ..methods.base import scores_of
from ..methods.retrieval import Retrieval
from .texts import AskedText, Question

RIVAL = "window"


@dataclass(frozen=True)
class Answer:
    """policy: a score's name, "oracle", "tree" (the paper's cut, by cosine), or "window" (BM25 into the base's window).
    budget: tokens of the memory; None where the policy has none. read: tokens that were read. right: all of the answer."""

    policy: str
    budget: int | None
    kind: str
    read: int
    right: bool


@dataclass(frozen=True)
class Asker:
    """scores: names of token scores; "oracle" knows where the facts stand. budgets: tokens of the memory."""

    model: SharedLLMForCausalLM
    base: PreTrainedModel | None
    tokenizer: PreTrainedTokenizerBase
    scores: Sequence[str]
    budgets: Sequence[int]
    batch_tokens: int | None = None

    @torch.no_grad()
    def answers(self, text: AskedText) -> Iterator[Answer]:
        """One of each policy and budget for every question."""
        ids = torch.from_numpy(text.ids)[None]
        device = self.model.device
        memory = self.model.read(ids.to(device), keep_all=True, batch_tokens=self.batch_tokens, fingerprint=False)
        rival = Retrieval(self.base, self.tokenizer, self.model.config.window) if self.base is not None else None
        index = rival.index(ids[0]) if rival is not None else None
        prompts = [torch.from_numpy(question.prompt).to(device) for question in text.questions]
        form = tokenize(self.tokenizer, plain(NOTHING))
        cosines = CosineScore().many(self.model.model, parts_of(memory), prompts) if "tree" in self.scores else None
        for number, question in enumerate(text.questions):
            query = prompts[number][None]
            found = self._scores(memory, query, own_words(query, form), question)
            if cosines is not None:
                found["tree"] = cosines[number : number + 1]
            for policy, scores in found.items():
                # The paper's cut has one size.
                for budget in [None] if policy == "tree" else self.budgets:
                    chosen = self.model.select(memory, query, budget=budget, score=scores)
                    right = self._right(self.model, question, memory=chosen)
                    yield Answer(policy, budget, question.kind, int(chosen.kept[0]), right)
            if rival is not None:
                found = rival.best(
                    index, torch.from_numpy(question.prompt), len(question.prompt) + len(question.answer)
                )
                right = self._right(self.base, question, before=found)
                yield Answer(RIVAL, None, question.kind, len(found), right)

    def _scores(self, memory: ContextMemory, query: Tensor, words: Tensor, question: Question) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name in self.scores:
            if name == "oracle":
                found[name] = self.model.scores(memory, query, score=OracleScore([question.spans]))
            elif name not in ("hybrid", "tree"):
                found[name] = self.model.scores(memory, query, query_words=words, score=name)
        if "hybrid" in self.scores:
            hybrid = get_score("hybrid")
            assert isinstance(hybrid, HybridScore)
            members = [
                found[m.name] if m.name in found else self.model.scores(memory, query, query_words=words, score=m)
                for m in hybrid.members
            ]
            found["hybrid"] = hybrid.fused(members)
        return found

    def _right(self, model: PreTrainedModel, question: Question, before: Tensor | None = None, **options) -> bool:
        ids = torch.from_numpy(question.prompt), torch.from_numpy(question.answer)
        running = torch.cat([before, *ids] if before is not None else ids)[None].to(model.device)
        targets = len(question.answer)
        logits = model(running, logits_to_keep=targets + 1, use_cache=False, **options).logits
        return bool(scores_of(logits, running, targets).hits.all())
