"""generate() over a context: the context is read once, then text of any length is decoded over its memory."""

from typing import Any, NoReturn, cast

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList
from transformers.generation.configuration_utils import STATIC_CACHE_IMPLEMENTATIONS, GenerationMode
from transformers.generation.logits_process import (
    ExponentialDecayLengthPenalty,
    ForcedBOSTokenLogitsProcessor,
    ForcedEOSTokenLogitsProcessor,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
)

from .context.chunking import Split, check_ids, check_some, split_context
from .context.policies.base import get_policy
from .memory.context_memory import ContextMemory
from .model.backbone import SharedLLMModel
from .model.cache import with_room
from .model.cross_attention import PreparedMemory, check_memory
from .model.families import family_of
from .model.folding import Folding, fold, running_after_fold
from .model.pretrained import SharedLLMPreTrainedModel
from .utils.errors import UserError, at_least_one

# Processors that go by lengths, which transformers counts from the running text.
_BY_LENGTH = (
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    ForcedBOSTokenLogitsProcessor,
    ForcedEOSTokenLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    ExponentialDecayLengthPenalty,
)


class _OverWhole(LogitsProcessorList):
    """Processors that see the whole prompt with the new tokens, although a part of the prompt was read as context."""

    def __init__(self, processors: LogitsProcessorList, prompt: Tensor):
        """prompt: (B, L)."""
        super().__init__(processors)
        self.prompt = prompt
        self.length: int | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        # The first call sees the running text alone.
        self.length = input_ids.shape[1] if self.length is None else self.length
        prompt = self.prompt.repeat_interleave(len(input_ids) // len(self.prompt), 0)
        whole = torch.cat([prompt, input_ids[:, self.length :]], 1)
        for processor in self:
            seen = input_ids if isinstance(processor, _BY_LENGTH) else whole
            scores = LogitsProcessorList([processor])(
                cast(torch.LongTensor, seen), cast(torch.FloatTensor, scores), **kwargs
            )
        return scores


class MemoryGenerationMixin(GenerationMixin, SharedLLMPreTrainedModel):
    """GenerationMixin with memories; otherwise `generate` works as in transformers.

    transformers types `self` of GenerationMixin's methods as a protocol with attributes that only some models have
    (`encoder`, `hf_quantizer`): calls of them are marked for pyright.

    model  reads contexts, and running text over a memory
    """

    model: SharedLLMModel

    def _needs_query(self) -> bool:
        return get_policy(self.config.selection).needs_query

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *,
        context_ids: Tensor | None = None,
        context_attention_mask: Tensor | None = None,
        query_ids: Tensor | None = None,
        query_attention_mask: Tensor | None = None,
        memory: ContextMemory | PreparedMemory | None = None,
        memory_dtype: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Continue a prompt of any length by any number of tokens.

        If the prompt and the new tokens don't fit into the window together, the beginning of the prompt is context: it
        is read first, after `context_ids` or `memory` if given. If the new tokens alone fill the window, then whenever
        prompt and new tokens outgrow it, their oldest chunks are folded into the memory, as many whole chunks as leave
        at least half the window (see `folding`), and decoding continues.

        With `cache_implementation="static"` the memory is padded to one of a few sizes, so that code compiled by
        transformers on a GPU for one memory serves others (and prompts of any length, with `max_cache_len` as long as
        the window).

        Args:
            inputs: (B, L) prompt, left-padded with an `attention_mask`.
            context_ids: (B, T) text to read first. memory: the result of `read`; not both. A memory of one text serves
                all rows (many questions), and is copied for them only if a prompt overflows into it.
            query_ids: (B, Q) for policies that need a query; default: the end of the prompt.
            memory_dtype: format of the memory's keys and values, "model" or "int8"; default: the configuration's.
            kwargs: those of `GenerationMixin.generate`: `max_new_tokens`, `num_beams`, `do_sample`, `streamer`, …

        Returns:
            As `GenerationMixin.generate`: the whole prompt followed by the new tokens, or a ModelOutput with them.

        Raises:
            UserError: both a memory and a context; beams, an assistant or a prepared memory although text has to be folded.
        """
        prompt = inputs if inputs is not None else kwargs.pop("input_ids", None)
        if prompt is None:
            raise UserError(
                "input_ids is missing: generate() needs a prompt of at least one token, not embeddings alone."
            )
        check_some("input_ids", prompt)
        check_memory(memory)
        if memory is not None and context_ids is not None:
            raise UserError(
                "both memory and context_ids are given: append the text to the memory, or pass one of them."
            )
        mask = check_ids("input_ids", prompt, kwargs.pop("attention_mask", None), self.config.text_config.vocab_size)
        new_tokens = self._new_tokens(prompt.shape[1], generation_config, kwargs)
        config, _ = self._prepare_generation_config(generation_config, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
        if config.num_beams is not None:
            at_least_one("num_beams", config.num_beams)
        static = config.cache_implementation in STATIC_CACHE_IMPLEMENTATIONS
        if new_tokens >= self.config.window:
            self._check_endless(new_tokens, config, kwargs.get("assistant_model"))
        running = self._running_tokens(mask, new_tokens)
        split = split_context(prompt, mask, running)
        if kwargs.get("assistant_model") is not None and (
            memory is not None or context_ids is not None or split.context_ids.shape[1]
        ):
            raise UserError("assistant_model reads no memory, so its drafts would be of another text: leave it out.")
        if split.context_ids.shape[1]:
            kwargs |= {"whole_prompt": prompt} | self._least_new_tokens(prompt.shape[1], config)
        if query_ids is None:
            query_ids, query_attention_mask = split.running_ids, split.running_mask
        own = context_ids is not None
        if own:
            memory = self.model.read(context_ids, context_attention_mask, query_ids, query_attention_mask)
        prepared, folding = self._over(
            split,
            memory,
            new_tokens,
            query_ids,
            query_attention_mask,
            own=own,
            static=static,
            memory_dtype=memory_dtype,
        )
        if folding is not None:
            kwargs["folding"] = folding
        elif config.use_cache and config.cache_implementation is None and kwargs.get("past_key_values") is None:
            tokens = split.running_ids.shape[1] + new_tokens
            kwargs["past_key_values"] = with_room(None, self.config.text_config, tokens)
        output = super().generate(  # pyright: ignore[reportAttributeAccessIssue]
            split.running_ids,
            generation_config,
            attention_mask=split.running_mask.long(),
            memory=prepared,
            max_new_tokens=new_tokens,
            **kwargs,
        )
        sequences = output if isinstance(output, Tensor) else output.sequences
        whole = prompt.repeat_interleave(len(sequences) // len(prompt), dim=0)
        sequences = torch.cat([whole, sequences[:, split.running_ids.shape[1] :]], dim=1)
        if isinstance(output, Tensor):
            return sequences
        output.sequences = sequences
        return output

    def start(
        self, prompt: Tensor, memory: ContextMemory | PreparedMemory | None, new_tokens: int
    ) -> tuple[Split, PreparedMemory | None, Folding | None]:
        """How `generate` starts from a prompt (1, L), for loops of their own (see `decoding`): the prompt's running text,
        the prepared memory before it, and if the new tokens alone fill the window, what folds.

        Raises:
            UserError: as `generate`.
        """
        check_some("input_ids", prompt)
        check_memory(memory)
        mask = check_ids("input_ids", prompt, None, self.config.text_config.vocab_size)
        split = split_context(prompt, mask, self._running_tokens(mask, at_least_one("max_new_tokens", new_tokens)))
        return split, *self._over(split, memory, new_tokens, split.running_ids, split.running_mask)

    def _running_tokens(self, mask: Tensor, new_tokens: int) -> int | Tensor:
        """How many tokens at the end of a prompt stay running text if so many new ones are to follow; see `generate`."""
        window = self.config.window
        if new_tokens < window:
            return window - new_tokens
        return running_after_fold(mask.sum(1), window, self.config.chunk_size)

    def _over(
        self,
        split: Split,
        memory: ContextMemory | PreparedMemory | None,
        new_tokens: int,
        query_ids: Tensor,
        query_mask: Tensor | None,
        *,
        own: bool = False,
        static: bool = False,
        memory_dtype: str | None = None,
    ) -> tuple[PreparedMemory | None, Folding | None]:
        """The prepared memory that a prompt is continued over; and if the new tokens alone fill the window, what folds.

        Args:
            split: the prompt; its context is appended to the memory. own: the memory may be overwritten.

        Raises:
            UserError: the memory is prepared, and text has to be appended to it.
        """
        rows, context, window = len(split.running_ids), split.context_ids.shape[1], self.config.window
        endless, given, unprepared = new_tokens >= window, None if own else memory, None
        if isinstance(memory, PreparedMemory):
            if endless or context:
                raise UserError(
                    f"the prompt has {context + split.running_ids.shape[1]:,} tokens, {new_tokens} new ones are requested, and "
                    f"the window={window}: pass the memory unprepared, so that the excess can be appended to it."
                )
        else:
            if memory is not None and len(memory) == 1 and (endless or context):
                # The appended text differs from row to row.
                memory = memory.repeat_interleave(rows)
            memory = unprepared = fold(self.model, memory, split, query_ids, query_mask)
        # A memory that was read here may be overwritten, unless later folds still need it.
        in_place = memory is not given and not endless
        prepared = self.model.prepare_memory(memory, rows, static=static, in_place=in_place, memory_dtype=memory_dtype)
        if not endless:
            return prepared, None
        running = split.running_ids, split.running_mask
        return prepared, Folding(self.model, unprepared, *running, query_ids, query_mask, memory_dtype)

    def _new_tokens(
        self, prompt_length: int, generation_config: GenerationConfig | None, kwargs: dict[str, Any]
    ) -> int:
        """The number of new tokens; removes both length arguments from `kwargs`."""
        config = generation_config or self.generation_config
        wanted, longest = kwargs.pop("max_new_tokens", None), kwargs.pop("max_length", None)
        if wanted is None and longest is None:
            wanted, longest = config.max_new_tokens, config.max_length
        if wanted is None and longest is not None:
            wanted = at_least_one("max_length", longest) - prompt_length
            if wanted < 1:
                raise UserError(
                    f"max_length={longest} leaves no room after a prompt of {prompt_length:,} tokens: raise it."
                )
        return at_least_one("max_new_tokens", 20 if wanted is None else wanted)

    @staticmethod
    def _least_new_tokens(prompt_length: int, config: GenerationConfig) -> dict[str, int]:
        """`min_length` counts the whole prompt, of which transformers sees a part: the same as a number of new tokens."""
        if not config.min_length:
            return {}
        return {"min_length": 0, "min_new_tokens": max(config.min_length - prompt_length, config.min_new_tokens or 0)}

    def _get_logits_processor(self, *args: Any, model_kwargs: dict[str, Any] | None = None, **kwargs: Any):
        processors = super()._get_logits_processor(*args, model_kwargs=model_kwargs, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
        prompt = (model_kwargs or {}).get("whole_prompt")
        return processors if prompt is None else _OverWhole(processors, prompt)

    def generate_batch(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: continuous batching keeps a cache of its own, which knows nothing of memories and injected layers."""
        raise UserError("continuous batching can't attend to a memory: use generate(), which takes a batch of prompts.")

    init_continuous_batching = continuous_batching_context_manager = generate_batch

    def _check_endless(self, new_tokens: int, config: GenerationConfig, assistant: Any) -> None:
        """Refuse modes that can't continue after a fold: all running texts have to grow by one chosen token at a time."""
        mode = config.get_generation_mode(assistant)
        refused = f"max_new_tokens={new_tokens} does not fit into the window={self.config.window}, and "
        if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
            raise UserError(
                f"{refused}text can't be folded into the memory in {mode.value}: ask for fewer new tokens, or use "
                "num_beams=1 and no assistant."
            )
        if config.cache_implementation in STATIC_CACHE_IMPLEMENTATIONS:
            raise UserError(
                f"{refused}cache_implementation={config.cache_implementation!r} can't restart when text is folded into the "
                "memory: ask for fewer new tokens, or leave it out."
            )

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        *,
        is_first_iteration: bool = False,
        folding: Folding | None = None,
        whole_prompt: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        del whole_prompt  # for the logits processors alone
        # The prompt fits; from here on each step adds one token.
        if folding is not None and not is_first_iteration:
            if folding.add(input_ids[:, -1:]):
                kwargs |= {"past_key_values": None, "next_sequence_length": None}
            input_ids = folding.ids
            kwargs |= {"attention_mask": folding.mask.long(), "position_ids": None}
            if folding.prepared is not None:
                kwargs["memory"] = folding.prepared
        cache, border = (
            kwargs.get("past_key_values"),
            family_of(self.config.text_config).border(self.config.text_config),
        )
        if cache and border is not None and cache.get_seq_length() <= border < input_ids.shape[1]:
            # As in transformers' Phi-3: the cached keys were rotated with other frequencies.
            kwargs |= {"past_key_values": None, "next_sequence_length": None}
        prepare = super().prepare_inputs_for_generation  # pyright: ignore[reportAttributeAccessIssue]
        return prepare(input_ids, is_first_iteration=is_first_iteration, **kwargs)

    def _expand_inputs_for_generation(self, expand_size: int = 1, **kwargs: Any):
        ours = {name: kwargs.pop(name) for name in ("memory", "folding") if kwargs.get(name) is not None}
        expand = super()._expand_inputs_for_generation  # pyright: ignore[reportAttributeAccessIssue]
        input_ids, model_kwargs = expand(expand_size=expand_size, **kwargs)
        return input_ids, model_kwargs | {name: value.repeat_interleave(expand_size) for name, value in ours.items()}
