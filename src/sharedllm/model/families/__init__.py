"""What differs between model families, in one table; everything else in the package is the same for all.

A family is described by how a decoder layer feeds its attention (`wiring`), how the attention projects (`projections`) and
turns (`turning`), how the results are added up (`wiring`), and by what stands around the layers (`around`). A family with
another shape is one more entry of the table.
"""

from .around import balance_loss
from .family import Family
from .rotations import Rotations
from .table import FAMILIES, REFUSED, family_of, plain_family_of, sliding_window

__all__ = [
    "FAMILIES",
    "REFUSED",
    "Family",
    "Rotations",
    "balance_loss",
    "family_of",
    "plain_family_of",
    "sliding_window",
]
