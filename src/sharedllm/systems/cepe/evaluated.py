"""CEPE: the far context through a small encoder, the running text with cross-attention to it."""

from dataclasses import dataclass

from torch import Tensor

from ..evaluated import Scores, SystemSpec, scores_of
from .memory import CepeMemory
from .modeling import CepeForCausalLM


@dataclass(frozen=True)
class Cepe:
    """batch_tokens: most tokens encoded at once."""

    model: CepeForCausalLM
    name: str = "cepe"
    batch_tokens: int = 32_768

    @property
    def running(self) -> int:
        return int(self.model.config.window)

    def prepare(self, far: Tensor, query: Tensor) -> CepeMemory | None:
        return self.model.read(far, batch_tokens=self.batch_tokens) if far.shape[1] else None

    def score(self, state: CepeMemory | None, running: Tensor, targets: int) -> Scores:
        logits = self.model(running, memory=state, logits_to_keep=targets + 1, use_cache=False).logits
        return scores_of(logits, running, targets)


def cepe(spec: SystemSpec) -> Cepe:
    return Cepe(spec.model)
