"""What calamine does not say of an Excel workbook: which cells are shared in per cent or hold an error, which formulas have no
saved value, and how far a sheet reaches."""

import re
import zipfile
from pathlib import Path

from ..utils.errors import UserError, clipped
from .marks import MOST_CELLS, Cell, Marks
from .package import related, relations, tree

_ROWS, _COLUMNS = 2**20, 2**14
# The numbers of Excel's own formats 0% and 0.00%.
_PERCENT = {"9", "10"}
_QUOTED = re.compile(r'"[^"]*"|\\.|\[[^\]]*\]')
_COLUMN_OF = re.compile(rb"\sr\s*=\s*[\"']([A-Za-z]{1,3})\d")
_TWO_LETTERS = re.compile(rb"\sr\s*=\s*[\"'][A-Za-z]{2}")
_ROW_OF = re.compile(rb"\sr\s*=\s*[\"'][A-Za-z]{1,3}(\d{1,7})[\"']")
# A cell with a formula and no value, which programs write that compute none. A formula that gives an empty text says that it is a text.
_FORMULA = re.compile(
    rb"<(?:\w+:)?c\b([^<>]*)>\s*<(?:\w+:)?f\b[^<>]*(?:/>|>[^<]*</(?:\w+:)?f\s*>)\s*(?:<(?:\w+:)?v\s*(?:/>|>\s*</)|</(?:\w+:)?c\s*>)"
)
_TEXT = re.compile(rb"\st\s*=\s*[\"']str[\"']")
_ERROR = re.compile(
    rb"<(?:\w+:)?c\b([^<>]*\st=[\"']e[\"'][^<>]*)>\s*(?:<(?:\w+:)?f\b[^<>]*(?:/>|>[^<]*</(?:\w+:)?f\s*>)\s*)?<(?:\w+:)?v\s*>\s*(#[^<]{1,40})</"
)
_PLACE = re.compile(rb"\sr\s*=\s*[\"']([A-Za-z]{1,3})(\d{1,7})[\"']")


def marks_of(members: zipfile.ZipFile, path: Path) -> Marks:
    """
    Raises:
        UserError: it is damaged, or the cells of a sheet lie too far apart.
    """
    main = next((part for kind, part in relations(members, "", path).values() if kind == "officeDocument"), "")
    parts = relations(members, main, path)
    styles = next((part for kind, part in parts.values() if kind == "styles"), "")
    shares = _percent_styles(members, styles, path) if styles in members.namelist() else []
    found = Marks()
    for sheet in tree(members, main, path).iterfind("{*}sheets/{*}sheet"):
        _, part = parts.get(related(sheet), ("", ""))
        name = sheet.get("name", "")
        if part not in members.namelist():
            found.missing.add(name)
            continue
        raw = members.read(part)
        _check_reach(raw, name, path)
        found.percent[name] = _percent_cells(raw, shares)
        found.errors[name] = _errors(raw)
        found.unsaved += _unsaved(raw)
    return found


def _percent_styles(members: zipfile.ZipFile, styles: str, path: Path) -> list[str]:
    """The numbers of the styles that cells name and that write a share in per cent."""
    root = tree(members, styles, path)
    formats = set(_PERCENT)
    for each in root.iterfind("{*}numFmts/{*}numFmt"):
        if "%" in _QUOTED.sub("", each.get("formatCode", "")):
            formats.add(each.get("numFmtId", ""))
    styled = root.iterfind("{*}cellXfs/{*}xf")
    return [str(number) for number, style in enumerate(styled) if style.get("numFmtId") in formats]


def _percent_cells(raw: bytes, shares: list[str]) -> set[Cell]:
    if not shares:
        return set()
    pattern = rb'<(?:\w+:)?c r="([A-Z]{1,3})(\d{1,7})" s="(?:%s)"' % "|".join(shares).encode()
    return {(int(row) - 1, _column(letters)) for letters, row in re.findall(pattern, raw)}


def _unsaved(raw: bytes) -> int:
    """How many formulas have no saved value."""
    if b"<f" not in raw and b":f" not in raw:  # most sheets
        return 0
    return sum(not _TEXT.search(about) for about in _FORMULA.findall(raw))


def _errors(raw: bytes) -> dict[Cell, str]:
    found: dict[Cell, str] = {}
    if b'"e"' not in raw and b"'e'" not in raw:  # most sheets
        return found
    for about, error in _ERROR.findall(raw):
        place = _PLACE.search(about)
        if place is not None:
            found[int(place[2]) - 1, _column(place[1])] = error.decode("utf-8", "replace").strip()
    return found


def _check_reach(raw: bytes, name: str, path: Path) -> None:
    if not _TWO_LETTERS.search(raw):  # 26 columns are few enough, and most sheets have no more
        return
    columns, rows = (
        {_column(letters) for letters in set(_COLUMN_OF.findall(raw))},
        set(map(int, set(_ROW_OF.findall(raw)))),
    )
    wide, high = (max(each, default=0) - min(each, default=0) + 1 for each in (columns, rows))
    if min(wide, _COLUMNS) * min(high, _ROWS) > MOST_CELLS:
        raise UserError(
            f"{path} has a sheet of {high:,} rows and {wide:,} columns, {clipped(name, 60)!r}: more than {MOST_CELLS:,} cells "
            "can't be read; delete what lies far from its table, or save the sheet as .csv."
        )


def _column(letters: bytes) -> int:
    """The number of a column, from 0: A is 0, AA is 26."""
    number = 0
    for letter in letters.upper():
        number = 26 * number + letter - 64
    return number - 1
