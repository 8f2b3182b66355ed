"""Records of LongBench and InfiniteBench from local files, or from the hub, in their published format."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...data.sources import HUB
from ...utils.errors import UserError, named_type, shown
from ...utils.json_text import parse_json
from .base import Record, Task, fill, templates

# The published fields that a prompt or a score needs.
_FIELDS = {
    "longbench": ("_id", "input", "context", "answers", "all_classes"),
    "longbench_v2": ("_id", "question", "choice_A", "choice_B", "choice_C", "choice_D", "answer", "context"),
    "infinitebench": ("id", "context", "input", "answer", "options"),
}
_PARAGRAPHS = {"passage_retrieval_en": r"Paragraph (\d+):", "passage_retrieval_zh": r"段落(\d+)[:：]"}


def read_task(name: str, data: str, limit: int | None = None) -> Task:
    """The records of a dataset of LongBench or InfiniteBench.

    Args:
        name: as published; "longbench_v2" is version 2.
        data: folder with NAME.jsonl, or hub:owner/name.
        limit: read only this many records.

    Raises:
        UserError: a file is missing or empty, a line is not JSON, a field is missing, or an answer does not have the
            published form; names the file and the line.
    """
    benchmark = "longbench" if name in templates("longbench") else "infinitebench"
    template = templates(benchmark)[name]
    form = name if name == "longbench_v2" else benchmark
    build = {"longbench": _longbench, "longbench_v2": _longbench_v2, "infinitebench": _infinitebench}[form]
    records, digest = [], hashlib.sha256()
    for place, row in _hub(name, benchmark, data) if data.startswith(HUB) else _lines(Path(data) / f"{name}.jsonl"):
        missing = [field for field in _FIELDS[form] if field not in row]
        if missing:
            raise UserError(f"{place} has no field {missing[0]!r}: {name} needs {', '.join(_FIELDS[form])}.")
        if not isinstance(row["context"], str):
            raise UserError(f"{place}: 'context' is {named_type(row['context'])}, not text.")
        try:
            records.append(build(name, template["prompt"], row))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{place} is not in the published form of {name}: {error}.") from None
        digest.update(json.dumps(row, sort_keys=True).encode())
        if len(records) == limit:
            break
    if not records:
        raise UserError(f"{data} holds no record of {name}.")
    about = {"data": digest.hexdigest(), "records": len(records)}
    settings = {key: template[key] for key in ("metric", "max_new_tokens", "first_line") if key in template}
    return Task(name, records, about=about, **settings)


def _longbench(name: str, template: str, row: Mapping[str, Any]) -> Record:
    answers, classes = tuple(row["answers"]), tuple(row["all_classes"] or ())
    if isinstance(row["answers"], str) or not answers or not all(isinstance(answer, str) for answer in answers):
        raise UserError("'answers' must be a list of texts")
    blind = 1 / len(classes) if classes else None
    if name in _PARAGRAPHS:
        found = set(re.findall(_PARAGRAPHS[name], row["context"]))
        blind = 1 / len(found) if found else None
        pattern = {"passage_retrieval_en": r"Paragraph \d+", "passage_retrieval_zh": r"段落\d+"}[name]
        if not all(re.search(pattern, answer) for answer in answers):
            raise UserError(f"'answers' {answers} names no paragraph")
    return Record(str(row["_id"]), fill(template, row["context"], input=row["input"]), answers, classes, blind)


def _longbench_v2(name: str, template: str, row: Mapping[str, Any]) -> Record:
    if row["answer"] not in tuple("ABCD"):
        raise UserError(f"'answer' is {row['answer']!r}, not A, B, C or D")
    fields = {field: row[field].strip() for field in ("question", *(f"choice_{letter}" for letter in "ABCD"))}
    return Record(str(row["_id"]), fill(template, row["context"].strip(), **fields), (row["answer"],), blind=1 / 4)


def _infinitebench(name: str, template: str, row: Mapping[str, Any]) -> Record:
    answers = tuple(row["answer"]) if isinstance(row["answer"], list) else (row["answer"],)
    if not answers or answers == ("",):
        raise UserError("'answer' is empty")
    fields, blind = {"input": row["input"]}, None
    if name in ("longbook_choice_eng", "code_debug"):
        options = list(row["options"])
        if len(options) != 4:
            raise UserError(f"'options' has {len(options)} entries, not 4")
        fields |= {f"option_{letter}": text for letter, text in zip("ABCD", options, strict=True)}
        text = answers[0]
        letter = answers[1] if len(answers) == 2 else "ABCD"[options.index(text)]
        answers, blind = ((text, letter),), 1 / len(options)
    elif name == "math_find":
        # "The largest number of the list is: " asks for "What is the largest number in the following list?"
        fields["prefix"] = f"What is {_found('The .+ of', row['input']).lower()[:-3]} in the following list?"
        answers = (_as_number(answers[0]),)
    elif name == "math_calc":
        values = answers[0] if isinstance(answers[0], list) else answers
        answers = (tuple(int(value) for value in values),)
    elif name == "code_run":
        call = _found(r"func_[0-9]+\(\-?[0-9]+\)", row["input"])
        fields |= {"func": call.partition("(")[0], "func_call": call}
        answers = (int(answers[0]),)
    elif name in ("passkey", "number_string", "kv_retrieval", "longdialogue_qa_eng"):
        answers = (str(answers[0]),)
    elif not all(isinstance(answer, str) for answer in answers):
        raise UserError("'answer' must be text or a list of texts")
    return Record(str(row["id"]), fill(template, row["context"], **fields), answers, blind=blind)


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise UserError(f"'input' {shown(text)} holds nothing like {pattern!r}")
    return match[0]


def _as_number(value: Any) -> int | float:
    """The hub's copy stores numbers as text."""
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"-?\d+", value) else float(value)
    return value


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if not path.is_file():
        raise UserError(f"data={str(path.parent)!r} holds no {path.name}: name the folder that does.")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = parse_json(line.decode("utf-8"))
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}:{number} is not JSON: {error}; fix the line.") from None
            if not isinstance(row, dict):
                raise UserError(f"{path}:{number} is {named_type(row)}, not a record: write one object per line.")
            yield f"{path}:{number}", row


def _hub(name: str, benchmark: str, data: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """LongBench: one configuration per dataset, split test; version 2: split train; InfiniteBench: one split per dataset."""
    try:
        from datasets import load_dataset
    except ImportError:
        raise UserError(f"{data} needs the datasets library: pip install 'sharedllm[train]'.") from None
    load: Callable = load_dataset
    options: dict[str, Any] = {"split": name}
    if benchmark == "longbench":
        options = {"split": "train"} if name == "longbench_v2" else {"name": name, "split": "test"}
    try:
        for number, row in enumerate(load(data.removeprefix(HUB), streaming=True, **options), start=1):
            yield f"{data}, {name}, record {number}", dict(row)
    except Exception as error:  # from the library, pyarrow, fsspec or the network: there is no common class
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{data} can't be read: {reason}") from error
