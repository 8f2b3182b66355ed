"""What every retriever does, whatever library it is for: opens a memory, and finds the pieces that a question needs."""

import threading
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..answering.ask import checked_score
from ..answering.retrieve import Passage, retrieve
from ..causal_lm import SharedLLMForCausalLM
from ..loading import load_shared
from ..memory.fingerprint import tokenizer_fingerprint
from ..memory.interface import Memory
from ..memory.segments import Source, segments_of
from ..store import is_memory, look, open_memory
from ..utils.checkpoints import load_tokenizer
from ..utils.errors import UserError, as_path, at_least_one, named_type

# Models and indexes are not made for several threads at once, and libraries ask from several.
_ONE_AT_A_TIME = threading.Lock()


class Finder:
    """Finds pieces of one memory. A memory on disk that another process changes is opened again."""

    def __init__(
        self,
        memory: Source | str | Path,
        model: SharedLLMForCausalLM | str | Path = "tiny",
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        k: int | None = None,
        budget: int | None = None,
        score: str | None = None,
    ):
        """
        Args:
            memory: a memory's path, or one or more opened memories; every token must be kept.
            model: the model that read it, or its name. tokenizer: needed if `model` is no name.
            k: most pieces of a question; default: as many as the budget holds.
            budget, score: see `answering.retrieve.retrieve`.

        Raises:
            UserError: there is no such memory or model, the memory is another model's or does not hold every token, or
                an option is impossible.
        """
        self.k = None if k is None else at_least_one("k", k)
        self.budget = None if budget is None else at_least_one("budget", budget)
        self._path = as_path("memory", memory) if isinstance(memory, str | Path) else None
        # A wrong name is reported before a model is loaded.
        self._state = None if self._path is None else _state(self._path)
        reads = "" if self._path is None else look(self._path).fingerprint
        self.model, self.tokenizer = loaded(model, tokenizer, reads)
        self.score = checked_score(self.model.config, score)
        self._source = self._checked(memory if not isinstance(memory, str | Path) else self._open(Path(memory)))

    def find(self, question: str) -> list[Passage]:
        """The pieces that a question needs, best first.

        Raises:
            UserError: the question has no word or is too long, or a piece is longer than the budget.
        """
        with _ONE_AT_A_TIME:
            if self._path is not None and (state := _state(self._path)) != self._state:
                self._source, self._state = self._checked(self._open(self._path)), state
            limits = {"budget": self.budget, "score": self.score, "most": self.k}
            return retrieve(self.model, self.tokenizer, self._source, question, **limits)

    def _open(self, path: Path) -> Memory:
        return open_own(self.model, self.tokenizer, path)

    def _checked(self, source: Source) -> Source:
        segments = segments_of(source)
        if len(segments[0].lengths) != 1:
            raise UserError(f"the memory holds {len(segments[0].lengths)} texts: pass one of them, index_select([0]).")
        self.model.model.check_fingerprint(segments[0].fingerprint)
        return source


def _state(path: Path) -> Any:
    """Two equal states mean that the memory has not changed in between.

    Raises:
        UserError: it is no memory.
    """
    if not is_memory(path):
        raise UserError(
            f"memory={str(path)!r} is no memory: make one with `sharedllm read FILE -o NAME.memory --keep-all`."
        )
    return look(path).state


def open_own(model: SharedLLMForCausalLM, tokenizer: PreTrainedTokenizerBase, path: Path) -> Memory:
    """Open a memory on disk.

    Raises:
        UserError: as `open_memory`; it was made by another model or tokenizer.
    """
    model.model.check_fingerprint(look(path).fingerprint)
    return open_memory(path, tokenizer=tokenizer_fingerprint(tokenizer))


def loaded(
    model: SharedLLMForCausalLM | str | Path, tokenizer: PreTrainedTokenizerBase | None, reads: str = ""
) -> tuple[SharedLLMForCausalLM, PreTrainedTokenizerBase]:
    """A model and its tokenizer, loaded if `model` is a name. reads: see `load_shared`.

    Raises:
        UserError: it can't be loaded, is no SharedLLM, or its tokenizer is missing.
    """
    if isinstance(model, str | Path):
        return load_shared(str(model), reads), tokenizer or load_tokenizer(str(model))
    if not isinstance(model, SharedLLMForCausalLM):
        raise UserError(f"model is {named_type(model)}: pass a SharedLLMForCausalLM, or its name.")
    if tokenizer is None:
        raise UserError("tokenizer is missing: pass the tokenizer of the model, or the model's name as model.")
    return model, tokenizer
