"""Answers the questions about one text by each policy and budget; the text is read once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...causal_lm import SharedLLMForCausalLM
from ...data.questions.base import STOP
from ...memory.context_memory import ContextMemory
from ...memory.segments import segments_of
from ...prompts import NOTHING, own_words, plain
from ...scoring.base import get_score
from ...scoring.bm25 import in_whole_words
from ...scoring.cosine import CosineScore
from ...scoring.hybrid import HybridScore
from ...scoring.oracle import OracleScore
from ...systems.evaluated import scores_of
from ...systems.retrieval import Retrieval
from ...utils.text import tokenize
from .texts import AskedText, Question

WINDOW, AS_TEXT = "window", "-text"


@dataclass(frozen=True)
class Answer:
    """policy: a score's name, "oracle", "tree" (the paper's cut, by cosine), "window" (BM25 into the base's window), or
    "SCORE-text": what the score selects, as text in the same model's window, without a memory.
    budget: tokens of the memory; None if the policy has none. read: tokens read. right: whether the whole answer is
    right (a free one: whether it names all values), or for a kind "… named" the share of the values that the answer
    names, in any order (RULER's measure)."""

    policy: str
    budget: int | None
    kind: str
    read: int
    right: float


@dataclass(frozen=True)
class Asker:
    """scores: names of token scores; "oracle" knows where the facts are. budgets: tokens of the memory."""

    model: SharedLLMForCausalLM
    base: PreTrainedModel | None
    tokenizer: PreTrainedTokenizerBase
    scores: Sequence[str]
    budgets: Sequence[int]
    batch_tokens: int | None = None

    @torch.no_grad()
    def answers(self, text: AskedText) -> Iterator[Answer]:
        """One answer for each policy, budget and question."""
        ids = torch.from_numpy(text.ids)[None]
        device = self.model.device
        memory = self.model.read(ids.to(device), keep_all=True, batch_tokens=self.batch_tokens, fingerprint=False)
        retrieval = Retrieval(self.base, self.tokenizer, self.model.config.window) if self.base is not None else None
        index = retrieval.index(ids[0]) if retrieval is not None else None
        prompts = [torch.from_numpy(question.prompt).to(device) for question in text.questions]
        form = tokenize(self.tokenizer, plain(NOTHING))
        cosines = CosineScore().many(self.model.model, segments_of(memory), prompts) if "tree" in self.scores else None
        for number, question in enumerate(text.questions):
            query = prompts[number][None]
            words = own_words(query, form)
            found = self._scores(memory, query, words, question)
            if cosines is not None:
                found["tree"] = cosines[number : number + 1]
            for policy, scores in found.items():
                # The paper's cut has a fixed size.
                for budget in [None] if policy == "tree" else self.budgets:
                    chosen = self.model.select(memory, query, budget=budget, score=scores)
                    for kind, right in self._marks(self.model, question, memory=chosen):
                        yield Answer(policy, budget, kind, int(chosen.kept[0]), right)
                if policy != "tree":
                    before = self._text(memory, query, scores, question)
                    for kind, right in self._marks(self.model, question, before=before):
                        yield Answer(f"{policy}{AS_TEXT}", None, kind, len(before), right)
            if retrieval is not None:
                found = retrieval.best(index, query[words].cpu(), len(question.prompt) + question.room)
                for kind, right in self._marks(self.base, question, before=found):
                    yield Answer(WINDOW, None, kind, len(found), right)

    def _text(self, memory: ContextMemory, query: Tensor, scores: Tensor, question: Question) -> Tensor:
        """(S,) the tokens that a score selects whole, in order: as many as fit into the window with prompt and answer."""
        room = self.model.config.window - len(question.prompt) - question.room
        found = torch.zeros(0, dtype=torch.long)
        # A part of a budget goes to tokens of coarse parts, which are no text.
        for times in (1, 1.25, 1.5, 2, 3, 4):
            chosen = self.model.select(memory, query, budget=int(times * room), score=scores)
            whole = chosen.position[0][chosen.mask[0] & (chosen.stride[0] == 1)].to(memory.token_ids.device)
            if len(whole) > room:
                break
            found = memory.token_ids[0][whole].cpu().long()
        return found

    def _scores(self, memory: ContextMemory, query: Tensor, words: Tensor, question: Question) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name in self.scores:
            if name == "oracle":
                found[name] = self.model.scores(memory, query, score=OracleScore([question.spans]))
            elif name not in ("hybrid", "tree"):
                score = in_whole_words(get_score(name), self.tokenizer)
                found[name] = self.model.scores(memory, query, query_words=words, score=score)
        if "hybrid" in self.scores:
            hybrid = get_score("hybrid")
            assert isinstance(hybrid, HybridScore)
            hybrid = hybrid.in_whole_words(self.tokenizer)
            members = [
                found[m.name] if m.name in found else self.model.scores(memory, query, query_words=words, score=m)
                for m in hybrid.members
            ]
            found["hybrid"] = hybrid.fused(members)
        return found

    def _marks(
        self, model: PreTrainedModel, question: Question, before: Tensor | None = None, **options
    ) -> Iterator[tuple[str, float]]:
        """The kinds of marks and the answer's marks; before: text read before the question."""
        asked, answer = torch.from_numpy(question.prompt), torch.from_numpy(question.answer)
        asked = torch.cat([before, asked] if before is not None else [asked])[None].to(model.device)
        values = self.tokenizer.decode(question.answer).strip(f" {STOP}").split(", ")
        if not question.free:
            running = torch.cat([asked, answer[None].to(model.device)], 1)
            logits = model(running, logits_to_keep=len(answer) + 1, use_cache=False, **options).logits
            yield question.kind, float(scores_of(logits, running, len(answer)).hits.all())
        if question.free or len(values) > 1:
            mask = torch.ones_like(asked)
            said = model.generate(asked, attention_mask=mask, max_new_tokens=question.room, do_sample=False, **options)
            line = self.tokenizer.decode(said[0, asked.shape[1] :]).strip().split("\n")[0]
            named = sum(value in line for value in values) / len(values)
            if question.free:
                yield question.kind, float(named == 1)
            if len(values) > 1:
                yield f"{question.kind} named", named
