"""All differences between model families, in one table; the rest of the package is the same for all families.

A family is described by how a decoder layer feeds its attention (`wiring`), how the attention projects (`projections`)
and rotates (`turning`), how the results are added up (`wiring`), and what surrounds the layers (`around`). A family of
another kind is one more entry in the table.
"""

from .around import balance_loss
from .family import Family
from .rotations import Rotations
from .table import FAMILIES, REFUSED, check_extendable, check_family, family_of, plain_family_of, sliding_window

__all__ = [
    "FAMILIES",
    "REFUSED",
    "Family",
    "Rotations",
    "balance_loss",
    "check_extendable",
    "check_family",
    "family_of",
    "plain_family_of",
    "sliding_window",
]
