"""Timing of Activation Beacon, and its operations by formula."""

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from ..operations import Costs, Operations, decode, pairs, run
from ..timed import Setting, State, TimedSystem
from .modeling import BeaconForCausalLM


class TimedBeacon(TimedSystem):
    """The running text is one window of the model, which it reads without condensing it."""

    @staticmethod
    def extend(base: PreTrainedModel, setting: Setting) -> PreTrainedModel:
        return BeaconForCausalLM.from_base(base, window=setting.window).to(base.device, base.dtype)

    @property
    def running(self) -> int:
        return min(int(self.model.config.stride) - self.setting.new_tokens, self.setting.running_tokens)

    def read(self, ids: Tensor) -> State:
        total = ids.shape[1] + self.running + self.setting.new_tokens
        return State(self.model.compress(ids, total=total))

    def first(self, state: State, running: Tensor) -> Tensor:
        state.prepared = self.model.prepare_memory(state.memory)
        return self._forward(state, running)

    def operations(self, length: int, causal: bool = False) -> Operations:
        config, context, new = self.model.config, self.context(length), self.setting.new_tokens
        read, memory = beacon_read(config, context, context + self.running + new, causal)
        return Operations(read, *beacon_answer(config, memory, self.running, new, causal))


def beacon_read(config: PreTrainedConfig, length: int, total: int, causal: bool = False) -> tuple[int, int]:
    """Operations of reading windows of raw tokens and their beacons over the memory; also the final number of tokens in
    the memory.

    The last layer computes only keys and values.
    """
    costs, ratio, done, memory, operations = Costs.of(config.text_config), config.ratio_for(total), 0, 0, 0
    while done < length:
        # From the end of the text, so the first window may be shorter.
        raw = (length - done) % config.stride or config.stride
        beacons = -(-raw // ratio)
        new = raw + beacons
        operations += costs.layers * new * costs.kv
        operations += (costs.layers - 1) * (new * costs.rest + pairs(new, memory, causal) * costs.pair)
        sinks = config.sinks if done == 0 else 0
        memory, done = min(memory + sinks + beacons, config.room), done + raw
    return operations, memory


def beacon_answer(
    config: PreTrainedConfig, memory: int, running: int, new_tokens: int, causal: bool = False
) -> tuple[int, int]:
    costs = Costs.of(config.text_config)
    return run(costs, running, memory, causal) + costs.head, decode(costs, running + memory, new_tokens)
