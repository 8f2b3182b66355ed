"""generate() over a context: the context is read once, then the running text is decoded over its memory."""

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin

from .chunking import check_ids, split_context
from .injection import PreparedMemory
from .memory import ContextMemory
from .selection import get_policy


class MemoryGenerationMixin(GenerationMixin):
    """GenerationMixin that knows memories; everything else of `generate` stays as in transformers."""

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
        **kwargs: Any,
    ):
        """Continue a prompt of any length.

        What of the prompt does not fit into the window beside the new tokens is context and read first, behind
        `context_ids` or `memory` if there is one.

        Args:
            inputs: (B, L) prompt, left-padded with an `attention_mask`.
            context_ids: (B, T) text to read first. memory: what `read` returned; not both. A memory of one text serves
                all rows (many questions), and is copied for them only if a prompt overflows into it.
            query_ids: (B, Q) for policies that need a query; default: the end of the prompt.
            kwargs: as for `GenerationMixin.generate`: `max_new_tokens`, `num_beams`, `do_sample`, `streamer`, …

        Returns:
            As `GenerationMixin.generate`: the whole prompt followed by the new tokens, or a ModelOutput with them.

        Raises:
            ValueError: more new tokens than the window holds, or both a memory and a context.
        """
        prompt = inputs if inputs is not None else kwargs.pop("input_ids", None)
        if prompt is None:
            raise ValueError("input_ids is missing: generate() needs a prompt of at least one token.")
        if memory is not None and context_ids is not None:
            raise ValueError(
                "both memory and context_ids are given: append the text to the memory, or pass one of them."
            )
        mask = check_ids("input_ids", prompt, kwargs.pop("attention_mask", None), self.config.text_config.vocab_size)
        new_tokens = self._new_tokens(prompt.shape[1], generation_config, kwargs)
        window = self.config.window
        if new_tokens >= window:
            raise ValueError(f"max_new_tokens={new_tokens} does not fit into the window={window}: ask for fewer.")
        split = split_context(prompt, mask, window - new_tokens)
        if query_ids is None:
            query_ids, query_attention_mask = split.running_ids, split.running_mask
        if context_ids is not None:
            memory = self.read(context_ids, context_attention_mask, query_ids, query_attention_mask)
        if split.context_ids.shape[1]:
            if isinstance(memory, PreparedMemory):
                raise ValueError(
                    f"the prompt has {prompt.shape[1]} tokens and {new_tokens} are to come, the window={window}: "
                    "pass the memory unprepared, so that the rest of the prompt can be appended to it."
                )
            overflow = {"query_ids": query_ids, "query_mask": query_attention_mask}
            if memory is None:
                memory = self.read(split.context_ids, split.context_mask, *overflow.values())
            else:
                if len(memory) == 1:
                    memory = memory.repeat_interleave(len(prompt))
                memory = self.append(memory, split.context_ids, split.context_mask, **overflow)
        output = super().generate(
            split.running_ids,
            generation_config,
            attention_mask=split.running_mask.long(),
            memory=self.model.prepare_memory(memory, len(prompt)),
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

    def _new_tokens(
        self, prompt_length: int, generation_config: GenerationConfig | None, kwargs: dict[str, Any]
    ) -> int:
        """How many tokens are to come; takes both length arguments out of `kwargs`."""
        config = generation_config or self.generation_config
        wanted, longest = kwargs.pop("max_new_tokens", None), kwargs.pop("max_length", None)
        if wanted is None and longest is None:
            wanted, longest = config.max_new_tokens, config.max_length
        if wanted is None:
            wanted = longest - prompt_length if longest is not None else 20
        if wanted < 1:
            raise ValueError(
                f"max_new_tokens={wanted} asks for nothing: ask for at least one."
                if longest is None
                else f"max_length={longest} leaves no room behind a prompt of {prompt_length} tokens: raise it."
            )
        return wanted

    def _expand_inputs_for_generation(self, expand_size: int = 1, **kwargs: Any):
        memory = kwargs.pop("memory", None)
        input_ids, model_kwargs = super()._expand_inputs_for_generation(expand_size=expand_size, **kwargs)
        if memory is not None:
            model_kwargs["memory"] = memory.repeat_interleave(expand_size)
        return input_ids, model_kwargs
