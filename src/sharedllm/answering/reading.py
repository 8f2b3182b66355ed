"""Reading one document into a memory in RAM, to be asked at once."""

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from ..causal_lm import SharedLLMForCausalLM
from ..context.policies.base import without_query
from ..documents.opening import Opened
from ..memory.context_memory import ContextMemory


def read_document(
    model: SharedLLMForCausalLM,
    ids: Tensor,
    document: Opened,
    *,
    keep_all: bool,
    batch_tokens: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> ContextMemory:
    """The memory of a document, whose citations name its places.

    Args:
        ids: (1, T) of its text. Other arguments as for `SharedLLMModel.read`.
    """
    memory = model.read(
        ids,
        sources=[document.path],
        selection=without_query(model.config.selection),
        keep_all=keep_all,
        batch_tokens=batch_tokens,
        progress=progress,
    )
    return replace(memory, sources=(tuple(source | document.marks for source in memory.sources[0]),))
