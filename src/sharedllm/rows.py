"""A text that is continued token by token: what it was read from, how its tokens are chosen, and where it ends."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.nn.functional import softmax
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import DynamicCache

from .generation import MemoryGenerationMixin
from .memory.context_memory import ContextMemory
from .model.cache import with_room
from .model.cross_attention import PreparedMemory
from .model.families import family_of
from .model.folding import Folding
from .model.merging import RowCache, row_cache
from .utils.errors import UserError


class Listener(Protocol):
    """Follows a row. What it raises ends the row, and no other."""

    def took(self, token: int) -> bool:
        """A token was chosen; whether the text ends with it."""
        ...

    def ended(self) -> None:
        """The text has ended; not called for a row that failed."""
        ...


@dataclass(frozen=True)
class Read:
    """Running text that was read over its memory.

    ids     (1, R) the running text. logits: (1, V) of the token after it
    cache   keys and values of the running text. memory: what was before it
    """

    ids: Tensor
    logits: Tensor
    cache: RowCache
    memory: PreparedMemory | None

    @classmethod
    def of(cls, model: MemoryGenerationMixin, ids: Tensor, memory: PreparedMemory | None) -> "Read":
        # Layers of a sliding window keep all their tokens too, so that rows can be merged; masks hide the old ones.
        cache = with_room(DynamicCache(), model.config.text_config, ids.shape[1])
        out = model(input_ids=ids, past_key_values=cache, memory=memory, use_cache=True, logits_to_keep=1)
        return cls(ids, out.logits[:, -1], row_cache(cache), memory)


class Begun:
    """A prompt that was read, from which any number of rows start."""

    @torch.no_grad()
    def __init__(
        self,
        model: MemoryGenerationMixin,
        ids: Tensor,
        memory: ContextMemory | PreparedMemory | None,
        new_tokens: int,
        **options: Any,
    ):
        """
        Args:
            ids: (1, L), of any length; what does not fit into the window is read into the memory, as in `generate`.
            memory: of one text. new_tokens: most tokens of each row.
            options: fields of the generation configuration that differ from the model's own, such as `do_sample`.

        Raises:
            UserError: as `generate`; beams are asked for, by the options or the model's own configuration.
        """
        own: Any = model.generation_config
        beams = options.get("num_beams", getattr(own, "num_beams", None)) or 1
        if beams > 1:
            raise UserError(
                f"num_beams={beams}: rows are continued one token at a time, without beams; set num_beams=1, or use generate()."
            )
        split, prepared, self._folding = model.start(ids, memory, new_tokens)
        self.model, self.new_tokens = model, new_tokens
        self.read = Read.of(model, split.running_ids, prepared)
        self._whole = {"whole_prompt": ids} if split.context_ids.shape[1] else {}
        self._options = options | {"max_new_tokens": new_tokens}

    def config(self) -> GenerationConfig:
        """The generation configuration, complete as transformers needs it for making processors."""
        model: Any = self.model
        config, _ = model._prepare_generation_config(None, **self._options)
        running = self.read.ids
        if self._whole:
            config.update(**model._least_new_tokens(self._whole["whole_prompt"].shape[1], config))
        model._prepare_special_tokens(config, True, device=running.device)
        model._prepare_generated_length(config, True, True, "input_ids", running.shape[1], running)
        return config

    def processors(self, config: GenerationConfig, own: Sequence[LogitsProcessor]) -> LogitsProcessorList:
        """Everything that changes scores: the configuration's, and a row's own."""
        model: Any = self.model
        return model._get_logits_processor(
            generation_config=config,
            input_ids_seq_length=self.read.ids.shape[1],
            encoder_input_ids=self.read.ids,
            logits_processor=LogitsProcessorList(own),
            device=self.read.ids.device,
            model_kwargs=self._whole,
        )

    def folding(self) -> Folding | None:
        """What folds a row's text into its memory; each row has its own."""
        return None if self._folding is None else self._folding.repeat_interleave(1)


class Row:
    """A text that is being continued.

    ids     (1, …) running text of the prompt, and the new tokens
    tokens  number of new tokens
    ended   it has all its tokens, or failed
    error   why it failed
    stale   its cache is invalid, because text was folded: it has to be read again
    """

    def __init__(
        self,
        begun: Begun,
        listener: Listener,
        processors: Sequence[LogitsProcessor] = (),
        seed: int | None = None,
    ):
        """
        Args:
            processors: change scores of this row alone, before those of the configuration that sample.
            seed: of its random numbers; None for a random one.
        """
        self.model, self.listener, self.read = begun.model, listener, begun.read
        self.ids, self.tokens, self.most = begun.read.ids, 0, begun.new_tokens
        self.ended, self.stale = False, False
        self.error: Exception | None = None
        config = begun.config()
        self._processors, self._samples = begun.processors(config, processors), bool(config.do_sample)
        self._ends = set() if config._eos_token_tensor is None else set(config._eos_token_tensor.tolist())
        self._folding = begun.folding()
        self._generator = torch.Generator(self.ids.device)
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)

    @property
    def running(self) -> Tensor:
        """(1, n) its running text; the last token was not run yet."""
        return self.ids if self._folding is None else self._folding.ids

    def begin(self) -> None:
        """Choose the first token after what was read."""
        self.take(self.read.logits)

    def read_again(self) -> None:
        """Read the running text again, because its cache has become invalid, and choose the next token."""
        try:
            memory = self.read.memory if self._folding is None else self._folding.prepared
            self.read, self.stale = Read.of(self.model, self.running, memory), False
        except Exception as error:
            self.fail(error)
        else:
            self.begin()

    def take(self, logits: Tensor) -> None:
        """Choose the next token by logits (1, V)."""
        try:
            ids, scores = cast(torch.LongTensor, self.ids), logits.to(copy=True, dtype=torch.float32)
            scores = self._processors(ids, cast(torch.FloatTensor, scores))
            if self._samples:
                token = torch.multinomial(softmax(scores, -1), 1, generator=self._generator)
            else:
                token = scores.argmax(-1, keepdim=True)
            cached = self.running.shape[1]
            self.ids, self.tokens = torch.cat([self.ids, token], 1), self.tokens + 1
            stopped = self.listener.took(int(token))
            self.ended = stopped or int(token) in self._ends or self.tokens >= self.most
            if self.ended:
                self.listener.ended()
                return
            self.stale = self._folding is not None and self._folding.add(token)
            border = border_of(self.model)
            # As in `generate`: the cached keys were rotated with other frequencies.
            self.stale |= border is not None and cached <= border < self.running.shape[1]
        except Exception as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        self.error, self.ended = error, True


def border_of(model: MemoryGenerationMixin) -> int | None:
    return family_of(model.config.text_config).border(model.config.text_config)
