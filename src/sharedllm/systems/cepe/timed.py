"""Timing of CEPE, and its operations by formula."""

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from ..operations import Costs, Operations, decode, run_in_blocks
from ..timed import Setting, State, TimedSystem
from .modeling import CepeForCausalLM


class TimedCepe(TimedSystem):
    """project: keep keys and values of every decoder layer, not only the encoder's states."""

    project = True

    @staticmethod
    def extend(base: PreTrainedModel, setting: Setting) -> PreTrainedModel:
        return CepeForCausalLM.from_base(base, window=setting.window).to(base.device, base.dtype)

    def read(self, ids: Tensor) -> State:
        memory = self.model.read(ids, batch_tokens=self.setting.batch_tokens, project=self.project)
        return State(memory, memory)

    def operations(self, length: int, causal: bool = False) -> Operations:
        config, new = self.model.config, self.setting.new_tokens
        answer = cepe_answer(config, length, self.running, self.block, new, self.project, causal)
        return Operations(cepe_read(config, length, self.project), *answer)


class TimedCepeStates(TimedCepe):
    """The running text is one pass, because every pass projects everything that was read."""

    project = False

    @property
    def block(self) -> int:
        return self.running


def cepe_read(config: PreTrainedConfig, length: int, project: bool = True) -> int:
    """Operations of the encoder over chunks, the last one padded, and of every decoder layer's keys and values."""
    encoder, costs = config.encoder_config, Costs.of(config.text_config)
    width, tokens = encoder.hidden_size, -(-length // config.chunk_size) * config.chunk_size
    linear = 2 * (4 * width**2 + 3 * width * encoder.intermediate_size)
    total = encoder.num_hidden_layers * tokens * (linear + config.chunk_size * 2 * 2 * width)
    return total + project * costs.layers * tokens * _projection(config)


def cepe_answer(
    config: PreTrainedConfig,
    length: int,
    running: int,
    block: int,
    new_tokens: int,
    project: bool = True,
    causal: bool = False,
) -> tuple[int, int]:
    """First token and decoding with cross-attention in every layer; every pass projects unless the projections are kept."""
    costs = Costs.of(config.text_config)
    tokens = -(-length // config.chunk_size) * config.chunk_size
    again = 0 if project else costs.layers * tokens * _projection(config)
    own = costs.layers * costs.query_output
    first = run_in_blocks(costs, running, tokens, block, causal) + running * own
    first += -(-running // block) * (costs.head + again)
    return first, decode(costs, running + tokens, new_tokens) + new_tokens * (own + again)


def _projection(config: PreTrainedConfig) -> int:
    """Operations of one decoder layer's keys and values, per token of the encoder."""
    text = config.text_config
    return Costs.of(text).kv * config.encoder_config.hidden_size // text.hidden_size
