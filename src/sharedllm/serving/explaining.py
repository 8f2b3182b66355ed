"""Explanations of the last answers: the data of `sharedllm explain`, of answers that were asked with `explain`."""

import threading
from collections import OrderedDict
from dataclasses import asdict
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..answering.ask import Answer
from ..causal_lm import SharedLLMForCausalLM
from ..explain.gathering import gather
from ..memory.segments import roots, segments_of
from ..utils.errors import clipped
from .answering import Answered, Read
from .errors import ServingError

# An answer to be explained holds the tokens that were read for it, so only the last ones are kept.
MOST = 16


def facts(read: Read, model: SharedLLMForCausalLM, tokenizer: PreTrainedTokenizerBase, name: str) -> dict[str, Any]:
    """Those of an answer, by what it was given over; see `explain.Facts`. Runs in the worker's thread. name: of the model."""
    answer = Answer(
        **vars(read.chosen), question=read.question, budget=read.budget, score=read.score, text=read.text,
        cut=read.cut, question_ids=read.running, answer_ids=read.ids, chunks=roots(segments_of(read.source), 0), seconds={},
    )  # fmt: skip
    return asdict(gather(model, tokenizer, answer, name))


class Explanations:
    """The last answers, by their ids."""

    def __init__(self):
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Read] = OrderedDict()

    def keep(self, name: str, answered: Answered) -> None:
        """Keep an answer that can be explained, and say so in the answer."""
        if answered.read is None:
            return
        answered.extra["explanation"] = name
        with self._lock:
            self._kept[name] = answered.read
            while len(self._kept) > MOST:
                self._kept.popitem(last=False)

    def __getitem__(self, name: str) -> Read:
        """
        Raises:
            ServingError: that answer is not kept.
        """
        with self._lock:
            if name not in self._kept:
                message = (
                    f"there is no explanation {clipped(name)}: ask again with explain=true; the last {MOST} are kept."
                )
                raise ServingError(404, message, "name")
            return self._kept[name]
