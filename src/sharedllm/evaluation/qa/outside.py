"""Systems outside the package: what they are asked as a file of token ids, and their replies as another.

A rival that needs other versions of its libraries runs in an environment of its own (`runs/kvpress_qa.py`). It reads the
same tokens as the base here, and its replies are scored here.

A prompt file has one JSON line a text:
    text       its id. ids: the head of the chat template and the text
    ends       ids that end a reply. new_tokens: most tokens of a reply
    questions  id, and ids that follow the text, up to where the reply begins

A reply file has one JSON line a question:
    question  its id. reply: its text
    kept      tokens of the text that are left. context: tokens that the reply saw
    seconds   by step. read: seconds of reading the text
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...utils.errors import UserError
from ...utils.files import write_text
from .reader import Reader
from .run import Plan, rows_of
from .sets import PackedText
from .systems import Ask, AskedSystem, Decided, Reply, Resources


def write_prompts(path: Path, plan: Plan, texts: Sequence[PackedText], reader: Reader) -> None:
    """Write what the base would read for each text and question of a plan with the whole text in its window."""
    lines = []
    for text in texts:
        asked = [Ask(question, plan.questions.instruction, plan.questions.new_tokens) for question in text.questions]
        lines.append(
            {
                "text": text.id,
                "ids": reader.beginning(text.text)[0].tolist(),
                "ends": sorted(reader.ends),
                "new_tokens": plan.questions.new_tokens,
                "questions": [
                    {
                        "id": ask.question.id,
                        "ids": reader.prompt("", ask.asked(reader.form), after_text=True)[0].tolist(),
                    }
                    for ask in asked
                ],
            }
        )
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))


@dataclass(frozen=True)
class Replies(Decided):
    """The replies of a file, as a system. Its name is "replies:" and that of the file, without the folder.

    rows: by question. one_line: only the first line of a reply counts, as for the base.
    """

    path: Path
    rows: Mapping[str, dict[str, Any]]
    one_line: bool = False
    budgeted: bool = False
    follows: str = ""

    @property
    def name(self) -> str:
        return f"replies:{self.path.stem}"

    def stands(self, row: dict[str, Any]) -> bool:
        """Whether the file has still this reply: it may have been written again."""
        return self._said(self.rows.get(row["question"], {})) == row.get("reply")

    def _said(self, row: Mapping[str, Any]) -> Any:
        said = row.get("reply")
        if not isinstance(said, str):
            return said
        return said.strip().split("\n")[0] if self.one_line else said.strip()

    def prepare(self, text: PackedText) -> None:
        """The other program has read it."""

    def answer(self, state: None, ask: Ask) -> Reply:
        """
        Raises:
            UserError: the file has no reply to the question, or the reply lacks a field.
        """
        row = self.rows.get(ask.question.id)
        if row is None:
            raise UserError(
                f"{self.path} has no reply to {ask.question.id}: make its prompts with `sharedllm qa --prompts` and the same options."
            )
        try:
            said = self._said(row)
            if not isinstance(said, str):
                raise TypeError(f"reply={said!r} must be text")
            return Reply(said, row["context"], row["kept"], row["seconds"], None, read_seconds=row["read"])
        except (KeyError, TypeError) as error:
            raise UserError(f"{self.path}: the reply to {ask.question.id} is not as needed: {error}.") from None


def replies(name: str, variant: str, resources: Resources) -> AskedSystem:
    """
    Raises:
        UserError: the name has no file, or there are no replies in it.
    """
    if not variant:
        raise UserError(f"system={name!r} needs a file of replies: write replies:FILE.")
    path = Path(variant)
    rows = {row.get("question"): row for row in rows_of(path)}
    if not rows:
        raise UserError(f"system='replies:{path}': there are no replies in it; check the name.")
    return Replies(path, rows, resources.harness.reader.form.one_line)
