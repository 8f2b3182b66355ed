"""The next line of code, which calls a function that was last seen long before (long-range completion)."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ....data.sources import records
from ....utils.errors import UserError
from ..meter import Meter
from .base import Builder, Item, PackedText, Question, TextSpec, read_set

# Number of characters right before the line that the question itself shows.
NEAR = 1_500


@dataclass(frozen=True)
class CodeLines:
    """One text for each line: the code before it, whose last part is in the question.

    The documents are in the shards of a corpus in the folder `corpus`, next to the folder of the sets.
    """

    name: str = "codelong"
    metrics: tuple[str, ...] = ("line", "edit")
    instruction: str = "Write the next line of this code, and nothing else."
    new_tokens: int = 40

    def texts(self, spec: TextSpec, meter: Meter) -> Iterator[PackedText]:
        for number, record in enumerate(read_set(spec.folder, self.name)):
            if spec.takes(number) and (text := self._text(record, number, spec, meter)) is not None:
                yield text

    def _text(self, record: dict[str, Any], number: int, spec: TextSpec, meter: Meter) -> PackedText | None:
        source = _document(spec.folder.parent / "corpus", record["shard"], record["doc_id"])
        end = record["line_start"] - NEAR
        # Move to the previous line border, so that the question begins with a whole line.
        end = source.rfind("\n", 0, max(end, 0)) + 1
        far = source[:end]
        if spec.length:
            # A token has at least one character, so these characters contain the last `length` tokens; cut from the front.
            far = far[-8 * spec.length :]
            ends = meter.tokens(far)[1]
            if len(ends) > spec.length:
                far = far[int(ends[-spec.length - 1]) :]
                far = far[far.find("\n") + 1 :]
        at = far.rfind(record["name"])
        if at < 0:
            return None
        line = (far.rfind("\n", 0, at) + 1, far.find("\n", at) % (len(far) + 1))
        near = source[end : record["line_start"]]
        question = Question(
            f"{self.name}-{number}", f"```python\n{near}```\n", (record["target"],), (line,), record["doc_id"],
            record["bucket"],
        )  # fmt: skip
        builder = Builder()
        item = Item(record["source"], far)
        builder.add(item)
        return builder.done(f"{self.name}-{spec.length}-{number}", [(item, [question])], meter)


@lru_cache(maxsize=4)
def _document(corpus: Path, shard: str, name: str) -> str:
    for suffix in (".jsonl.zst", ".jsonl"):
        if (file := corpus / f"{shard}{suffix}").is_file():
            for _, record in records(str(file)):
                if record["id"] == name:  # pyright: ignore[reportIndexIssue]
                    return str(record["text"])  # pyright: ignore[reportIndexIssue]
            raise UserError(f"{file} holds no document {name}: take the corpus that the set was made from.")
    raise UserError(f"{corpus} holds no {shard}.jsonl.zst: put the corpus next to the folder of the sets.")
