"""Which layers of a base need a far context, and how deep it must be read: no training, the base as it is."""

from .far import FarAttention
from .measure import Diagnosis, diagnose

__all__ = ["Diagnosis", "FarAttention", "diagnose"]
