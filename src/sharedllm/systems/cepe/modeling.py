"""CepeForCausalLM: a frozen base in which every layer cross-attends to an encoder's states of the context."""

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import (
    AutoModelForCausalLM,
    GenerationMixin,
    ModernBertConfig,
    ModernBertForMaskedLM,
    ModernBertModel,
    PreTrainedModel,
)
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from ...context.chunking import check_ids, left_align
from ...model.attention import attend
from ...model.families import Family, plain_family_of
from ...model.families.wiring import Inject
from ...model.injection import Injection
from ...model.renamed import LoadsRenamed
from ...model.self_attention import self_attend
from ...model.upper import inject
from ...utils.errors import UserError
from .config import CepeConfig, encoder_config
from .memory import CepeMemory, Pair


class CepeAttention(Injection):
    """h ← h + W_o softmax(q kᵀ / √D) v, with q from norm(h) and k, v from the encoder's states; no positions, no gate.

    Query and output projections and the norm start as self-attention's, key and value projections as the first columns
    of self-attention's.
    """

    def __init__(self, layer: nn.Module, family: Family, width: int):
        """
        Args:
            layer: the decoder layer to extend. width: of the encoder's states.
        """
        super().__init__()
        attention = getattr(layer, family.attention)
        if set(family.query_parts) & set(family.memory_parts):
            raise UserError(
                f"a {attention.config.model_type} has one projection for queries and keys; CEPE's read states of different "
                "widths: use another base."
            )
        family.lend_traits(attention, self)
        self.family, self.scaling = family, attention.scaling
        self.projection = self.gate = None
        self.norm = copy.deepcopy(family.norm_of(layer))
        for name, part in family.parts(attention, (*family.query_parts, *family.memory_parts)).items():
            module = copy.deepcopy(part)
            if name in family.memory_parts and isinstance(module, nn.Linear):
                module.weight = nn.Parameter(module.weight[:, :width].detach().clone())
                module.in_features = width
            setattr(self, name, module)

    def project(self, states: Tensor) -> Pair:
        """Keys and values (B, G, S, D) of the encoder's states (B, S, E'), contiguous by head, as each step reads them."""
        keys, values = self.family.keys_values(self, states)
        return keys.transpose(1, 2).contiguous(), values.transpose(1, 2).contiguous()

    def memory_attention(
        self, attention: Any, normed: Tensor, layer_index: int, memory: CepeMemory, **kwargs
    ) -> tuple[Tensor, Inject]:
        """Unchanged self-attention, and the function that adds the memory's contribution after it."""
        attended = self_attend(self.family, attention, normed, **kwargs)
        return attended, lambda hidden: self(hidden, layer_index, memory)

    def forward(self, hidden: Tensor, layer_index: int, memory: CepeMemory) -> Tensor:
        """(B, L, E) after self-attention → (B, L, E) after cross-attention."""
        keys, values = memory.layers[layer_index] if memory.layers is not None else self.project(memory.states)
        queries = self.family.queries(self, self.norm(hidden)).transpose(1, 2)
        attended = attend(self, self.config._attn_implementation, queries, keys, values, memory.allowed)
        return hidden + memory.present.to(hidden.dtype) * getattr(self, self.family.output)(attended)


class CepeForCausalLM(LoadsRenamed, GenerationMixin):
    """A base, frozen in training, with an encoder and cross-attention in every layer."""

    config_class = CepeConfig
    base_model_prefix = "model"
    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "model.embed_tokens.weight"}
    _skip_keys_device_placement: ClassVar[list[str]] = ["past_key_values", "memory"]
    _supports_sdpa = True

    def __init__(self, config: CepeConfig, base: PreTrainedModel | None = None, encoder: PreTrainedModel | None = None):
        super().__init__(config)
        base = AutoModelForCausalLM.from_config(config.text_config) if base is None else base
        config.text_config = base.config
        self.encoder: Any = ModernBertModel(config.encoder_config) if encoder is None else encoder
        family, width = plain_family_of(base.config, "CEPE"), config.encoder_config.hidden_size
        layers = base.get_decoder().layers
        self.model: Any = inject(
            base.get_decoder(), {i: CepeAttention(layer, family, width) for i, layer in enumerate(layers)}
        )
        self.lm_head = base.lm_head
        self.post_init()

    @classmethod
    def from_base(
        cls, base: PreTrainedModel, *, encoder: str | dict[str, Any] | None = None, **settings
    ) -> "CepeForCausalLM":
        """Extend a base, whose weights are shared.

        Args:
            encoder: folder of an encoder trained by `python -m sharedllm.systems.cepe.pretrain`, or fields of its
                configuration; default: a new one of the usual size (see `config.encoder_config`).
            settings: fields of `CepeConfig`.
        """
        config, pretrained = cls.extended_config(base, encoder=encoder, **settings), None
        if isinstance(encoder, str):
            pretrained = _loaded(encoder, ModernBertForMaskedLM, dtype=base.dtype).model
        return cls(config, base, pretrained).train(base.training)

    @staticmethod
    def extended_config(
        base: PreTrainedModel, *, encoder: str | dict[str, Any] | None = None, **settings
    ) -> CepeConfig:
        """The configuration with which `from_base` extends a base."""
        if isinstance(encoder, str):
            made = _loaded(encoder, ModernBertConfig)
            if made.vocab_size != base.config.vocab_size + 2:
                raise UserError(
                    f"the encoder {encoder} has {made.vocab_size:,} tokens, the base {base.config.vocab_size} and two more: "
                    "train one with the base's tokenizer."
                )
        else:
            made = encoder_config(base.config, base.num_parameters(), **(encoder or {}))
        return CepeConfig(text_config=base.config, encoder_config=made, **settings)

    def _init_weights(self, module: nn.Module) -> None:
        """Everything starts as the base's, except the encoder, which initialises itself."""

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed_tokens

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def read(
        self,
        context_ids: Tensor,
        context_attention_mask: Tensor | None = None,
        *,
        batch_tokens: int | None = None,
        project: bool = True,
        fingerprint: bool = False,
    ) -> CepeMemory:
        """Encode contexts chunk by chunk.

        Args:
            context_ids: (B, T), any T. context_attention_mask: (B, T), padding on either side.
            batch_tokens: most tokens run through the encoder at once; None for no limit.
            project: keep the keys and values of every decoder layer, so that no forward pass projects them again; else
                the encoder's states, which take less memory.
            fingerprint: ignored; accepted for compatibility with SharedLLM's `read`.
        """
        mask = check_ids("context_ids", context_ids, context_attention_mask, self.config.text_config.vocab_size)
        ids, lengths = left_align(context_ids, mask)
        size = self.config.chunk_size
        ids = pad(ids, (0, -ids.shape[1] % size))
        real = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        chunks, chunk_mask = ids.reshape(-1, size), real.reshape(-1, size)
        held = chunk_mask.any(1).nonzero()[:, 0]
        width, weight = self.config.encoder_config.hidden_size, self.model.embed_tokens.weight
        states = weight.new_zeros(len(chunks), size, width)
        for part in held.split(max(1, batch_tokens // size) if batch_tokens else max(len(held), 1)):
            if len(part):
                encoded = self.encoder(chunks[part], attention_mask=chunk_mask[part].long()).last_hidden_state
                states = states.index_copy(0, part, encoded.to(states.dtype))
        states = states.reshape(len(ids), -1, width)
        if not project:
            return CepeMemory(states, None, real)
        return CepeMemory(None, tuple(layer.injection.project(states) for layer in self.model.layers), real)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        memory: CepeMemory | None = None,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """Logits and, with labels, the loss of running text (B, L) over a memory.

        Raises:
            UserError: the running text is longer than the window, or the memory holds another number of texts.
        """
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        length = past + input_ids.shape[1]
        if length > self.config.window:
            raise UserError(
                f"the running text has {length:,} tokens, the window={self.config.window}: read its beginning."
            )
        if memory is not None and len(memory) != len(input_ids):
            raise UserError(f"the memory holds {len(memory)} texts, the batch {len(input_ids)}: make them equal.")
        if memory is not None and memory.mask.shape[1] == 0:
            memory = None
        if position_ids is None and attention_mask is not None:
            # Positions count real tokens only, so left padding changes nothing.
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, past:]
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            memory=memory,
        )
        logits = self.lm_head(outputs.last_hidden_state[:, -logits_to_keep:])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=logits.shape[-1])
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=outputs.past_key_values)


AutoModelForCausalLM.register(CepeConfig, CepeForCausalLM, exist_ok=True)


def _loaded(encoder: str, kind: Any, **options: Any) -> Any:
    """An encoder, or its configuration, from its folder.

    Raises:
        UserError: it can't be loaded.
    """
    try:
        return kind.from_pretrained(encoder, **options)
    except (OSError, ValueError) as error:
        raise UserError(f"can't load the encoder {encoder}: {str(error).splitlines()[0]}") from None
