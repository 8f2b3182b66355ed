"""What a replica loads: the model and the memories, by their names. It is made once, where all of it was checked."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from ...loading import load_shared
from ...memory.fingerprint import tokenizer_fingerprint
from ...store.opening import open_memory
from ...utils.checkpoints import load_tokenizer
from ..memories import Memories
from ..service import Service
from ..worker import Worker

# The front refuses what may not wait; a replica takes what it is given.
_WAITING = 2**16


@dataclass(frozen=True)
class Plan:
    """model: folder or hub id; name: of it, for clients. memories: paths and URIs. open: how many of them a replica holds open. threads: of the
    processor, of each replica. local: no other machine may reach them. Others: see `Service` and `Worker`."""

    model: str
    name: str
    memories: tuple[str, ...]
    folder: str | None
    budget: int
    score: str | None
    seconds: float
    most_characters: int
    most_upload: int
    batch: int
    threads: int = 1
    open: int = 8
    local: bool = False

    def service(self) -> Service:
        """Load all of it.

        Raises:
            UserError: it is no more what it was when the plan was made.
        """
        torch.set_num_threads(self.threads)
        model, tokenizer = load_shared(self.model), load_tokenizer(self.model)
        marks = {"fingerprint": model.fingerprint(), "tokenizer": tokenizer_fingerprint(tokenizer)}
        # Every byte is compared here, too: a replica leaves out what is damaged, as the server does that was started.
        opens = partial(open_memory, **marks)
        memories = Memories(self.memories, opens, folder=Path(self.folder) if self.folder else None, closed=True)
        return Service(
            model,
            tokenizer,
            self.name,
            memories,
            Worker(_WAITING, self.batch),
            budget=self.budget,
            score=self.score,
            seconds=self.seconds,
            most_upload=self.most_upload,
            most_characters=self.most_characters,
        )
