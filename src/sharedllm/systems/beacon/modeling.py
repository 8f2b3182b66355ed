"""BeaconForCausalLM: reads a text window by window, each after the beacons of the windows before it."""

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from ...context.chunking import check_ids
from ...model.attention import attend
from ...model.families import Family, plain_family_of
from ...model.rope import rotate, rotation
from ...utils.errors import UserError
from .config import BeaconConfig
from .memory import BeaconMemory, Pair, Places, interleave


class BeaconProjections(nn.Module):
    """Query, key and value projections of a layer's beacons; initialised with those of its raw tokens."""

    def __init__(self, attention: nn.Module, family: Family):
        super().__init__()
        family.lend_traits(attention, self)
        for name, part in family.parts(attention, (*family.query_parts, *family.memory_parts)).items():
            if name != family.output:
                setattr(self, name, copy.deepcopy(part))


class BeaconForCausalLM(PreTrainedModel, GenerationMixin):
    """A base, frozen in training, with separate projections for beacons.

    A sequence of any length, padded on the left, is cut from its end into windows of `stride` tokens. All but the last
    are condensed; the last attends to their beacons.
    """

    config_class = BeaconConfig
    base_model_prefix = "model"
    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "model.embed_tokens.weight"}
    _skip_keys_device_placement: ClassVar[list[str]] = ["past_key_values", "memory"]
    _supports_sdpa = True

    def __init__(self, config: BeaconConfig, base: PreTrainedModel | None = None):
        super().__init__(config)
        base = AutoModelForCausalLM.from_config(config.text_config) if base is None else base
        config.text_config = base.config
        self.family = plain_family_of(base.config, "Activation Beacon")
        self.model: Any = base.get_decoder()
        self.lm_head = base.lm_head
        attentions = [getattr(layer, self.family.attention) for layer in self.model.layers]
        self.beacon = nn.ModuleList(BeaconProjections(attention, self.family) for attention in attentions)
        self.beacon_embedding = nn.Parameter(self.model.embed_tokens.weight[config.initial_token].detach().clone())
        self.post_init()

    @classmethod
    def from_base(cls, base: PreTrainedModel, **settings) -> "BeaconForCausalLM":
        """Extend a base, whose weights are shared; `settings` are fields of `BeaconConfig`."""
        return cls(cls.extended_config(base, **settings), base).train(base.training)

    @staticmethod
    def extended_config(base: PreTrainedModel, **settings) -> BeaconConfig:
        """The configuration with which `from_base` extends a base."""
        return BeaconConfig(text_config=base.config, **settings)

    def _init_weights(self, module: nn.Module) -> None:
        """Everything starts as the base's."""

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed_tokens

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def prepare_memory(self, memory: BeaconMemory) -> BeaconMemory:
        """Give a memory its positions, for many steps over it; nothing more can be condensed after it."""
        return memory.rotate(self.model.rotary_emb)

    @torch.no_grad()
    def compress(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, *, total: int | None = None
    ) -> BeaconMemory:
        """Condense the whole of a text.

        Args:
            input_ids: (B, T), padded on the left. attention_mask: (B, T).
            total: final number of tokens of the text, which decides α; default: that of `input_ids`.
        """
        mask = check_ids("input_ids", input_ids, attention_mask, self.config.text_config.vocab_size)
        totals = mask.sum(1) if total is None else torch.full((len(mask),), total)
        memory = self._empty(input_ids, self._ratios(totals))
        for columns in self._windows(input_ids.shape[1]):
            memory, _ = self._condense(input_ids[:, columns], mask[:, columns], memory, False)
        return memory

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        memory: BeaconMemory | None = None,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """Logits and, with labels, the loss of a sequence of any length.

        Args:
            input_ids: (B, L), padded on the left. attention_mask: (B, L), or (B, past + L) with a cache.
            memory: of the text before the sequence. With a cache the sequence must fit into one window of `stride`
                tokens: only the last window can be cached.
            logits_to_keep: number of last tokens to return logits for; 0 for all.

        Raises:
            UserError: a cache over more than one window.
        """
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        mask = (
            attention_mask
            if attention_mask is not None
            else input_ids.new_ones(len(input_ids), past + input_ids.shape[1])
        )
        check_ids("input_ids", input_ids, mask[:, past:], self.config.text_config.vocab_size)
        mask, length, stride = mask.bool(), past + input_ids.shape[1], self.config.stride
        if (use_cache or past) and length > stride:
            raise UserError(
                f"a cache holds {stride:,} tokens, the text has {length:,}: compress() its beginning first."
            )
        if memory is None:
            memory = self._empty(input_ids, self._ratios(mask.sum(1)))
        kept = logits_to_keep or input_ids.shape[1]
        *earlier, last = self._windows(input_ids.shape[1])
        states = []
        for columns in earlier:
            needed = columns.stop > input_ids.shape[1] - kept
            memory, hidden = self._condense(input_ids[:, columns], mask[:, columns], memory, needed)
            states.append(hidden)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config.text_config)
        seen = mask[:, last.start :]
        places = interleave(seen, None, memory.counts)
        raw = self.model.embed_tokens(input_ids[:, last])
        hidden, _ = self._layers(raw, raw.shape[1], places, memory, True, past_key_values)
        states = [s for s in [*states, hidden] if s is not None]
        logits = self.lm_head(self.model.norm(torch.cat(states, 1)[:, -kept:]))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=logits.shape[-1])
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)

    def _windows(self, length: int) -> list[slice]:
        """Columns of each window; the first may be shorter."""
        ends = list(range(length, 0, -self.config.stride))[::-1]
        return [slice(max(end - self.config.stride, 0), end) for end in ends]

    def _ratios(self, totals: Tensor) -> Tensor | None:
        """(B,) α of each text; None in training, where it is drawn for every window."""
        if self.training:
            return None
        return torch.tensor([self.config.ratio_for(total) for total in totals.tolist()])

    def _empty(self, ids: Tensor, ratios: Tensor | None) -> BeaconMemory:
        weight, attention = self.model.embed_tokens.weight, getattr(self.model.layers[0], self.family.attention)
        groups = self.config.text_config.num_key_value_heads
        nothing = weight.new_zeros(len(ids), groups, 0, attention.head_dim)
        none = torch.zeros(len(ids), 0, dtype=torch.bool, device=ids.device)
        ratios = torch.zeros(len(ids), dtype=torch.long) if ratios is None else ratios
        lengths = torch.zeros(len(ids), dtype=torch.long, device=ids.device)
        layers = tuple((nothing, nothing) for _ in self.model.layers)
        return BeaconMemory(layers, none, none, lengths, ratios.to(ids.device))

    def _condense(
        self, ids: Tensor, mask: Tensor, memory: BeaconMemory, needed: bool
    ) -> tuple[BeaconMemory, Tensor | None]:
        """The memory with a window's beacons, and the states (B, L, E) of its raw tokens if they are needed."""
        if memory.rotated:
            raise UserError("the memory has its positions already: pass the one that compress() returned.")
        ratios = memory.ratios
        if not ratios.all():
            drawn = [r for r in self.config.ratios if r <= ids.shape[1]] or [ids.shape[1]]
            ratios = torch.full_like(ratios, drawn[int(torch.randint(len(drawn), ()))])
        places = interleave(mask, ratios, memory.counts)
        beacons = places.mask.shape[1] - ids.shape[1]
        raw = self.model.embed_tokens(ids)
        hidden = torch.cat([raw, self.beacon_embedding.to(raw.dtype).expand(len(ids), beacons, -1)], 1)
        hidden, layers = self._layers(hidden, ids.shape[1], places, memory, needed)
        # The first tokens of a text stay, before its beacons.
        sink = mask & (memory.lengths[:, None] + mask.cumsum(1) <= self.config.sinks)
        columns = (~sink).to(torch.int8).argsort(dim=1, stable=True)[:, : self.config.sinks * bool(sink.any())]
        behind = torch.arange(ids.shape[1], places.mask.shape[1], device=ids.device).expand(len(ids), -1)
        columns = torch.cat([columns, behind], 1)
        is_sink = pad(sink, (0, beacons)).gather(1, columns)
        left = is_sink | (places.mask.gather(1, columns) & (columns >= ids.shape[1]))
        index = columns[:, None, :, None]
        kept = [tuple(t.gather(2, index.expand(-1, t.shape[1], -1, t.shape[3])) for t in pair) for pair in layers]
        memory = memory.append(kept, left, is_sink, mask.sum(1), self.config.room)
        return memory, hidden[:, : ids.shape[1]] if needed else None

    def _layers(
        self,
        hidden: Tensor,
        raw: int,
        places: Places,
        memory: BeaconMemory,
        needed: bool,
        cache: Cache | None = None,
    ) -> tuple[Tensor, list[Pair]]:
        """Run the first `raw` states and the beacons through all layers: states (B, N, E), keys before RoPE, and values.

        If no states are needed, the last layer's attention and MLP are skipped, because nothing depends on them.
        """
        new, family = hidden.shape[1], self.family
        # With a cache the window has more places than there are new tokens.
        places_by = rotation(self.model.rotary_emb, places.positions[:, -new:], hidden)
        far = memory.rotate(self.model.rotary_emb)
        seen = far.mask[:, None].expand(-1, new, -1)
        allowed = torch.cat([seen, places.allowed[:, -new:]], -1)[:, None]
        kept: list[Pair] = []
        for index, (layer, beacon) in enumerate(zip(self.model.layers, self.beacon, strict=True)):
            attention, normed = getattr(layer, family.attention), family.attention_input(layer, hidden)
            parts = [(attention, normed[:, :raw])] + ([(beacon, normed[:, raw:])] if raw < new else [])
            pairs = [family.keys_values(module, part) for module, part in parts]
            keys, values = (torch.cat(tensors, 1).transpose(1, 2) for tensors in zip(*pairs, strict=True))
            kept.append((keys, values))
            if not needed and index + 1 == len(self.model.layers):
                break
            queries = torch.cat([family.queries(module, part) for module, part in parts], 1).transpose(1, 2)
            queries, keys = rotate(queries, places_by), rotate(keys, places_by)
            if cache is not None:
                keys, values = cache.update(keys, values, attention.layer_idx)
            keys, values = (torch.cat(pair, 2) for pair in zip(far.layers[index], (keys, values), strict=True))
            attended = attend(attention, self.config._attn_implementation, queries, keys, values, allowed)
            hidden = family.combine(layer, hidden, getattr(attention, family.output)(attended))
        return hidden, kept


AutoModelForCausalLM.register(BeaconConfig, BeaconForCausalLM, exist_ok=True)
