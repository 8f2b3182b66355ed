"""What calamine does not say of the cells of a spreadsheet."""

from dataclasses import dataclass, field

# calamine makes room for all cells between the first and the last one, 32 bytes each, and ends the process if there is too little.
MOST_CELLS = 2**25

Cell = tuple[int, int]


@dataclass
class Marks:
    """percent: (row, column) of the cells that show a share, from 0, by the name of their sheet. errors: of those that hold an error
    such as #N/A, with it. missing: the names of sheets that are listed, but not there. unsaved: how many formulas have no saved value."""

    percent: dict[str, set[Cell]] = field(default_factory=dict)
    errors: dict[str, dict[Cell, str]] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    unsaved: int = 0
