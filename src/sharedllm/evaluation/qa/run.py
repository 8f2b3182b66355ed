"""Puts every question to every system. Each answer is saved at once as a JSON line, and no question is asked twice."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...utils.errors import UserError, first_of
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
            UserError: no text can be made, or a record of the set's file lacks a field, or has a value of another kind.
        """
        found, left = [], self.most
        texts = None
        while left > 0:
            try:
                texts = texts or self.questions.texts(self.spec, meter)
                text = next(texts, None)
            except UserError:
                raise
            except KeyError as field:
                folder, name = self.spec.folder, self.questions.name
                raise UserError(f"{folder}: a record of {name} has no field {field}, which every one needs.") from None
            except (AttributeError, IndexError, TypeError, ValueError) as error:
                folder, name = self.spec.folder, self.questions.name
                raise UserError(
                    f"{folder}: a record of {name} is not like those of the published set: {error}."
                ) from None
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

    `folder/SET-LENGTH/` gets run.json and a file `SYSTEM[@BUDGET].jsonl` for each system and budget. A question that a system
    could not answer is asked again; a text that it could not read only if `resources.limit_s` is longer than it was.

    Args:
        texts: `plan.texts`. models: identifies the models, saved with the results. named: description of the models.
        note: prints a line.

    Raises:
        ValueError: the folder holds a measurement of other questions, models or systems; a system is not known, or follows
            one that was not asked.
    """
    place = folder / plan.label
    systems = [make(name, resources) for name in plan.systems]
    begun = {"texts": _hashes(texts), "systems": {s.name: s.about for s in systems if s.about}}
    _begin(place, plan.about() | {"models": models}, begun, named)
    jobs = [(s, budget) for s in systems for budget in (plan.budgets if s.budgeted else [None])]
    done = {file_of(place, s.name, b): _done(file_of(place, s.name, b), s, resources.limit_s) for s, b in jobs}
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
                    _ask(plan, system, text, left, place, resources.limit_s, note, advance)
    return place


def _ask(
    plan: Plan,
    system: AskedSystem,
    text: PackedText,
    left: dict[int | None, list],
    place: Path,
    limit_s: float,
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
            row = common | {"budget": budget, "skipped": str(reason), "limit_s": limit_s}
            _append(file_of(place, system.name, budget), row)
            advance(len(some))
        note(f"{plan.label}, {system.name}: {text.id} skipped: {reason}")
        return
    preparing = now() - begin
    for budget, some in left.items():
        file = file_of(place, system.name, budget)
        followed, skipped = _followed(file_of(place, system.follows, budget)) if system.follows else ({}, set())
        right, lacking = [], ""
        for question in some:
            row = common | {"budget": budget, "question": question.id, "group": question.group, "kind": question.kind}
            if skipped & {question.id, text.id}:
                lacking = f"{system.follows} has no pieces for it"
                _append(file, row | {"skipped": lacking})
                advance(1)
                continue
            if system.follows and question.id not in followed:
                raise UserError(
                    f"{system.name} takes the pieces of {system.follows}, which was not asked {question.id} with "
                    f"budgets={budget}: list that system first."
                )
            ask = Ask(
                question, plan.questions.instruction, plan.questions.new_tokens, budget, followed.get(question.id, ())
            )
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


def _begin(place: Path, about: dict[str, Any], begun: dict[str, dict[str, Any]], named: str) -> None:
    """
    Args:
        about: what decides all answers. begun: what decides those of one text or one system, by its name.
    """
    path, commands = place / "run.json", [command_line()]
    about, begun = json.loads(json.dumps(about)), json.loads(json.dumps(begun))
    if path.is_file():
        there = json.loads(path.read_text(encoding="utf-8"))
        changed = [key for key in about if there["about"].get(key) != about[key]]
        for kind, now_so in begun.items():
            # Older files have none.
            before = there.get(kind, {})
            changed += [f"{kind} {name}" for name in now_so if before.get(name, now_so[name]) != now_so[name]]
            begun[kind] = before | now_so
        if changed:
            raise UserError(
                f"{place} holds another measurement, which differs in {first_of(changed, 3)}: name another folder."
            )
        commands = there["commands"] + [command for command in commands if command not in there["commands"]]
    content = {
        "about": about,
        **begun,
        "named": named,
        "commands": commands,
        "environment": {"sharedllm": __version__} | environment(),
    }
    write_text(path, json.dumps(content, indent=1))


def _hashes(texts: Sequence[PackedText]) -> dict[str, str]:
    """Of every text and every question about it, by its id."""
    found = {text.id: _hash(text.text) for text in texts}
    return found | {
        f"{text.id}, {question.id}": _hash(json.dumps(asdict(question)))
        for text in texts
        for question in text.questions
    }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _done(file: Path, system: AskedSystem, limit_s: float) -> set[str]:
    """Answered questions, and texts that can't be read in this time."""
    done = set()
    for row in rows_of(file):
        if "scores" in row and system.stands(row):
            done.add(row["question"])
        elif "question" not in row and row.get("limit_s", limit_s) >= limit_s:
            done.add(row["text"])
    return done


def _followed(file: Path) -> tuple[dict[str, tuple], set[str]]:
    """The pieces of each question that a system answered, and the questions and texts that it skipped."""
    spans, skipped = {}, set()
    for row in rows_of(file):
        if "spans" in row:
            spans[row["question"]] = tuple(map(tuple, row["spans"]))
        elif "skipped" in row:
            skipped.add(row.get("question", row["text"]))
    return spans, skipped - spans.keys()


def _append(file: Path, row: dict[str, Any]) -> None:
    with file.open("a+b") as out:
        # End a truncated line here, so that the next one is whole.
        if out.tell():
            out.seek(-1, 2)
            if out.read(1) != b"\n":
                out.write(b"\n")
        out.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
