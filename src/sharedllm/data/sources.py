"""Documents from anywhere: text files, records of JSON lines and Parquet, folders of them, and the Hugging Face hub."""

import codecs
import glob
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..utils.compressed import DAMAGED, decompressed
from ..utils.errors import UserError, named_type
from ..utils.json_text import parse_json
from ..utils.text_files import expand, read_text

TEXTS = (".txt", ".md", ".py")
LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
SUFFIXES = (*TEXTS, *LINES, ".parquet")
HUB = "hub:"


@dataclass(frozen=True)
class Document:
    """A text and its origin.

    Fields:
        text: never blank, and always valid Unicode.
        name: the record's `title` if it has one, else the file, or "file:number" for a record. The number counts
        records from 1, in JSON lines the lines.
        source: the file, or "hub:…" as given.
    """

    text: str
    name: str
    source: str


def documents(sources: Sequence[str], *, text_field: str = "text") -> Iterator[Document]:
    """All documents of the sources, in order; nothing is left out.

    Args:
        sources: as in `resolve`. text_field: field of a record that holds its text.

    Raises:
        UserError: as in `resolve`, before anything is read; a file that is damaged, empty or not UTF-8; a record that
            can't be read, or whose text is missing, not text, or blank. Names the file and, where possible, the line or
            record.
    """
    for source in resolve(sources):
        if source.lower().endswith(TEXTS) and not source.startswith(HUB):
            yield Document(read_text(source), source, source)
            continue
        number = None
        for number, record in records(source):
            yield _document(record, source, number, text_field)
        if number is None:
            raise UserError(f"{source} is empty: it holds no record.")


def resolve(sources: Sequence[str]) -> list[str]:
    """Expand sources to files and hub datasets, in order.

    Args:
        sources: files with a suffix in `SUFFIXES`, globs, folders (all such files below, sorted by path, without hidden
            ones), and "hub:owner/name[:configuration][@split]", in which owner/name may be a local folder.

    Raises:
        UserError: no source is named, or one is missing, a folder without such files, a glob without matches, or of
            another kind.
    """
    if isinstance(sources, str) or not sources:
        raise UserError(f"sources={sources!r} must be a list of at least one file, folder, glob or hub:owner/name.")
    found: list[str] = []
    for source in sources:
        if source.startswith(HUB):
            parse_hub(source)
            found.append(source)
            continue
        for name in expand([source]):
            found += _below(Path(name)) if Path(name).is_dir() else [_supported(name)]
    return found


def parse_hub(source: str) -> tuple[str, str | None, str]:
    """Dataset id, configuration and split of "hub:owner/name[:configuration][@split]".

    Raises:
        UserError: it has another form.
    """
    match = re.fullmatch(r"hub:([^:@]+)(?::([^:@]+))?(?:@([^:@]+))?", source)
    if match is None:
        raise UserError(f"{source} names no dataset: write hub:owner/name, hub:owner/name:configuration or …@split.")
    return match[1], match[2], match[3] or "train"


def _supported(name: str) -> str:
    if not Path(name).exists():
        raise UserError(f"{name} does not exist: check the name.")
    if not Path(name).is_file():
        raise UserError(f"{name} is a pipe or a device, which can be read only once: save it in a file first.")
    if not name.lower().endswith(SUFFIXES):
        raise UserError(f"{name} is not of a supported kind: convert it to one of {' '.join(SUFFIXES)}.")
    return name


def _below(folder: Path) -> list[str]:
    """Supported files below a folder, without hidden files and folders."""
    inside = (p for p in sorted(folder.rglob("*")) if p.name.lower().endswith(SUFFIXES) and p.is_file())
    files = [str(p) for p in inside if not any(part.startswith(".") for part in p.relative_to(folder).parts)]
    if not files:
        raise UserError(f"{folder} holds no supported file: add some with a suffix of {' '.join(SUFFIXES)}.")
    return files


def _document(record: object, source: str, number: int, text_field: str) -> Document:
    place = f"{source}:{number}"
    if not isinstance(record, Mapping):
        raise UserError(f"{place} is {named_type(record)}, not a record: write one JSON object per line.")
    if text_field not in record:
        fields = ", ".join(map(str, record)) or "none"
        raise UserError(f"{place} has no field {text_field!r}: name the field that holds the text, one of {fields}.")
    text, title = record[text_field], record.get("title")
    if not isinstance(text, str):
        raise UserError(f"{place} has a {type(text).__name__} in {text_field!r}, not text: leave the record out.")
    if not text.strip():
        raise UserError(f"{place} is empty: its {text_field!r} holds no text; leave the record out.")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON can escape half of a surrogate pair
        raise UserError(f"{place} is not valid Unicode: {error.reason} at character {error.start}; fix it.") from None
    return Document(text, title if isinstance(title, str) and title.strip() else place, source)


def records(source: str) -> Iterator[tuple[int, object]]:
    """(number from 1, record) of a hub dataset or a file of records."""
    if source.startswith(HUB):
        name, configuration, split = parse_hub(source)
        yield from _streamed(source, name, configuration, split=split)
    elif source.lower().endswith(LINES):
        yield from _json_lines(source)
    else:
        yield from _streamed(source, "parquet", data_files=glob.escape(source), split="train", batch_size=256)


def _streamed(source: str, path: str, name: str | None = None, **options: Any) -> Iterator[tuple[int, object]]:
    try:
        from datasets import load_dataset
    except ImportError:
        raise UserError(f"{source} needs the datasets library: pip install 'sharedllm[train]'.") from None
    number = 0
    try:
        for number, record in enumerate(load_dataset(path, name, streaming=True, **options), start=1):
            yield number, record
    except Exception as error:  # from the library, pyarrow, fsspec or the network: there is no common class
        where = f" after record {number}" if number else ""
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{source} can't be read{where}: {reason}") from error


def _json_lines(source: str) -> Iterator[tuple[int, object]]:
    number = 0
    try:
        with Path(source).open("rb") as file, decompressed(source, file) as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, _parsed(line, f"{source}:{number}")
    except (OSError, *DAMAGED) as error:
        raise UserError(f"{source} is damaged or cut short after line {number}: {error}.") from None


def _parsed(line: bytes, place: str) -> object:
    try:
        return parse_json(line.removeprefix(codecs.BOM_UTF8).decode("utf-8"))
    except UnicodeDecodeError as error:
        bad = f"byte {error.start} of the line is 0x{line[error.start]:02x}"
        raise UserError(f"{place} is not UTF-8: {bad}; convert it.") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is not JSON: {error}; fix the line.") from None
