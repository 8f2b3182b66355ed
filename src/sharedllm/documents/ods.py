"""What calamine does not say of an OpenDocument spreadsheet: which cells show a share in per cent, and which hold an error."""

import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from xml.etree.ElementTree import Element, iterparse

from ..utils.errors import UserError, clipped
from .marks import MOST_CELLS, Marks
from .odf import CONTENT
from .package import attribute, local

_CELLS = ("table-cell", "covered-table-cell")


def marks_of(members: zipfile.ZipFile, path: Path) -> Marks:
    """
    Raises:
        UserError: it has too many such cells.
        ParseError: the content is no XML.
    """
    found, raw = Marks(), members.read(CONTENT)
    if b"percentage" not in raw and b'"error"' not in raw and b"'error'" not in raw:  # most
        return found
    tables: list[str] = []  # a table may be in a cell of another one
    row, marked = 0, 0
    for event, element in iterparse(BytesIO(raw), ("start", "end")):
        kind = local(element)
        if kind == "table" and event == "start":
            tables.append(attribute(element, "name"))
            row = row if len(tables) > 1 else 0
        elif kind == "table":
            tables.pop()
            element.clear()
        elif kind == "table-row" and event == "end" and len(tables) == 1:
            times = _times(element, "number-rows-repeated")
            for column, repeated, error in _marked(element):
                marked += times * repeated
                if marked > MOST_CELLS:
                    raise UserError(
                        f"{path} has more than {MOST_CELLS:,} cells in a sheet, {clipped(tables[0], 60)!r}: save its sheets as .csv."
                    )
                cells = ((row + down, column + right) for down in range(times) for right in range(repeated))
                if error:
                    found.errors.setdefault(tables[0], {}).update(dict.fromkeys(cells, error))
                else:
                    found.percent.setdefault(tables[0], set()).update(cells)
            row += times
            element.clear()
    return found


def _marked(row: Element) -> Iterator[tuple[int, int, str]]:
    """Of each cell of a row that shows a share or an error: its column, how often it is repeated, and the error."""
    column = 0
    for cell in row:
        if local(cell) not in _CELLS:
            continue
        repeated = _times(cell, "number-columns-repeated")
        kinds = {value for key, value in cell.attrib.items() if key.rpartition("}")[2] == "value-type"}
        if "error" in kinds:
            error = " ".join("".join(cell.itertext()).split())
            if error:
                yield column, repeated, error
        elif "percentage" in kinds:
            yield column, repeated, ""
        column += repeated


def _times(element: Element, name: str) -> int:
    said = attribute(element, name)
    return int(said) if said.isdecimal() and len(said) < 10 else 1
