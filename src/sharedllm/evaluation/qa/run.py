"""Puts every question to every system. Each answer is saved at once as a JSON line, and no question is asked twice."""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...utils.errors import UserError
from ...utils.files import write_text
from ...utils.hardware import command_line, environment, now
from ...utils.version import __version__
from .meter import Meter
from .metrics import scores
from .sets import PackedText, QuestionSet, TextSpec
from .sets.quoting import quote
from .systems import Ask, AskedSystem, Reply, Resources, Skipped, make

Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class Plan:
    """One cell of a table: a set at a length.

    systems  names; followed systems come before those that follow them. budgets: tokens of pieces
    most     maximum number of questions. quoted: texts quote their questions (see `sets.quoting`)
    """

    questions: QuestionSet
    spec: TextSpec
    systems: Sequence[str]
    budgets: Sequence[int]
    most: int
    quoted: bool = False

    @property
    def name(self) -> str:
        return f"{self.questions.name}-quoted" if self.quoted else self.questions.name

    @property
    def label(self) -> str:
        return f"{self.name}-{self.spec.length or 'whole'}"

    def texts(self, meter: Meter) -> list[PackedText]:
        """As many texts as needed for `most` questions.

        Raises:
            UserError: no text can be made, or a record of the set's file lacks a field.
        """
        found, left = [], self.most
        texts = None
        while left > 0:
            try:
                texts = texts or self.questions.texts(self.spec, meter)
                text = next(texts, None)
            except KeyError as field:
                folder, name = self.spec.folder, self.questions.name
                raise UserError(f"{folder}: a record of {name} has no field {field}, which every one needs.") from None
            if text is None:
                break
            text = replace(text, questions=text.questions[:left])
            found.append(quote(text, self.spec.seed, meter) if self.quoted else text)
            left -= len(text.questions)
        if not found:
            raise UserError(f"{self.questions.name} has no question in its {self.spec.half} half: use half='all'.")
        return found

    def about(self) -> dict[str, Any]:
        """Everything that decides the questions and their order; a folder with different values is refused."""
        spec = self.spec
        return {
            "set": self.name, "length": spec.length, "half": spec.half, "seed": spec.seed,
            "per_text": spec.per_text, "instruction": self.questions.instruction,
            "new_tokens": self.questions.new_tokens, "metrics": list(self.questions.metrics),
        }  # fmt: skip


@contextlib.contextmanager
def no_bar(label: str, total: int) -> Iterator[Callable[[int], None]]:
    yield lambda advance: None


def measure(
    plan: Plan,
    texts: Sequence[PackedText],
    resources: Resources,
    folder: Path,
    models: dict[str, Any],
    named: str = "",
    note: Callable[[str], None] = lambda line: None,
    bar: Bar = no_bar,
) -> Path:
    """Ask everything that was not asked yet; returns the folder of the cell.

    `folder/SET-LENGTH/` gets run.json and a file `SYSTEM[@BUDGET].jsonl` for each system and budget.

    Args:
        texts: `plan.texts`. models: identifies the models, saved with the results. named: description of the models.
        note: prints a line.

    Raises:
        ValueError: the folder holds a measurement of other questions or models; a system is not known, or follows one
            that was not asked.
    """
    place = folder / plan.label
    _begin(place, json.loads(json.dumps(plan.about() | {"models": models})), named)
    systems = [make(name, resources) for name in plan.systems]
    jobs = [(s, budget) for s in systems for budget in (plan.budgets if s.budgeted else [None])]
    done = {file_of(place, s.name, b): _done(file_of(place, s.name, b)) for s, b in jobs}
    total = len(jobs) * sum(len(text.questions) for text in texts)
    with bar(plan.label, total) as advance:
        for text in texts:
            for system in systems:
                mine = [b for s, b in jobs if s is system]
                left = {
                    b: [q for q in text.questions if not done[file_of(place, system.name, b)] & {q.id, text.id}]
                    for b in mine
                }
                advance(sum(len(text.questions) - len(some) for some in left.values()))
                if any(left.values()):
                    _ask(plan, system, text, left, place, note, advance)
    return place


def _ask(
    plan: Plan,
    system: AskedSystem,
    text: PackedText,
    left: dict[int | None, list],
    place: Path,
    note: Callable[[str], None],
    advance: Callable[[int], None],
) -> None:
    """Ask all questions of one text that a system has not answered yet, by budget."""
    common = {"system": system.name, "text": text.id, "tokens": text.tokens}
    begin = now()
    try:
        state = system.prepare(text)
    except Skipped as reason:
        for budget, some in left.items():
            _append(file_of(place, system.name, budget), common | {"budget": budget, "skipped": str(reason)})
            advance(len(some))
        note(f"{plan.label}, {system.name}: {text.id} skipped: {reason}")
        return
    preparing = now() - begin
    for budget, some in left.items():
        file = file_of(place, system.name, budget)
        followed = _spans(file_of(place, system.follows, budget)) if system.follows else {}
        right, lacking = [], ""
        for question in some:
            if system.follows and question.id not in followed:
                raise UserError(
                    f"{system.name} takes the pieces of {system.follows}, which was not asked {question.id} with "
                    f"budgets={budget}: list that system first."
                )
            ask = Ask(
                question, plan.questions.instruction, plan.questions.new_tokens, budget, followed.get(question.id, ())
            )
            row = common | {"budget": budget, "question": question.id, "group": question.group, "kind": question.kind}
            try:
                reply: Reply = system.answer(state, ask)
            except Skipped as reason:
                lacking = str(reason)
                _append(file, row | {"skipped": lacking})
                advance(1)
                continue
            marks = scores(reply.text, question.answers, plan.questions.metrics)
            right.append(marks[plan.questions.metrics[0]])
            read = preparing if reply.read_seconds is None else reply.read_seconds
            said = asdict(reply) | {"seconds": {k: round(v, 4) for k, v in reply.seconds.items()}}
            del said["read_seconds"]
            _append(file, row | {"reply": said.pop("text"), "answers": question.answers, "scores": marks} | said
                    | {"prepare": round(read, 2)})  # fmt: skip
            advance(1)
        shown = system.name if budget is None else f"{system.name}, {budget:,} tokens"
        if right:
            note(f"{plan.label}, {shown}: {text.id}: {sum(right) / len(right):.2f} of {len(right)} questions")
        elif lacking:
            note(f"{plan.label}, {shown}: {text.id}: none of {len(some)} questions could be asked: {lacking}")


def file_of(place: Path, system: str, budget: int | None) -> Path:
    name = system.replace(":", "=").replace("/", "_")
    return place / (f"{name}.jsonl" if budget is None else f"{name}@{budget}.jsonl")


def rows_of(file: Path) -> list[dict[str, Any]]:
    """The lines of a file, without a truncated last line."""
    if not file.is_file():
        return []
    rows = []
    # Bytes, as a reply may hold what ends a line of text only, U+2028 for instance, and the last one half a character.
    for line in file.read_bytes().splitlines():
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def _begin(place: Path, about: dict[str, Any], named: str) -> None:
    path, commands = place / "run.json", [command_line()]
    if path.is_file():
        there = json.loads(path.read_text(encoding="utf-8"))
        if changed := [key for key in about if there["about"].get(key) != about[key]]:
            raise UserError(
                f"{place} holds another measurement, which differs in {', '.join(changed)}: name another folder."
            )
        commands = there["commands"] + [command for command in commands if command not in there["commands"]]
    content = {
        "about": about,
        "named": named,
        "commands": commands,
        "environment": {"sharedllm": __version__} | environment(),
    }
    write_text(path, json.dumps(content, indent=1))


def _done(file: Path) -> set[str]:
    """Answered and skipped questions, and skipped texts."""
    return {row.get("question", row["text"]) for row in rows_of(file)}


def _spans(file: Path) -> dict[str, tuple]:
    return {row["question"]: tuple(map(tuple, row["spans"])) for row in rows_of(file) if "spans" in row}


def _append(file: Path, row: dict[str, Any]) -> None:
    with file.open("a+b") as out:
        # End a truncated line here, so that the next one is whole.
        if out.tell():
            out.seek(-1, 2)
            if out.read(1) != b"\n":
                out.write(b"\n")
        out.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
