"""Tables in CSV, by row. Each value is written with the name of its column, so that a row can be read alone."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from ..utils.errors import UserError
from ..utils.text_files import text_pieces
from .encoding import legacy_encoding
from .extract import Extract, Kind, Part

DELIMITERS = ",;\t|"
SAMPLE = 16_384


def extract(path: Path) -> Extract:
    """Rows are counted as in a spreadsheet: the first one, usually with the names of the columns, is row 1.

    Raises:
        UserError: it is empty, of no known encoding, or not a table.
    """
    encoding = legacy_encoding(path)
    text = "".join(text_pieces(str(path), encoding))
    rows = _rows(text, path)
    head = next(iter(rows), [])
    columns = _columns(head)
    return Extract(_parts(_rows(text, path), columns), unit="row", read_as=encoding)


def _rows(text: str, path: Path) -> Iterator[list[str]]:
    delimiter = _delimiter(text)
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


def _columns(head: list[str]) -> list[str]:
    """The names of the columns; [] if the first row holds values. The first column may have none, as a column that only numbers
    the rows, and the last one, after a comma at the end of each line."""
    columns = [cell.strip() for cell in head]
    named = columns[:]
    for end in (0, -1):
        if len(named) > 1 and not named[end]:
            del named[end]
    if not all(named) or len(set(named)) < len(named) or any(_is_number(cell) for cell in named):
        return []
    return columns


def _is_number(cell: str) -> bool:
    try:
        float(cell.replace(",", ".").replace("%", ""))
    except ValueError:
        return False
    return True


def _parts(rows: Iterator[list[str]], columns: list[str]) -> Iterator[Part]:
    """One line for each row, also for empty ones, so that the number of a line is that of its row."""
    held: list[str] = []
    for number, row in enumerate(rows, 1):
        cells = [" ".join(cell.split()) for cell in row]
        if number > 1 and columns:
            names = [*columns, *("" for _ in cells[len(columns) :])]
            cells = [f"{name}: {cell}" if name else cell for name, cell in zip(names, cells, strict=False) if cell]
        held.append("; ".join(cell for cell in cells if cell) + "\n")
        if len(held) == 1000:
            yield Part("".join(held))
            held = []
    yield Part("".join(held))


CSV = Kind("CSV", (".csv", ".tsv"), extract)
