"""SharedLLMModel: lower and upper model together, running text over a memory."""

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast

from ..memory.context_memory import ContextMemory
from ..memory.fingerprint import Fingerprint
from ..utils.errors import UserError
from .cache import with_room
from .config import SharedLLMConfig
from .cross_attention import PreparedMemory, bucket, check_memory, prepare
from .decoder import is_decoder
from .deepen import Deepened
from .injection import injection_of
from .reading import MemoryReadingMixin
from .upper import inject, make_injections


class SharedLLMModel(MemoryReadingMixin):
    """Lower and upper model without the language-model head. `reading` has what the lower one does."""

    def __init__(self, config: SharedLLMConfig, base: PreTrainedModel | None = None, **unknown: Any):
        """
        Args:
            base: decoder to build on, such as a LlamaModel; its modules are shared, not copied. Random weights if None.

        Raises:
            UserError: the base is no decoder; or as `SharedLLMPreTrainedModel`.
        """
        super().__init__(config, **unknown)
        base = AutoModel.from_config(config.text_config) if base is None else base
        if base is None or not is_decoder(base):
            raise UserError(
                f"{type(base).__name__} is no decoder: pass the model without its head, base.get_decoder()."
            )
        # The layers look up settings such as the attention implementation in their own configuration: share one object.
        config.text_config = base.config
        self._fingerprint = Fingerprint()
        self._deepened = Deepened()
        # What compares meanings beside this model, loaded when it is needed (see `scoring.encoder`).
        self.sentence_encoder: Any = None
        self.lower_layers = None
        if config.lower_weights == "copy":
            self.lower_layers = nn.ModuleList(copy.deepcopy(layer) for layer in base.layers[: config.lower_layers])
        if config.injection != "cross" or config.start != "gate":
            self.__dict__["_keep_in_fp32_modules_strict"] = []  # there are no gates
        self.upper = inject(base, make_injections(base, config))
        self.post_init()

    def prepare_memory(
        self,
        memory: ContextMemory | PreparedMemory | None,
        rows: int | None = None,
        *,
        static: bool = False,
        in_place: bool = False,
        memory_dtype: str | None = None,
    ) -> PreparedMemory | None:
        """Give a memory its positions, unless it has them already.

        Args:
            rows: number of rows of the batch that reads it. A memory of one text serves all rows without being copied.
            static: pad it to one of a few sizes, so that code compiled for one memory fits others too.
            in_place: overwrite the memory's keys instead of copying them; the memory must not be used again. Only
                without gradients.
            memory_dtype: how keys and values are held, "model" or "int8"; default: the configuration's.

        Raises:
            UserError: the memory has the shape of another model's, or several texts but not as many as there are rows.
        """
        check_memory(memory)
        if memory is not None and rows is not None and len(memory) not in (1, rows):
            raise UserError(
                f"the memory holds {len(memory)} texts, the batch {rows}: make them equal, or give one text for all rows."
            )
        if isinstance(memory, ContextMemory):
            prepared = self._prepare(memory, static, in_place, memory_dtype or self.config.memory_dtype)
        else:
            prepared = memory
        return prepared if prepared is None or rows in (None, len(prepared)) else prepared.repeat_interleave(rows)

    def _prepare(self, memory: ContextMemory, static: bool, in_place: bool, memory_dtype: str) -> PreparedMemory | None:
        if memory_dtype not in ("model", "int8"):
            raise UserError(f"memory_dtype={memory_dtype!r} is not known: use 'model' or 'int8'.")
        pairs = self.config.injection_map
        if len(memory.keys) != len(pairs):
            raise UserError(
                f"the memory holds {len(memory.keys)} injected layers, the model has {len(pairs)}: "
                "read the text again with this model."
            )
        weight = self.get_input_embeddings().weight
        moved = memory.to(weight.device, weight.dtype)
        # If `to` has copied the keys, no one else uses them, so they may be overwritten.
        in_place = in_place or all(a is not b for a, b in zip(moved.keys, memory.keys, strict=True))
        if self.config.injection == "deep":
            chosen = moved.padded(bucket(moved.mask.shape[1])) if static else moved
            return self._deepened.of(chosen, self.config, self.upper)
        layers, lower, family = self.upper.layers, self.lower().layers, self.lower().family
        injections = {upper: injection_of(layers[upper]) for _, upper in pairs}
        projections = {upper: injections[upper].projection or getattr(lower[i], family.attention) for i, upper in pairs}
        readers = injections if self.config.injection == "cross" else {}
        bits = memory_dtype == "int8"
        return prepare(moved, self.config, self.upper.rotary_emb, readers, projections, bits, static, in_place)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        context_ids: Tensor | None = None,
        context_attention_mask: Tensor | None = None,
        query_ids: Tensor | None = None,
        query_attention_mask: Tensor | None = None,
        memory: ContextMemory | PreparedMemory | None = None,
        return_dict: bool | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        """Hidden states of running text over a context or a memory.

        Args:
            input_ids: (B, L) running text, L at most the window.
            attention_mask: (B, L), or (B, past + L) with a cache.
            context_ids: (B, T) text to read first. memory: the result of `read`; not both. A memory of one text serves
                all rows.
            query_ids: (B, Q) for policies that need a query; default: the running text.
            kwargs: those that transformers hands to the base, `output_hidden_states` for one.
        """
        if memory is not None and context_ids is not None:
            raise UserError(
                "both memory and context_ids are given: append the text to the memory, or pass one of them."
            )
        states = input_ids if input_ids is not None else inputs_embeds
        if states is None:
            raise UserError("input_ids is missing: pass input_ids or inputs_embeds.")
        if position_ids is not None:
            _check_positions(position_ids, states)
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        # A static cache keeps its length on the device: reading it would synchronise, which compiled code can't.
        length = states.shape[1] + (0 if isinstance(past, Tensor) else past)
        if length > self.config.window:
            raise UserError(
                f"the running text has {length:,} tokens, the window={self.config.window}: move its beginning to context_ids."
            )
        if context_ids is not None:
            if query_ids is None and input_ids is not None:
                query_ids, query_attention_mask = input_ids, attention_mask
            memory = self.read(
                context_ids, context_attention_mask, query_ids, query_attention_mask, fingerprint=False, gradients=True
            )
        memory = self.prepare_memory(memory, len(states), in_place=context_ids is not None)
        if position_ids is None and attention_mask is not None and attention_mask.ndim == 2:
            # Positions count real tokens only, so left padding changes nothing.
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -states.shape[1] :]
        if memory is not None and (memory.begin is not None or self.config.anchor):
            if position_ids is None:
                position_ids = torch.arange(states.shape[1], device=states.device)[None] + past
            if memory.begin is not None:
                position_ids = position_ids + memory.begin[:, None]
            if self.config.anchor:
                memory = replace(memory, apart=(position_ids == 0).expand(states.shape[:2]))
        if (self.upper.config.use_cache if use_cache is None else use_cache) and not torch.is_grad_enabled():
            past_key_values = with_room(past_key_values, self.upper.config)
        output: Any = self.upper(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            memory=memory,
            return_dict=True,
            **kwargs,
        )
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()


def _check_positions(position_ids: Tensor, states: Tensor) -> None:
    """
    Raises:
        UserError: they are not whole numbers, one for each token.
    """
    shapes = [(rows, states.shape[1]) for rows in (1, states.shape[0])]
    if not isinstance(position_ids, Tensor) or position_ids.is_floating_point() or position_ids.shape not in shapes:
        given = (
            f"shape {tuple(position_ids.shape)}" if isinstance(position_ids, Tensor) else type(position_ids).__name__
        )
        raise UserError(
            f"position_ids has {given}, the input {tuple(states.shape[:2])}: pass one whole number for each token, or leave "
            "it out."
        )


AutoModel.register(SharedLLMConfig, SharedLLMModel, exist_ok=True)
