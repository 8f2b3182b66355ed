"""Sets of short passages, any number of which form a text: Natural Questions, HotpotQA, UUID records."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ....prompts import FEW_WORDS
from ..meter import Meter
from .base import Item, PackedText, Question, TextSpec, pack, read_set
from .books import sections


@dataclass(frozen=True)
class NaturalQuestions:
    """Search queries, each with a passage of Wikipedia (Liu et al., arXiv 2307.03172); books fill the rest of a text."""

    name: str = "nq"
    metrics: tuple[str, ...] = ("hit", "em", "f1")
    instruction: str = FEW_WORDS
    new_tokens: int = 20

    def texts(self, spec: TextSpec, meter: Meter) -> Iterator[PackedText]:
        wanted, others = [], []
        for record in read_set(spec.folder, self.name):
            number = int(record["id"].rpartition("-")[2])
            text = f"{record['title']}\n{record['passage']}"
            question = Question(
                record["id"], _asked(record["question"]), tuple(record["answers"]), ((0, len(text)),), record["id"]
            )
            item = Item(record["title"], text, (question,))
            (wanted if spec.takes(number) else others).append(item)
        filler = _filler(spec, meter, wanted + others)
        return pack(self.name, wanted, others, filler, spec, meter)


@dataclass(frozen=True)
class HotpotQA:
    """Questions that need two paragraphs (Yang et al., arXiv 1809.09600); each comes with eight distractors."""

    name: str = "hotpotqa"
    metrics: tuple[str, ...] = ("f1", "em", "hit")
    instruction: str = FEW_WORDS
    new_tokens: int = 20

    def texts(self, spec: TextSpec, meter: Meter) -> Iterator[PackedText]:
        wanted, others = [], []
        for number, record in enumerate(read_set(spec.folder, self.name)):
            rows = record["paragraphs"]
            random.Random(f"{spec.seed} {record['id']}").shuffle(rows)
            texts = [f"{row['title']}\n{row['text']}" for row in rows]
            starts = [sum(len(text) + 2 for text in texts[:i]) for i in range(len(texts))]
            parts = tuple((start, start + len(text)) for start, text in zip(starts, texts, strict=True))
            gold = tuple(part for part, row in zip(parts, rows, strict=True) if row["gold"])
            question = Question(
                record["id"], record["question"], (record["answer"],), gold, record["id"], record.get("type", "")
            )
            item = Item(record["id"], "\n\n".join(texts), (question,), parts, scattered=True)
            # Its ids are hexadecimal, and those of a part of the set may all be even: the place in the file tells the halves.
            (wanted if spec.takes(number) else others).append(item)
        return pack(self.name, wanted, others, _filler(spec, meter, wanted + others), spec, meter)


@dataclass(frozen=True)
class Records:
    """UUIDs with UUIDs as values (Liu et al., arXiv 2307.03172), as in one JSON object, or in several objects.

    between: what stands between two of them.
    """

    name: str
    between: str = ",\n"
    metrics: tuple[str, ...] = ("hit",)
    instruction: str = FEW_WORDS
    new_tokens: int = 128  # the key may be said too: two UUIDs have up to 80 tokens

    def texts(self, spec: TextSpec, meter: Meter) -> Iterator[PackedText]:
        wanted, others = [], []
        for record in read_set(spec.folder, self.name.removesuffix("-line")):
            number = int(record["id"].rpartition("-")[2])
            (wanted if spec.takes(number) else others).append(self._item(record))
        return pack(self.name, wanted, others, (), spec, meter)

    def _item(self, record: dict[str, Any]) -> Item:
        lines = [f'"{key}": "{value}"{self.between}' for key, value in record["records"]]
        (place,) = (i for i, (key, _) in enumerate(record["records"]) if key == record["key"])
        start = sum(map(len, lines[:place]))
        asked = f'What is the value of the key "{record["key"]}"?'
        question = Question(
            record["id"], asked, (record["value"],), ((start, start + len(lines[place])),), record["id"]
        )  # fmt: skip
        return Item(record["id"], "".join(lines), (question,))


def _asked(query: str) -> str:
    """A search query as a sentence."""
    return query[:1].upper() + query[1:] + ("" if query.endswith("?") else "?")


def _filler(spec: TextSpec, meter: Meter, items: list[Item]) -> list[Item]:
    """Sections of books, if a text is longer than all passages together."""
    there = sum(meter.count(item.text) + 1 for item in items)
    return sections(spec.folder, spec.length - there, meter) if there < spec.length else []
