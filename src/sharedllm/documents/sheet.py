"""The rows of a sheet as text, each with the names of its table's columns. A sheet may hold several tables, one below the other."""

import re
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from .table import ROWS, columns_of, row_text

# A range of merged cells: (first row, first column), (last row, last column), from 0.
Range = tuple[tuple[int, int], tuple[int, int]]
Row = tuple[int, list[str]]

_DATE_OR_TIME = re.compile(r"\d{4}-\d\d-\d\d( \d\d:\d\d(:\d\d)?)?|-?\d\d+:\d\d(:\d\d)?")
_NUMBER = re.compile(r"[-+]?(\d+([.,]\d*)?|[.,]\d+)(e[-+]?\d+)?%?", re.IGNORECASE)
# What stands for a value that isn't there, and so is no name.
_NONE = re.compile(r"[-–—?.]|n\.?/?a\.?|none|unknown|tb[adc]|#[A-Z0-9/]+[!?]?", re.IGNORECASE)
_BEGINS = frozenset("0123456789+-.,TF")
# So many rows above a blank one, and words of a column, tell what a table holds.
_KNOWN = 1000


def texts_of(rows: Iterator[Row], merged: Sequence[Range]) -> Iterator[tuple[int, str]]:
    """Number, from 1, and text of each row that has any."""
    rows = (row for row in rows if any(map(str.strip, row[1])))
    held = list(islice(rows, ROWS))
    table = _Table()
    above = table.begin(held, merged)
    last = held[0][0] if held else 0
    at = 0
    while held:
        number, cells = held.pop(0)
        if at >= above and number > last + 1:
            block = [(number, cells)]
            while len(block) < ROWS and (held or _more(held, rows)) and held[0][0] == block[-1][0] + 1:
                block.append(held.pop(0))
            held = block[1:] + held
            above = at + table.go_on(block, merged)
        yield number + 1, row_text(cells, table.names if at >= above else [])
        if at >= above:
            table.recent.append(cells)
        last, at = number, at + 1
        _more(held, rows)


def _more(held: list[Row], rows: Iterator[Row]) -> bool:
    """Whether there is a row to come, which is then held."""
    if not held:
        held += islice(rows, 1)
    return bool(held)


@dataclass
class _Table:
    """The table that rows belong to, so far.

    names    of its columns; [] if it has none, or if the rows below a blank one may be of another table
    heading  column → its name as it is written in the row above the first values
    words    column → words in it
    values   columns with numbers or dates
    recent   rows that are looked at where a blank one comes; in most sheets none does
    """

    names: list[str] = field(default_factory=list)
    heading: dict[int, str] = field(default_factory=dict)
    words: defaultdict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    values: set[int] = field(default_factory=set)
    recent: deque[list[str]] = field(default_factory=lambda: deque(maxlen=_KNOWN))

    def begin(self, rows: Sequence[Row], merged: Sequence[Range]) -> int:
        """Begin anew with these rows.

        Returns:
            How many of them have no values of a table: titles, and rows with names.
        """
        above, self.names = _names(rows, merged)
        self.heading = _words(rows[above - 1][1]) if self.names else {}
        self.words.clear()
        self.values.clear()
        return above

    def _look(self) -> None:
        """Look at the rows so far."""
        for column, cell in (each for cells in self.recent for each in enumerate(cells)):
            words = self.words[column]
            if not cell or cell in words or (column in self.values and len(words) == _KNOWN):
                continue
            if _is_value(cell):
                self.values.add(column)
            elif len(words) < _KNOWN and not _stands_for_none(cell) and cell.strip():
                words.add(cell.strip())
        self.recent.clear()

    def go_on(self, block: Sequence[Row], merged: Sequence[Range]) -> int:
        """What the rows below a blank one are: more of this table, another one, or either, and then they have no names, for a
        wrong one is worse than none.

        Returns:
            How many of them have no values of a table, as `begin`.
        """
        self._look()
        first = _first(block)
        if first is None:  # a remark, a title of what comes below, or a value, such as a sum
            if all(self._has_values(cells) for _, cells in block):
                return 0
            if len(block) == ROWS:  # a list, which may go on
                self.names = []
            return len(block)
        if self._begins(block[first:], merged):
            return self.begin(block, merged)
        if not self._fits(block[first][1], [cells for _, cells in block[first + 1 :]]):
            self.names = []
        return first

    def _has_values(self, cells: Sequence[str]) -> bool:
        return any(_is_value(cell) and column in self.values for column, cell in enumerate(cells))

    def _begins(self, block: Sequence[Row], merged: Sequence[Range]) -> bool:
        """Whether the first of these rows, which are below a blank one, surely has names of columns: it has one that this table has
        there too; or, as no row of this table has, words where that has only values, or in other columns only, or above values
        where that has only words."""
        top, below = block[0][1], [cells for _, cells in block[1:]]
        words = _words(top)
        if len(words) < sum(bool(cell.strip()) for cell in top):  # years may be names
            return bool(below and not any(map(_stands_for_none, top)) and _names(block, merged)[1])
        if any(self.heading.get(column) == word for column, word in words.items()):
            return True
        if any(word in self.words[column] for column, word in words.items()) or self._goes_on(top, below):
            return False
        ours = self.values | {column for column, found in self.words.items() if found} | set(self.heading)
        if ours and not ours & set(words):
            return bool(below)
        only = {column for column in self.values if not self.words[column]}
        return any(column in only or (column not in self.values and _above_values(column, below)) for column in words)

    def _fits(self, top: Sequence[str], below: Sequence[Sequence[str]]) -> bool:
        """Whether a row that is no heading surely goes on with this table."""
        cells = {column: cell for column, cell in enumerate(top) if cell.strip()}
        if any(cell.strip() in self.words[column] for column, cell in cells.items()) or self._goes_on(top, below):
            return True
        other = {column for column, found in self.words.items() if found} - self.values
        if any(_is_value(cell) and column in other for column, cell in cells.items()):
            return False
        return len(_words(top)) < len(cells)

    def _goes_on(self, top: Sequence[str], below: Sequence[Sequence[str]]) -> bool:
        """Whether a column has only values here and there."""
        for column in self.values:
            cells = [row[column] for row in (top, *below) if column < len(row) and row[column].strip()]
            if not self.words[column] and cells and all(map(_is_value, cells)):
                return True
        return False


def _above_values(column: int, below: Sequence[Sequence[str]]) -> bool:
    cells = [row[column] for row in below if column < len(row) and row[column].strip()]
    return bool(cells) and all(map(_is_value, cells))


def _is_value(cell: str) -> bool:
    """Whether a cell holds a number, a share, a date, a time or a truth."""
    text = cell.strip()
    if text[:1] not in _BEGINS:  # most words; faster than an expression
        return False
    if text.isdecimal():
        return True
    return bool(_NUMBER.fullmatch(text) or _DATE_OR_TIME.fullmatch(text)) or text in ("TRUE", "FALSE")


def _stands_for_none(cell: str) -> bool:
    return len(cell) < 10 and bool(_NONE.fullmatch(cell.strip()))


def _is_word(cell: str) -> bool:
    return bool(cell.strip()) and not _is_value(cell) and not _stands_for_none(cell)


def _words(cells: Sequence[str]) -> dict[int, str]:
    """Column → its word, of those that have one."""
    return {column: cell.strip() for column, cell in enumerate(cells) if _is_word(cell)}


def _first(rows: Sequence[Row]) -> int | None:
    """Where a table begins below its titles, which have fewer cells than it: at the first row that has at least half as many as
    the longest one. None if no row has two."""
    used = [sum(bool(cell.strip()) for cell in cells) for _, cells in rows]
    if max(used, default=0) < 2:
        return None
    return next(i for i, count in enumerate(used) if count > 1 and 2 * count >= max(used))


def _names(sample: Sequence[Row], merged: Sequence[Range]) -> tuple[int, list[str]]:
    """How many of the first rows end with the names of the columns, and these names.

    A name that is merged over several columns is that of all of them; then the row below may say more: "Sales 2023".
    """
    first = _first(sample)
    if first is None:
        return 0, []
    table = [cells for _, cells in sample[first:]]
    together = [cells for i, (number, cells) in enumerate(sample[first:]) if number == sample[first][0] + i]
    keys = [next(cell.strip() for cell in cells if cell.strip()) for cells in together]
    if len(keys) > 1 and all(key.endswith(":") for key in keys):  # "Company:" above "Founded:"; no row has names
        return 0, []
    upper = list(table[0])
    for (top, left), (_, right) in merged:
        if top == sample[first][0] and left < len(upper):
            upper[left + 1 : right + 1] = [upper[left]] * (min(right + 1, len(upper)) - left - 1)
    lower = columns_of(table[1:]) if upper != table[0] else []
    if lower:
        pairs = zip(upper, [*lower, *[""] * (len(upper) - len(lower))], strict=True)
        upper = [" ".join(dict.fromkeys(" ".join(part.split()) for part in pair if part)) for pair in pairs]
        table = table[1:]
    columns = columns_of([upper, *table[1:]])
    return first + 1 + bool(lower) if columns else 0, columns
