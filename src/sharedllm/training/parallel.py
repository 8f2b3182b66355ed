"""The row losses over several devices: DDP or FSDP2, as `accelerate launch` requests (recipes/accelerate/*.yaml)."""

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType
from torch import nn

from ..model.config import SharedLLMConfig
from ..utils.errors import UserError
from .losses import RowLosses


def make_accelerator() -> Accelerator:
    # Samples without a context leave cross-attention without gradients.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[unused])


def distribute(accelerator: Accelerator, losses: RowLosses, layers: nn.ModuleList, precision: str) -> nn.Module:
    """The module to call in training: itself, wrapped for DDP, or sharded in place for FSDP2.

    Args:
        layers: the decoder's layers.
    """
    if accelerator.distributed_type == DistributedType.FSDP:
        return _shard(accelerator, losses, layers, precision)
    losses.to(accelerator.device)
    return accelerator.prepare_model(losses)


def _shard(accelerator: Accelerator, losses: RowLosses, layers: nn.ModuleList, precision: str) -> nn.Module:
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

    plugin = accelerator.state.fsdp_plugin
    if plugin.fsdp_version != 2:
        raise UserError(f"fsdp_version={plugin.fsdp_version} is not supported: set fsdp_version: 2.")
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if precision == "bf16" else MixedPrecisionPolicy()
    offload = CPUOffloadPolicy() if isinstance(plugin.cpu_offload, CPUOffloadPolicy) else OffloadPolicy()
    options = {"mp_policy": policy, "offload_policy": offload}
    losses.to(accelerator.device)
    for index, layer in enumerate(layers):
        if not _is_read_through(losses.model.config, index):
            fully_shard(layer, reshard_after_forward=bool(plugin.reshard_after_forward), **options)
    # While the context is read, parts of the other layers run outside those layers' own forward. They belong to the
    # outermost group, which stays unsharded through the step.
    return fully_shard(losses, reshard_after_forward=False, **options)


def _is_read_through(config, index: int) -> bool:
    if not isinstance(config, SharedLLMConfig):
        return False
    shared = config.lower_weights == "shared" and index < config.lower_layers
    return shared or index < 2 or any(upper == index and lower != upper for lower, upper in config.injection_map)
