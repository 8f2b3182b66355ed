"""Activation Beacon: the far context condensed window by window, the running text after its beacons."""

from dataclasses import dataclass

from torch import Tensor

from ..evaluated import Scores, SystemSpec, scores_of
from .memory import BeaconMemory
from .modeling import BeaconForCausalLM


@dataclass(frozen=True)
class Beacon:
    """The running text is one window of the model, which it reads without condensing it."""

    model: BeaconForCausalLM
    name: str = "beacon"

    @property
    def running(self) -> int:
        return int(self.model.config.stride)

    def prepare(self, far: Tensor, query: Tensor) -> BeaconMemory | None:
        return self.model.compress(far, total=far.shape[1] + self.running) if far.shape[1] else None

    def score(self, state: BeaconMemory | None, running: Tensor, targets: int) -> Scores:
        logits = self.model(running, memory=state, logits_to_keep=targets + 1).logits
        return scores_of(logits, running, targets)


def beacon(spec: SystemSpec) -> Beacon:
    return Beacon(spec.model)
