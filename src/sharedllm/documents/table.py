"""Tables in CSV, by row. Each value is written with the name of its column, so that a row can be read alone."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from ..utils.errors import UserError
from ..utils.text_files import text_pieces
from .encoding import legacy_encoding
from .extract import Extract, Kind, Part

DELIMITERS = ",;\t|"
SAMPLE = 16_384
# So many rows tell whether the first one has names.
ROWS = 20
# The line that tells Excel the delimiter; Excel doesn't count it as a row.
_HINT = re.compile(r'"?sep=(.)"?\r?\n')
_YEAR = re.compile(r"(1[5-9]|20|21)\d\d")


def extract(path: Path) -> Extract:
    """Rows are counted as in a spreadsheet: the first one, usually with the names of the columns, is row 1.

    Raises:
        UserError: it is empty, of no known encoding, or not a table.
    """
    encoding = legacy_encoding(path)
    text = "".join(text_pieces(str(path), encoding))
    hint = _HINT.match(text)
    delimiter = hint[1] if hint else _delimiter(text)
    text = text[hint.end() :] if hint else text
    columns = columns_of(list(islice(_rows(text, delimiter, path), ROWS)))
    return Extract(_parts(_rows(text, delimiter, path), columns), unit="row", read_as=encoding)


def _rows(text: str, delimiter: str, path: Path) -> Iterator[list[str]]:
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        yield from reader
    except csv.Error as error:
        raise UserError(f"{path} is not a table: line {reader.line_num}: {error}; save it as CSV again.") from None


def _delimiter(text: str) -> str:
    """The delimiter that splits the first rows into the same number of values, more than one; a comma if none does."""
    sample = text[:SAMPLE]
    best, most = ",", 0.0
    for delimiter in DELIMITERS:
        try:
            counts = [len(row) for row in csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter) if row]
        except csv.Error:
            continue
        counts = counts[:-1] if len(counts) > 1 and len(text) > SAMPLE else counts
        usual = max(set(counts), key=counts.count, default=1)
        even = counts.count(usual) / max(1, len(counts))
        if usual > 1 and even * min(usual, 4) > most:
            best, most = delimiter, even * min(usual, 4)
    return best


def columns_of(rows: Sequence[Sequence[str]]) -> list[str]:
    """The names of a table's columns; [] if the first row holds values.

    Names are words, in at least half of the columns that are used; the others have none. A number is a value, but years
    may be names: beside a word that stands above numbers only, or several in their order, above what are no years.
    """
    columns = [
        (" ".join(name.split()), [row[i].strip() for row in rows[1:] if row[i : i + 1] and row[i].strip()])
        for i, name in enumerate(next(iter(rows), []))
    ]
    names = [name for name, _ in columns]
    if 2 * sum(map(bool, names)) < sum(bool(name or below) for name, below in columns):
        return []
    years = [name for name in names if _is_number(name)]
    if not years:
        return names
    if not all(map(_YEAR.fullmatch, years)):
        return []
    if any(below and all(map(_is_number, below)) for name, below in columns if name and name not in years):
        return names
    ordered = len(set(years)) == len(years) > 1 and years in (sorted(years), sorted(years, reverse=True))
    repeated = any(_YEAR.fullmatch(cell) for name, below in columns if name in years for cell in below)
    return names if ordered and not repeated else []


def _is_number(cell: str) -> bool:
    try:
        float(cell.replace(",", ".").replace("%", ""))
    except ValueError:
        return False
    return True


def row_text(row: Sequence[str], columns: Sequence[str]) -> str:
    """The line of a row: its values, each with the name of its column where that has one. Empty ones are left out."""
    cells = [" ".join(cell.split()) for cell in row]
    if columns:
        names = [*columns, *("" for _ in cells[len(columns) :])]
        cells = [f"{name}: {cell}" if name else cell for name, cell in zip(names, cells, strict=False) if cell]
    return "; ".join(cell for cell in cells if cell) + "\n"


def _parts(rows: Iterator[list[str]], columns: list[str]) -> Iterator[Part]:
    """One line for each row, also for empty ones, so that the number of a line is that of its row."""
    held: list[str] = []
    for number, row in enumerate(rows, 1):
        held.append(row_text(row, columns if number > 1 else []))
        if len(held) == 1000:
            yield Part("".join(held))
            held = []
    yield Part("".join(held))


CSV = Kind("CSV", (".csv", ".tsv"), extract)
