"""Which layers of a base need a far context, and how deep it must be read: measured on the unmodified base, without
training."""

from .far import FarAttention
from .measure import Diagnosis, diagnose

__all__ = ["Diagnosis", "FarAttention", "diagnose"]
