"""Sets of long documents with many questions each: tales, novels, meetings, science fiction."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ....prompts import FEW_WORDS
from ..meter import Meter
from .base import Item, PackedText, Question, TextSpec, pack, read_set

SENTENCE = "Answer with one short sentence."


@dataclass(frozen=True)
class FairytaleQA:
    """Questions about tales, with the sections that answer them (Xu et al., arXiv 2203.13947); the halves are split by
    story."""

    name: str = "fairytaleqa"
    metrics: tuple[str, ...] = ("f1", "rouge_l", "hit")
    instruction: str = FEW_WORDS
    new_tokens: int = 24

    def texts(self, spec: TextSpec, meter: Meter) -> Iterator[PackedText]:
        wanted, others = [], []
        for number, record in enumerate(read_set(spec.folder, self.name)):
            item = self._item(record, bool(record["questions"]) and spec.takes(number))
            (wanted if item.questions else others).append(item)
        return pack(self.name, wanted, others, (), spec, meter)

    def _item(self, record: dict[str, Any], asked: bool) -> Item:
        parts, start = [], 0
        for section in record["sections"]:
            parts.append((start, start + len(section)))
            start += len(section) + 2
        questions = [
            Question(
                f"{record['story']}-{number}",
                row["question"],
                tuple(row["answers"]),
                tuple(parts[i] for i in row["evidence"]),
                record["story"],
                "explicit" if row["explicit"] else "implicit",
            )
            for number, row in enumerate(record["questions"])
        ]
        return Item(
            record["story"], "\n\n".join(record["sections"]), tuple(questions) if asked else (), tuple(parts)
        )  # fmt: skip


@dataclass(frozen=True)
class Documents:
    """Questions about one long document. It is alone in its text, because the questions don't say which document they
    are about.

    The length is the maximum number of tokens of a document. file_key, name_key: fields of the record's id and name.
    kinds: a field of the question, and the kinds for true and false.
    """

    name: str
    metrics: tuple[str, ...]
    instruction: str
    new_tokens: int
    key: str
    kinds: tuple[str, str, str] | None = None

    def texts(self, spec: TextSpec, meter: Meter) -> Iterator[PackedText]:
        alone = TextSpec(spec.folder, 0, spec.half, spec.per_text, spec.seed)
        for number, record in enumerate(read_set(spec.folder, self.name)):
            if spec.takes(number) and (not spec.length or meter.count(record["text"]) <= spec.length):
                yield from pack(self.name, [self._item(record)], (), (), alone, meter)

    def _item(self, record: dict[str, Any]) -> Item:
        key = str(record[self.key])
        questions = [
            Question(f"{key}-{number}", row["question"], tuple(row["answers"]), (), key, self._kind(row))
            for number, row in enumerate(record["questions"])
        ]
        return Item(record.get("title") or key, record["text"], tuple(questions))

    def _kind(self, row: dict[str, Any]) -> str:
        if self.kinds is None:
            return ""
        field, yes, no = self.kinds
        return yes if row[field] else no


# Kočiský et al., arXiv 1712.07040; Zhong et al., arXiv 2104.05938; Wang et al., arXiv 2205.11465.
NARRATIVEQA = Documents(
    "narrativeqa", ("f1", "rouge_l", "hit"), FEW_WORDS, 24, "document_id", ("verbatim", "verbatim", "other words")
)
QMSUM = Documents("qmsum", ("rouge_l", "f1"), SENTENCE, 64, "meeting", ("general", "general", "specific"))
SQUALITY = Documents("squality", ("rouge_l", "f1"), "Answer in a few sentences.", 128, "passage_id")
