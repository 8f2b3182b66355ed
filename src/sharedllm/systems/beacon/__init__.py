"""Activation Beacon (arXiv 2401.03462): each window of a text is condensed into the keys and values of its beacons."""

from .config import BeaconConfig
from .memory import BeaconMemory
from .modeling import BeaconForCausalLM

__all__ = ["BeaconConfig", "BeaconForCausalLM", "BeaconMemory"]
