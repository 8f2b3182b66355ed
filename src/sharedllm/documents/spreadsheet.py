"""Spreadsheets by sheet and row, with calamine. A row is written as one of CSV is: each value with the name of its column."""

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

from ..utils.errors import UserError, clipped
from ..utils.text_files import some
from . import ods, xlsx
from .cells import written
from .extract import Extract, Kind, Part, grouped, library
from .marks import MOST_CELLS, Cell, Marks
from .odf import check_unlocked, odf_title, of_type
from .package import COMPOUND, SIGNATURE, holds, office_title, package
from .sheet import Range, Row, texts_of

# What gives formulas their values.
SAVE = "open and save it in Excel or LibreOffice"
ODS = "application/vnd.oasis.opendocument.spreadsheet"
# What a new Excel file with a password has in the container of old ones.
_ENCRYPTED = "EncryptedPackage".encode("utf-16-le")


def extract(path: Path) -> Extract:
    """
    Raises:
        UserError: it needs a password, is damaged, or has too many cells.
    """
    title, marks = _looked_at(path)
    calamine = library("python_calamine", path)
    parts: list[Part] = []
    try:
        with _opened(calamine, path) as book:
            for about in book.sheets_metadata:
                if about.typ != calamine.SheetTypeEnum.WorkSheet:
                    continue
                sheet = _sheet(calamine, book, about.name, marks, path)
                if sheet.height * sheet.width > MOST_CELLS:
                    raise UserError(f"{path} has more than {MOST_CELLS:,} cells in a sheet: save its sheets as .csv.")
                hidden = "" if about.visible == calamine.SheetVisibleEnum.Visible else "hidden "
                rows = _rows(sheet, marks.percent.get(about.name, set()), marks.errors.get(about.name, {}))
                parts += _parts(rows, about.name, hidden, sheet.merged_cell_ranges or [])
    except calamine.PasswordError:
        raise UserError(f"{path} is locked: it needs a password; save it without one.") from None
    except calamine.CalamineError as error:
        raise _damaged(path, error) from None
    except BaseException as error:
        if (
            type(error).__name__ != "PanicException"
        ):  # what Rust raises where it finds a mistake of its own; no Exception
            raise
        raise _damaged(path, error) from None
    if not marks.unsaved:
        return Extract(parts, title)
    formulas = some(marks.unsaved, "formula")
    if not parts:
        which = "its formula has" if marks.unsaved == 1 else f"its {formulas} have"
        raise UserError(f"{path} has no values: {which} none saved; {SAVE}.")
    return Extract(parts, title, read_as=f"if {formulas} without a saved value were empty: {SAVE}")


def _opened(calamine: ModuleType, path: Path) -> Any:
    """A workbook of the kind that its suffix says, else of the one that its bytes say."""
    try:
        return calamine.CalamineWorkbook.from_path(path)
    except calamine.PasswordError:
        raise
    except calamine.CalamineError as error:
        try:
            return calamine.CalamineWorkbook.from_filelike(BytesIO(path.read_bytes()))
        except calamine.CalamineError:
            raise error from None


def _sheet(calamine: ModuleType, book: Any, name: str, marks: Marks, path: Path) -> Any:
    """
    Raises:
        UserError: it is listed, but not there. CalamineError: it is damaged.
    """
    try:
        return book.get_sheet_by_name(name)
    except calamine.CalamineError:
        if name not in marks.missing:
            raise
        raise UserError(
            f"{path} is damaged: its sheet {clipped(name, 60)!r} is missing; get or save it again."
        ) from None


def _damaged(path: Path, error: BaseException) -> UserError:
    said = clipped(" ".join(str(error).split()), 200) or type(error).__name__
    return UserError(f"{path} is damaged, or no spreadsheet: {said}; save it as .xlsx again.")


def _looked_at(path: Path) -> tuple[str, Marks]:
    """The title of a workbook, and what calamine doesn't say.

    Raises:
        UserError: it needs a password, is damaged, or has cells too far apart.
    """
    with path.open("rb") as file:
        head = file.read(len(COMPOUND))
        if head == COMPOUND and _ENCRYPTED in file.read():
            raise UserError(f"{path} is locked: it needs a password; save it without one.")
    if not head.startswith(SIGNATURE):
        return "", Marks()
    with package(path) as members:
        if of_type(path, head, ODS):
            check_unlocked(members, path)
            return odf_title(members, path), ods.marks_of(members, path)
        if "xl/workbook.xml" not in members.namelist():
            raise UserError(f"{path} is damaged: it is a ZIP file without a workbook; get or save it again.")
        return office_title(members, path), xlsx.marks_of(members, path)


def _rows(sheet: Any, percent: set[Cell], errors: dict[Cell, str]) -> Iterator[Row]:
    """The rows of a sheet that are not empty, with their numbers, from 0."""
    if sheet.start is None:
        return
    left = [""] * sheet.start[1]
    for number, row in enumerate(sheet.iter_rows()):
        cells = [value if isinstance(value, str) else written(value) for value in row]
        if errors:  # calamine gives nothing for them
            cells = [cell or errors.get((number, len(left) + at), "") for at, cell in enumerate(cells)]
        if not any(cells):
            continue
        if percent:
            for at, value in enumerate(row):
                if (number, len(left) + at) in percent:
                    cells[at] = written(value, percent=True)
        yield number, left + cells


def _parts(rows: Iterator[Row], name: str, hidden: str, merged: Sequence[Range]) -> Iterator[Part]:
    """The text of a sheet below its name."""
    place = f'{hidden}sheet "{clipped(" ".join(name.split()), 60)}", '
    first = f"{' '.join(name.split())}\n\n"
    last: Part | None = None
    for part in grouped("row", texts_of(_filled(rows, merged), merged), place):
        if last is not None:
            yield last
        last, first = Part(first + part.text, part.place), ""
    if last is not None:
        yield Part(last.text + "\n", last.place)


def _filled(rows: Iterator[Row], merged: Sequence[Range]) -> Iterator[Row]:
    """Rows in which cells that are merged with one above have its value, so that each row can be read alone."""
    coming = sorted((range_ for range_ in merged if range_[1][0] > range_[0][0]), reverse=True)
    held: dict[int, tuple[int, str]] = {}  # column → last row, value
    for number, cells in rows:
        for column, (end, value) in list(held.items()):
            if end < number:
                del held[column]
            elif column < len(cells) and not cells[column]:
                cells[column] = value
        while coming and coming[-1][0][0] <= number:
            (_, column), (end, _) = coming.pop()
            if column < len(cells) and cells[column] and end > number:
                held[column] = (end, cells[column])
        yield number, cells


SPREADSHEET = Kind(
    "spreadsheet",
    (".xlsx", ".xlsm", ".xltx", ".xltm", ".xls", ".ods", ".ots"),
    extract,
    lambda path, head: holds(path, head, "xl/workbook.xml") or of_type(path, head, ODS),
)
