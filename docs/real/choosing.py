"""What the scripts that choose settings share: texts of the sets, where their pieces and the evidence are, answers to chosen pieces as text, and cells of their tables."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sharedllm.cli.common import tokens_of_length
from sharedllm.context.pieces import Pieces, choose_pieces
from sharedllm.context.stops import Marks
from sharedllm.evaluation.qa.memory import unread
from sharedllm.evaluation.qa.meter import Meter
from sharedllm.evaluation.qa.metrics import f1, hit
from sharedllm.evaluation.qa.reader import Reader
from sharedllm.evaluation.qa.run import Plan
from sharedllm.evaluation.qa.sets import SETS, PackedText, Question, TextSpec
from sharedllm.evaluation.qa.sets.base import Half
from sharedllm.model.config import SharedLLMConfig
from sharedllm.scoring import rankings
from sharedllm.scoring.text_index import TextIndex
from sharedllm.utils.text import tokenize

BUDGET = 512
# Prompts that are answered together.
ROWS = 8


def texts(name: str, count: int, data: str, meter: Meter, length: int = 32_768, half: Half = "even", quoted: bool = False) -> Iterator[PackedText]:  # fmt: skip
    """The texts of so many questions of a set, some 50 questions a text. length: tokens; 0 for texts as they are."""
    return Plan(SETS.find(name), TextSpec(Path(data), length, half, 50, 0), [], [], count, quoted).texts(meter)


def cells_of(given: str) -> Iterator[tuple[str, int, str, int]]:
    """Set, number of questions, length as it is written, and in tokens, of cells SET:QUESTIONS:TOKENS,…"""
    for part in given.split(","):
        name, count, length = part.split(":")
        yield name, int(count), length, tokens_of_length(length, 1)


def spans_of(pieces: Pieces, text: str, meter: Meter) -> np.ndarray:
    """(n, 2) the characters of a text at which its pieces begin and end."""
    ends = np.append(meter.tokens(text)[1], 0)
    return np.stack([ends[pieces.start.numpy() - 1], ends[pieces.end.numpy() - 1]], 1)


def holding(spans: np.ndarray, question: Question) -> list[np.ndarray]:
    """The pieces, of which `spans` has the characters, that have some of each part of the evidence."""
    return [np.flatnonzero((spans[:, 0] < end) & (spans[:, 1] > start)) for start, end in question.evidence]


class Unread(TextIndex):
    """The index of a text that no model has read. marks: at which pieces end; default: the model's."""

    def __init__(self, text: str, tokenizer, config: SharedLLMConfig, marks: Marks | None = None):
        segment = unread(tokenize(tokenizer, text), config.chunk_size)
        super().__init__([segment], tokenizer, config.window, marks=marks or config.marks)


@dataclass
class Chosen:
    """Pieces chosen for one question: their tokens, the prompt (1, T) that shows them, and the share of the evidence in them."""

    tokens: int
    prompt: Tensor
    answers: tuple[str, ...]
    evidence: float = 0.0
    scores: tuple[float, float] = field(default=(0.0, 0.0))


class Asker:
    """Asks a base about pieces of texts in its window."""

    def __init__(self, base, tokenizer):
        self.reader = Reader(base, tokenizer)
        self.head = self.reader.form.head()

    def prompt(self, shown: str, question: Question, instruction: str) -> Tensor:
        """(1, T) the head of the chat template, pieces, and the question."""
        asked = self.reader.form.with_instruction(question.question, instruction)
        return torch.cat([self.head, self.reader.prompt(shown, asked, bool(shown))], 1)

    def chosen(self, text: TextIndex, best: Tensor, question: Question, instruction: str) -> Chosen:
        """Some pieces of a text, yet to be answered from."""
        prompt = self.prompt("".join(text.texts[piece] for piece in best.tolist()), question, instruction)
        return Chosen(int(text.pieces.lengths[best].sum()), prompt, tuple(question.answers))

    @torch.no_grad()
    def answer(self, rows: list[Chosen], new_tokens: int) -> None:
        """Greedy answers to prompts of similar lengths, padded on the left; equal prompts are answered once."""
        reader, prompts = self.reader, sorted({tuple(row.prompt[0].tolist()) for row in rows}, key=len)
        said: dict[tuple[int, ...], str] = {}
        for begin in range(0, len(prompts), ROWS):
            some = prompts[begin : begin + ROWS]
            ids = torch.zeros(len(some), len(some[-1]), dtype=torch.long)
            for row, prompt in zip(ids, some, strict=True):
                row[len(row) - len(prompt) :] = torch.tensor(prompt)
            mask = torch.arange(ids.shape[1]) >= ids.shape[1] - torch.tensor([len(prompt) for prompt in some])[:, None]
            options = {
                "do_sample": False,
                "repetition_penalty": 1.0,
                "eos_token_id": sorted(reader.ends),
                "pad_token_id": 0,
            }
            options |= dict.fromkeys(("temperature", "top_p", "top_k"))
            made = reader.model.generate(ids, attention_mask=mask.long(), max_new_tokens=new_tokens, **options)
            replies = reader.tokenizer.batch_decode(made[:, ids.shape[1] :], skip_special_tokens=True)
            said |= dict(zip(some, (text.strip() for text in replies), strict=True))
        for row in rows:
            text = said[tuple(row.prompt[0].tolist())]
            row.scores = hit(text, row.answers), f1(text, row.answers)


def share_of(gold: Sequence[np.ndarray], best: Tensor) -> float:
    """The share of the evidence, by the pieces of each part, that some pieces have."""
    return float(np.mean([bool(set(some.tolist()) & set(best.tolist())) for some in gold if len(some)]))


def read(text: TextIndex, question: str, scores: Tensor, surely: bool = False) -> Tensor:
    """The pieces of a text that are read for a question by scores (n,), with what the best one leads to.

    surely: the best one is read whatever it has of the question's words, as in `rankings.rank_pieces`.
    """
    covered, free = text.covered(question)
    after = rankings.follow(scores, text, question, free)
    kept = rankings.kept_pieces(scores, covered, free) | (after > scores)
    if surely:
        kept[int(scores.masked_fill(torch.from_numpy(~free), -torch.inf).argmax())] = True
    return choose_pieces(after.masked_fill(~kept, -torch.inf), text.pieces, BUDGET)


def table(about: str, first: Sequence[str], columns: Sequence[str]) -> None:
    """Prints what the cells have, and the head of a table: a column of names, those of counts, and one for each setting."""
    names = [*first, *columns]
    print(f"{about}\n\n| {' | '.join(names)} |\n|---|" + "--:|" * (len(names) - 1), flush=True)


def figures(rows: Sequence[Chosen]) -> str:
    """Tokens, hit and f1 of answered questions."""
    hits, same = 100 * np.mean([row.scores for row in rows], 0)
    return f"{np.mean([row.tokens for row in rows]):.0f}, {hits:.1f}, {same:.1f}"


def with_evidence(rows: Sequence[Chosen]) -> str:
    """Evidence, tokens, hit and f1."""
    return f"{100 * np.mean([row.evidence for row in rows]):.1f}, {figures(rows)}"


def gains(before: Sequence[Chosen], after: Sequence[Chosen]) -> np.ndarray:
    """(n,) how much f1 rose for each question."""
    return np.array([new.scores[1] - old.scores[1] for old, new in zip(before, after, strict=True)])


def changed(gain: np.ndarray) -> str:
    """So many answers better, and worse."""
    return f"{(gain > 0).sum()}, {(gain < 0).sum()}"


def gained(gain: np.ndarray) -> str:
    """The mean gain in hundredths, and its standard error."""
    return f"{100 * gain.mean():+.1f} ± {100 * gain.std(ddof=1) / len(gain) ** 0.5:.1f}"
