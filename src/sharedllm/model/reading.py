"""Reading a context into a memory, with the lower model; and whose a memory is."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..context.chunking import check_some
from ..context.policies.base import SelectionPolicy, get_policy
from ..memory.context_memory import ContextMemory
from ..memory.fingerprint import Fingerprint
from ..utils.checkpoints import check_dense
from ..utils.errors import UserError, at_least_one, named_type
from .cross_attention import check_memory
from .decoder import Decoder
from .encode import ContextEncoder, append_context, read_context
from .injection import injection_of
from .lower import LowerModel
from .pretrained import SharedLLMPreTrainedModel
from .settings import check_strides

# In which a model may have been when it read a memory.
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class MemoryReadingMixin(SharedLLMPreTrainedModel):
    """What the lower model does.

    lower_layers: its own layers; None: the upper model's bottom ones.
    """

    lower_layers: nn.ModuleList | None
    upper: Decoder
    _fingerprint: Fingerprint

    def get_input_embeddings(self) -> nn.Embedding:
        return self.upper.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.upper.set_input_embeddings(value)

    def lower(self, plain: bool = False) -> LowerModel:
        """The lower model, over this model's weights; `plain` runs all M layers whole, to measure what the shortcut saves."""
        layers = self.lower_layers if self.lower_layers is not None else self.upper.layers
        text_config, prefix = self.upper.config, tuple(self.config.prefix or ())
        least = self.config.lower_layers if plain else None
        embed, rotary = self.get_input_embeddings(), self.upper.rotary_emb
        return LowerModel(layers, embed, rotary, text_config, least, prefix, self.config.bare)

    def _encoder(
        self,
        selection: str | SelectionPolicy | None,
        batch_tokens: int | None,
        plain: bool = False,
        keep_all: bool = False,
        strides: Sequence[int] | None = None,
    ) -> ContextEncoder:
        if strides is not None:
            check_strides(strides)
        if batch_tokens is not None:
            batch_tokens = at_least_one("batch_tokens", batch_tokens, "reads nothing")
        if keep_all and self.config.encoding != "chunk":
            raise UserError(
                f"keep_all=True needs encoding='chunk', the model has {self.config.encoding!r}: its nodes are read alone, so "
                "tokens can't be selected later."
            )
        projections = [injection_of(self.upper.layers[j]).projection for _, j in self.config.injection_map]
        first = LowerModel(self.upper.layers, self.get_input_embeddings(), self.upper.rotary_emb, self.upper.config)
        noise = self.config.split_noise if self.training else 0.0
        return ContextEncoder(
            self.config,
            self.lower(plain),
            first,
            projections,
            get_policy(selection or self.config.selection),
            noise,
            batch_tokens,
            keep_all,
            strides,
        )

    def read(
        self,
        context_ids: Tensor,
        context_attention_mask: Tensor | None = None,
        query_ids: Tensor | None = None,
        query_attention_mask: Tensor | None = None,
        *,
        selection: str | SelectionPolicy | None = None,
        strides: Sequence[int] | None = None,
        batch_tokens: int | None = None,
        sources: list[str] | None = None,
        progress: Callable[[int], None] | None = None,
        plain: bool = False,
        keep_all: bool = False,
        fingerprint: bool = True,
        gradients: bool | None = None,
    ) -> ContextMemory:
        """Read contexts into a memory, on the model's device.

        Args:
            context_ids: (B, T) token ids, any T; a text without tokens, T = 0 say, is no context, as it is to `forward`.
                context_attention_mask: (B, T), padding on either side.
            query_ids: (B, Q) the question, for policies that need it. query_attention_mask: (B, Q).
            selection: policy or its name; default: the configuration's.
            strides: of the tree's levels, coarse to fine; default: the configuration's. With other strides the memory's
                fingerprint is that of a model with these strides.
            batch_tokens: most tokens run through the lower model at once; None: 4,096 on a CPU and 32,768 elsewhere, or
                as many as fit into a quarter of the free memory. Bounds working memory.
            sources: name of each text, kept with the memory.
            progress: called with the number of tokens read since the last call.
            plain: run every lower layer whole, to measure what the shortcut saves; the result is the same.
            keep_all: keep every token, so that `select` can choose for each question; needs encoding="chunk", and a token.
            fingerprint: mark the memory with the model that made it; not worth the time for a memory that is not kept.
            gradients: keep the graph for training through the memory, which is many times its size; default: in
                training mode.

        Raises:
            UserError: wrong shapes, ids outside the vocabulary, impossible strides, a missing query, nothing to keep, or weights
                that are quantised or offloaded.
        """
        # In training weights change with every step, so the memory is not kept.
        marked = fingerprint and not self.training
        if marked:
            check_dense(self)
        if keep_all:
            check_some("context_ids", context_ids)
        given = self._moved(context_ids, context_attention_mask, query_ids, query_attention_mask)
        with self._gradients(gradients):
            memory = read_context(
                self._encoder(selection, batch_tokens, plain, keep_all, strides),
                *given,
                sources=sources,
                progress=progress,
            )
        return replace(memory, fingerprint=self.fingerprint(strides)) if marked else memory

    def append(
        self,
        memory: ContextMemory,
        context_ids: Tensor,
        context_attention_mask: Tensor | None = None,
        query_ids: Tensor | None = None,
        query_attention_mask: Tensor | None = None,
        *,
        selection: str | SelectionPolicy | None = None,
        batch_tokens: int | None = None,
        sources: list[str] | None = None,
        progress: Callable[[int], None] | None = None,
        gradients: bool | None = None,
    ) -> ContextMemory:
        """Read more text and append it to a memory. The result equals reading everything in one go.

        An unfinished last chunk is read again together with the new text. Arguments are those of `read`; a memory that
        holds every token continues to.
        """
        if not isinstance(memory, ContextMemory):
            check_memory(memory)
            raise UserError(f"memory is {named_type(memory)}: text can be appended to what read() returns.")
        keep_all = memory.complete and self.config.encoding == "chunk"
        encoder = self._encoder(selection, batch_tokens, keep_all=keep_all)
        self.check_fingerprint(memory.fingerprint)
        given = self._moved(context_ids, context_attention_mask, query_ids, query_attention_mask)
        with self._gradients(gradients):
            return append_context(
                encoder,
                memory.to(self.get_input_embeddings().weight.device),
                *given,
                sources=sources,
                progress=progress,
            )

    def _moved(self, *tensors: Tensor | None) -> list[Any]:
        """Tensors on the model's device; what is none stays, for an error that names it."""
        device = self.get_input_embeddings().weight.device
        return [t.to(device) if isinstance(t, Tensor) else t for t in tensors]

    def _gradients(self, wanted: bool | None) -> torch.set_grad_enabled:
        """Whether the next reading can be trained through."""
        return torch.set_grad_enabled(torch.is_grad_enabled() and (self.training if wanted is None else wanted))

    def check_fingerprint(self, fingerprint: str) -> None:
        """Refuse a fingerprint of another model; "" means unknown and passes.

        Raises:
            UserError: it is not this model's.
        """
        if fingerprint not in ("", self.fingerprint()):
            if (dtype := self.dtype_of(fingerprint)) is not None:
                raise UserError(
                    f"the memory was read in {_named(dtype)}, and this model is in {_named(self.dtype)}: load the model with "
                    f"dtype={dtype}, or read the text again."
                )
            raise UserError(
                f"the memory was made by another model: fingerprint {fingerprint} there, {self.fingerprint()} here; "
                "read the text again with this model."
            )

    def fingerprint(self, strides: Sequence[int] | None = None, dtype: torch.dtype | None = None) -> str:
        """Identifies everything that decides what a memory holds: lower weights, tree, encoding and the base's settings.

        A memory stores the fingerprint of the model that made it; only that model may use it.

        Args:
            strides: of a memory that was read with strides other than the configuration's.
            dtype: of a memory that this model would read with its weights in another dtype.
        """
        pairs = self.config.injection_map
        modules = {f"lower.{i}": layer for i, layer in enumerate(self.lower().layers[: self.config.lower_layers])}
        # "reader" was its name when the first memories were made.
        own = {j: injection_of(self.upper.layers[j]).projection for _, j in pairs}
        modules |= {f"reader.{j}": projection for j, projection in own.items() if projection is not None}
        modules["embedding"] = self.get_input_embeddings()
        instead = {} if strides is None else {"strides": list(strides)}
        check_dense(self)
        return self._fingerprint.of(self.config, self.upper.config, modules, instead, dtype)

    def dtype_of(self, fingerprint: str) -> torch.dtype | None:
        """The dtype in which this model has a fingerprint; None if it is another model's. Weights in fp32 that were saved in bf16 are
        the same weights."""
        return next((dtype for dtype in _DTYPES if self.fingerprint(dtype=dtype) == fingerprint), None)


def _named(dtype: torch.dtype | None) -> str:
    return str(dtype).removeprefix("torch.")
