"""SharedLLMForCausalLM: a language model that reads texts far longer than its window."""

import copy
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, Unpack

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast, MoeCausalLMOutputWithPast
from transformers.utils.generic import ModelOutput

from .context.chunking import check_ids, check_some, split_context
from .context.policies.base import SelectionPolicy
from .generation import MemoryGenerationMixin
from .memory.context_memory import ContextMemory
from .memory.segments import Source
from .model.backbone import SharedLLMModel
from .model.base_config import check_base
from .model.config import SharedLLMConfig
from .model.cross_attention import PreparedMemory
from .model.decoder import has_head
from .model.families import balance_loss, family_of
from .model.settings import Settings, check_settings
from .model.targets import IGNORE, counted, loss_of, targets_of
from .scoring import DEFAULT_SCORE
from .scoring.base import TokenScore
from .scoring.encoder import SentenceEncoder, encoder_of
from .scoring.select import scores, select
from .utils.checkpoints import check_dense, load_model
from .utils.errors import UserError, named_type, of_wrong_type, shown


class SharedLLMForCausalLM(MemoryGenerationMixin):
    """A language model that reads texts far longer than its window.

    Input longer than the window is split automatically: its end is the running text, everything before it the context.
    """

    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "model.upper.embed_tokens.weight"}

    # The embedding, to which a tied head belongs, is shared between devices by rows.
    _tp_plan: ClassVar[dict[str, str]] = {"lm_head": "colwise_gather_output"}

    lm_head: nn.Linear

    def __init__(self, config: SharedLLMConfig, base: PreTrainedModel | None = None, **unknown: Any):
        """
        Args:
            base: causal language model to build on; its modules are shared, not copied. Random if None.

        Raises:
            UserError: the base has no head; or as `SharedLLMPreTrainedModel`.
        """
        super().__init__(config, **unknown)
        if base is not None and not has_head(base):
            raise UserError(f"{type(base).__name__} has no head: pass a causal language model.")
        if config.injection != "cross" or config.start != "gate":
            self.__dict__["_keep_in_fp32_modules_strict"] = []  # there are no gates
        self.model = SharedLLMModel(config, None if base is None else base.get_decoder())
        text = config.text_config
        bias = bool(getattr(text, "lm_head_bias", False))
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=bias) if base is None else base.lm_head
        self.post_init()
        if base is not None:
            self.generation_config = copy.deepcopy(base.generation_config)

    @classmethod
    def from_base(
        cls, base: str | PreTrainedModel, *, dtype: torch.dtype | str | None = None, **settings: Unpack[Settings]
    ) -> Self:
        """Extend a base checkpoint; with injection="cross" its logits are the base's to the bit before training.

        Args:
            base: folder, hub id, or a causal language model (its weights are shared with the result, not copied).
            dtype: dtype to load a checkpoint in; default: the saved one.
            settings: fields of `SharedLLMConfig`.

        Raises:
            UserError: the base's family is not supported, or a setting is impossible.
        """
        if not isinstance(base, PreTrainedModel | str | Path):
            raise UserError(
                f"base is {named_type(base)}: name a folder or a hub id, or pass a model of transformers (of a peft model "
                "what merge_and_unload() returns)."
            )
        if "torch_dtype" in settings:
            value = shown(settings.get("torch_dtype"))
            raise UserError(f"torch_dtype={value} is called dtype here, as in transformers 5: pass dtype={value}.")
        check_settings(settings)
        if not isinstance(base, PreTrainedModel):
            if (known := check_base(str(base))) is not None:
                # What is impossible with it is said before its weights are loaded.
                cls.extended_config(known, **settings)
            base = load_model(str(base), dtype=dtype or "auto")
        elif dtype is not None:
            raise UserError("dtype applies to a checkpoint that is loaded; a model instance has its own.")
        config = cls.extended_config(base, **settings)
        check_dense(base)
        model = cls(config, base)
        model.train(base.training)
        return model

    @staticmethod
    def extended_config(base: PreTrainedModel | PreTrainedConfig, **settings: Unpack[Settings]) -> SharedLLMConfig:
        """The configuration with which `from_base` extends a base, whose weights may be anywhere.

        Args:
            base: the model, or its configuration.

        Raises:
            UserError: as `from_base`.
        """
        check_settings(settings)
        try:
            fields: dict[str, Any] = {**settings}
            return SharedLLMConfig(text_config=base if isinstance(base, PreTrainedConfig) else base.config, **fields)
        except StrictDataclassError as error:
            raise of_wrong_type(error) from None

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Linear) -> None:
        self.lm_head = value

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
        """Read contexts into a memory; see `SharedLLMModel.read`."""
        return self.model.read(
            context_ids, context_attention_mask, query_ids, query_attention_mask,
            selection=selection, strides=strides, batch_tokens=batch_tokens, sources=sources, progress=progress,
            plain=plain, keep_all=keep_all, fingerprint=fingerprint, gradients=gradients,
        )  # fmt: skip

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
        """Read more text and append it to a memory; see `SharedLLMModel.append`."""
        return self.model.append(
            memory, context_ids, context_attention_mask, query_ids, query_attention_mask,
            selection=selection, batch_tokens=batch_tokens, sources=sources, progress=progress, gradients=gradients,
        )  # fmt: skip

    def select(
        self,
        source: Source,
        query_ids: Tensor,
        query_attention_mask: Tensor | None = None,
        *,
        query_words: Tensor | None = None,
        budget: int | None,
        score: str | TokenScore | Tensor = DEFAULT_SCORE,
        strides: Sequence[int] | None = None,
        gist: float = 0.5,
    ) -> ContextMemory:
        """Select the tokens of a memory that a question needs, within a budget; see `scoring.select.select`."""
        return select(
            self.model, source, query_ids, query_attention_mask,
            query_words=query_words, budget=budget, score=score, strides=strides, gist=gist,
        )  # fmt: skip

    def scores(
        self,
        source: Source,
        query_ids: Tensor,
        query_attention_mask: Tensor | None = None,
        *,
        query_words: Tensor | None = None,
        score: str | TokenScore = DEFAULT_SCORE,
    ) -> Tensor:
        """(B, Z) how much the token at each slot of a memory matters to a question; see `scoring.select.scores`."""
        return scores(self.model, source, query_ids, query_attention_mask, query_words=query_words, score=score)

    def use_encoder(self, encoder: SentenceEncoder) -> None:
        """Take the sentence encoder that the configuration names, to be saved with this model. One that was saved is found in the
        model's folder.

        Raises:
            UserError: the configuration does not name it.
        """
        if self.config.sentence_encoder != encoder.settings:
            raise UserError(
                f"sentence_encoder={self.config.sentence_encoder} is not this encoder: make the model with "
                "from_base(base, injection='deep', sentence_encoder=encoder.settings)."
            )
        self.model.sentence_encoder = encoder

    def save_pretrained(
        self, save_directory: str | os.PathLike, *args: Any, is_main_process: bool = True, **kwargs: Any
    ) -> None:
        """As in transformers, with the sentence encoder if there is one."""
        if is_main_process and (encoder := encoder_of(self.model)) is not None:
            encoder.save(Path(save_directory))
        super().save_pretrained(save_directory, *args, is_main_process=is_main_process, **kwargs)

    def fingerprint(self, strides: Sequence[int] | None = None, dtype: torch.dtype | None = None) -> str:
        """Identifies everything that decides what a memory holds; see `SharedLLMModel.fingerprint`."""
        return self.model.fingerprint(strides, dtype)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        shift_labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        context_ids: Tensor | None = None,
        context_attention_mask: Tensor | None = None,
        query_ids: Tensor | None = None,
        query_attention_mask: Tensor | None = None,
        memory: ContextMemory | PreparedMemory | None = None,
        **kwargs,
    ) -> CausalLMOutputWithPast | MoeCausalLMOutputWithPast:
        """Logits and, with labels, the loss of the running text.

        Args:
            input_ids: (B, L). Longer than the window: the last W real tokens of each row are the running text and the
                rest is its context; logits then cover the running text only, left-padded, and so do the labels.
            labels: (B, L) targets, -100 where there is none; shifted inside. shift_labels: the same, shifted already.
            num_items_in_batch: number of targets that the loss is divided by, of several batches perhaps. Where targets of
                this one fall away, because they are read as context, it counts as much fewer.
            return_dict: False for a tuple.
            Other arguments as in `SharedLLMModel.forward`.
        """
        text_config = self.config.text_config
        if input_ids is not None:
            check_some("input_ids", input_ids)
        if input_ids is not None and past_key_values is None:
            mask_2d = attention_mask if attention_mask is None or attention_mask.ndim == 2 else None
            mask = check_ids("input_ids", input_ids, mask_2d, text_config.vocab_size)
        inputs = input_ids if input_ids is not None else inputs_embeds
        targets = targets_of(inputs, attention_mask, labels, shift_labels, text_config.vocab_size, logits_to_keep)
        if input_ids is not None and past_key_values is None and input_ids.shape[1] > self.config.window:
            if memory is not None or context_ids is not None:
                raise UserError(
                    f"input_ids has {input_ids.shape[1]:,} tokens, the window={self.config.window}, and there is a context "
                    "already: append the excess to that context."
                )
            split = split_context(input_ids, mask, self.config.window)
            input_ids, attention_mask, position_ids = split.running_ids, split.running_mask.long(), None
            if split.context_ids.shape[1]:
                context_ids, context_attention_mask = split.context_ids, split.context_mask
            if targets is not None:
                given = targets
                targets = given.gather(1, split.running_columns).masked_fill(~split.running_mask, IGNORE)
                if num_items_in_batch is not None:
                    num_items_in_batch = counted(num_items_in_batch, targets, given)
        if targets is not None and context_ids is not None and query_ids is None and self._needs_query():
            raise UserError(
                f"selection={self.config.selection!r} needs query_ids when there are labels: the running text holds the "
                "answer, so it can't be the query."
            )
        family = family_of(text_config)
        balanced = kwargs.pop("output_router_logits", None)
        if family.balanced:
            kwargs["output_router_logits"] = text_config.output_router_logits if balanced is None else balanced
        outputs = self.model(
            return_dict=True,
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            context_ids=context_ids,
            context_attention_mask=context_attention_mask,
            query_ids=query_ids,
            query_attention_mask=query_attention_mask,
            memory=memory,
            **kwargs,
        )
        if not isinstance(logits_to_keep, int | Tensor):
            raise UserError(
                f"logits_to_keep={logits_to_keep!r} is not a whole number, or a tensor of places: pass one."
            )
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = family.logits(text_config, self.lm_head(outputs.last_hidden_state[:, keep, :]))
        loss = None if targets is None else loss_of(self.loss_function, logits, targets, num_items_in_batch)
        output = CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        as_tuple = not (self.config.return_dict if return_dict is None else return_dict)
        if not kwargs.get("output_router_logits"):
            return _tuple(output) if as_tuple else output
        running = outputs.last_hidden_state.shape[1]
        balance = balance_loss(self.model.upper, outputs.router_logits, running, attention_mask)
        if loss is not None:
            output["loss"] = loss + text_config.router_aux_loss_coef * balance.to(loss.device)
        mixed = MoeCausalLMOutputWithPast(**output, aux_loss=balance, router_logits=outputs.router_logits)
        return _tuple(mixed) if as_tuple else mixed


# help() has no links: it shows the whole text of what a method passes its arguments on to.
for _method, _done in (
    (SharedLLMForCausalLM.read, SharedLLMModel.read),
    (SharedLLMForCausalLM.append, SharedLLMModel.append),
    (SharedLLMForCausalLM.select, select),
    (SharedLLMForCausalLM.scores, scores),
    (SharedLLMForCausalLM.fingerprint, SharedLLMModel.fingerprint),
):
    _method.__doc__ = _done.__doc__


def _tuple(output: ModelOutput) -> Any:
    """What `return_dict=False` asks for. Its type is no part of `forward`'s, as in transformers."""
    return output.to_tuple()


AutoModelForCausalLM.register(SharedLLMConfig, SharedLLMForCausalLM, exist_ok=True)
