"""What runs the readers of a corpus: this process, or the workers of a Ray cluster. Results are the same."""

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..utils.clusters import connect
from ..utils.errors import UserError
from .manifest import Settings
from .reader import Outcome, Reader
from .sources import Shard, Span

# Reads shards with a model, by its name, into the corpus at a URI; gives the outcomes in any order.
Engine = Callable[[str, str, Settings, Sequence[Shard]], Iterator[Outcome]]
# How often a shard is given to another worker after one died with it.
_RETRIES = 8


@dataclass(frozen=True)
class OneProcess:
    """Reads one shard after the other, here. threads: of the processor."""

    threads: int = 1

    def __call__(self, model: str, uri: str, settings: Settings, shards: Sequence[Shard]) -> Iterator[Outcome]:
        reader = Reader(model, uri, settings, self.threads)
        for shard in shards:
            yield _outcome(reader, shard)


@dataclass(frozen=True)
class Workers:
    """A pool of Ray actors, each with the model and a share of a processor; Ray Data gives them shards. If a worker or its
    machine dies, its shard is given to another one.

    count     workers. threads: of the processor, for each. gpus: of each; may be a fraction
    address   of a running cluster, "auto" for the one that this machine belongs to; "" starts one here, for this command
    store_mb  size of Ray's own store of objects on a cluster that is started here; only plans and outcomes pass through it
    """

    count: int
    threads: int = 1
    gpus: float = 0
    address: str = ""
    store_mb: int = 200

    def __call__(self, model: str, uri: str, settings: Settings, shards: Sequence[Shard]) -> Iterator[Outcome]:
        """
        Raises:
            UserError: Ray is not installed, or there is no cluster at the address.
        """
        ray, begun = connect(self.address, self.count * self.threads, self.store_mb)
        from ray.data import ActorPoolStrategy, DataContext

        context = DataContext.get_current()
        context.enable_progress_bars = False
        # A shard that kills its workers is left out, and the run says so at its end; all others are committed.
        context.max_errored_blocks = -1
        try:
            # As rows, because arguments of an actor that is started again must not lie in a store that died with its machine.
            rows = [{"shard": json.dumps(asdict(shard))} for shard in shards]
            data = ray.data.from_items(rows, override_num_blocks=len(shards))
            with warnings.catch_warnings():
                # Nothing else that Ray Data takes ends the retries of a shard that kills every worker.
                warnings.filterwarnings("ignore", "`ray_remote_args_fn` is deprecated")
                read = data.map(
                    _Worker,
                    fn_constructor_args=(model, uri, settings, self.threads),
                    compute=ActorPoolStrategy(size=min(self.count, len(shards)), max_tasks_in_flight_per_actor=2),
                    num_cpus=self.threads,
                    num_gpus=self.gpus or None,
                    ray_remote_args_fn=lambda: {"max_task_retries": _RETRIES},
                )
            for row in read.iter_rows():
                yield Outcome(**row)
        finally:
            if begun:
                ray.shutdown()


class _Worker:
    """An actor of the pool."""

    def __init__(self, model: str, uri: str, settings: Settings, threads: int):
        self.failed = ""
        try:
            self.reader = Reader(model, uri, settings, threads)
        except UserError as error:
            self.failed = str(error)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        content = json.loads(row["shard"])
        shard = Shard(content["id"], tuple(Span(**span) for span in content["spans"]), content["nbytes"])
        outcome = Outcome(shard.id, error=self.failed) if self.failed else _outcome(self.reader, shard)
        return vars(outcome)


def _outcome(reader: Reader, shard: Shard) -> Outcome:
    try:
        return reader.read(shard)
    except UserError as error:
        return Outcome(shard.id, error=str(error))
