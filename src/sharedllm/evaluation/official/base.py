"""Tasks of official benchmarks: records with a prompt in three parts and right answers."""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ...prompts import NOTHING
from ...systems.answering import Prompt
from ...utils.errors import UserError
from ...utils.text import tokenize
from .metrics import METRICS


@dataclass(frozen=True)
class Record:
    """One question.

    Fields: answers: right answers, any of which counts; for RULER, one list of strings that all have to occur.
        classes: all class names, for classification.
        blind: expected score of a guess from the question alone; None if guessing is not possible.
    """

    id: str
    prompt: Prompt
    answers: tuple[Any, ...]
    classes: tuple[str, ...] = ()
    blind: float | None = None


@dataclass(frozen=True)
class Task:
    """Records that are asked and scored in the same way.

    Fields:
        metric: a name in `METRICS`. first_line: only the first line of an answer counts.
        about: everything else that decides the numbers: the hash of the data, or the settings of a generator.
        length: tokens of prompt and answer together, for generated tasks.
    """

    name: str
    records: Sequence[Record]
    metric: str
    max_new_tokens: int
    first_line: bool = False
    about: dict[str, Any] = field(default_factory=dict)
    length: int | None = None

    @property
    def label(self) -> str:
        return self.name if self.length is None else f"{self.name}-{self.length}"

    def score(self, prediction: str, record: Record) -> float:
        """Best score over the right answers, between 0 and 1."""
        if self.first_line:
            prediction = prediction.lstrip("\n").split("\n")[0]
        return max(METRICS[self.metric](prediction, answer, record.classes) for answer in record.answers)


@functools.cache
def templates(benchmark: str) -> dict[str, dict[str, Any]]:
    """Prompt, metric and maximum number of new tokens of each task of a benchmark."""
    file = Path(__file__).parent / "prompts" / f"{benchmark}.json"
    return json.loads(file.read_text(encoding="utf-8"))["tasks"]


def fill(template: str, context: str, **fields: str) -> Prompt:
    """Fill a template; braces in the fields are kept."""
    before, after = template.split("{context}")
    return Prompt(
        before.format(**fields), context, after.format(**fields), after.format(**dict.fromkeys(fields, NOTHING))
    )


def truncate_middle(prompt: Prompt, tokenizer: PreTrainedTokenizerBase, most: int) -> tuple[Prompt, int]:
    """Cut the middle out of a prompt, as LongBench and InfiniteBench do, keeping half of the tokens from each end.

    Returns:
        The prompt, and the number of tokens cut out; 0 if it was short enough.

    Raises:
        UserError: `most` is below 2.
    """
    if most < 2:
        raise UserError(f"truncate_middle={most} leaves nothing: keep at least 2 tokens.")
    ids = tokenize(tokenizer, prompt.text)[0]
    if len(ids) <= most:
        return prompt, 0
    half = most // 2
    start, end = (str(tokenizer.decode(part, skip_special_tokens=True)) for part in (ids[:half], ids[-half:]))
    # The question stays at the end of the prompt, unless it was cut too.
    after = prompt.after if end.endswith(prompt.after) else end
    return replace(prompt, before="", context=start + end.removesuffix(after), after=after), len(ids) - 2 * half
