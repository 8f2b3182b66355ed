"""Reading a corpus: plan its shards, read those that are not committed, and put the index that makes them visible."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..memory.file import Storage
from ..utils.errors import UserError
from .engines import Engine
from .held import check_kept, whole
from .index import write_index
from .manifest import NAME, CorpusManifest, Part, Settings, Totals, read_manifest, read_part, write_manifest
from .objects import Place
from .reader import Outcome, load_for_reading, settings_of
from .sources import Shard, plan

# The names of what lies directly in a corpus.
OWN = {NAME, "parts", "shards", "index"}


@dataclass
class Report:
    """What a run did, and what the corpus holds now.

    shards_read, shards_known  shards read now, and found committed
    tokens_read  tokens read now. tokens, nbytes: of the corpus. seconds: of the whole run. processor_seconds: of all workers together
    unreadable   name and reason of each document that could not be read
    """

    shards: int = 0
    shards_read: int = 0
    shards_known: int = 0
    documents: int = 0
    tokens_read: int = 0
    tokens: int = 0
    nbytes: int = 0
    seconds: float = 0.0
    processor_seconds: float = 0.0
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Tokens a second of the run."""
        return self.tokens_read / self.seconds if self.seconds else 0.0

    def values(self) -> dict[str, Any]:
        """For --json, by the names that `sharedllm read` has for the same."""
        unreadable = [{"document": name, "reason": reason} for name, reason in self.unreadable]
        own = asdict(self) | {"bytes": self.nbytes, "tokens_per_second": round(self.rate, 1), "unreadable": unreadable}
        return {key: value for key, value in own.items() if key != "nbytes"}


def read_corpus(
    sources: Sequence[str],
    uri: str,
    model: str,
    engine: Engine,
    *,
    storage: Storage = "model",
    batch_tokens: int,
    shard_bytes: int,
    exclude: Sequence[str] = (),
    replace: bool = False,
    progress: Callable[[Outcome | None, int], None] = lambda _, __: None,
) -> Report:
    """Read documents into a corpus; what is committed there already stays and is not read again.

    Args:
        sources: see `sources.plan`. model: its name. engine: does the reading.
        replace: drop documents of the corpus that are not in the sources.
        progress: called with each shard's outcome, None at first, and the number of shards to read.

    Raises:
        UserError: a source, the model or the store can't be used; or the corpus there has other settings, or documents that
            the sources lack. What was committed stays, and the corpus is what it was until a run ends.
    """
    begun = time.perf_counter()
    place = Place(uri)
    place.sweep()
    loaded, tokenizer = load_for_reading(model)
    settings = settings_of(loaded, tokenizer, storage, batch_tokens, shard_bytes)
    del loaded, tokenizer  # workers have their own
    anew, held = read_manifest(place) is None, _begun(place, settings)
    try:
        shards, unreadable = plan(sources, shard_bytes, exclude)
        if not shards:
            reason = unreadable[0][1] if unreadable else "it is empty"
            raise UserError(f"{', '.join(sources)} holds no document to read: {reason}")
    except UserError:
        _forgotten(place, anew)
        raise
    if not replace:
        check_kept(place, held, shards)
    known = whole(place, shards)
    left = [shard for shard in shards if shard.id not in known]
    report = Report(shards=len(shards), shards_known=len(known), unreadable=list(unreadable))
    progress(None, len(left))
    _read(engine, model, uri, settings, left, report, progress)
    parts = _committed(place, shards, known)
    report.unreadable += [failure for part in parts for failure in part.failed]
    totals = Totals(
        sum(len(part.documents) for part in parts),
        sum(part.tokens for part in parts),
        sum(part.blocks.nbytes for part in parts if part.blocks is not None),
        len(report.unreadable),
    )
    index = write_index(place, parts)
    if index is None:
        _forgotten(place, anew)
        reasons = "; ".join(reason for _, reason in report.unreadable[:3])
        raise UserError(f"{', '.join(sources)} holds no document that can be read: {reasons}")
    write_manifest(place, CorpusManifest(held.settings, index, totals))
    report.documents, report.tokens, report.nbytes = totals.documents, totals.tokens, totals.nbytes
    report.seconds = time.perf_counter() - begun
    return report


def _begun(place: Place, settings: Settings) -> CorpusManifest:
    """The corpus to go on with, begun if there is none.

    Raises:
        UserError: it has other settings, or what is there is no corpus.
    """
    held = read_manifest(place)
    if held is None:
        others = [name for name in sorted(place.names("") - OWN) if not name.startswith(".")]
        if others:
            raise UserError(f"{place.uri} is no corpus, and holds {others[0]}: choose another folder.")
        held = CorpusManifest(settings)
        write_manifest(place, held)
    settings.check(held.settings, place.uri)
    return held


def _forgotten(place: Place, anew: bool) -> None:
    """Take back that a corpus was begun: nothing of it can be asked, nor if the same is read again."""
    if anew:
        place.remove(NAME)


def _read(
    engine: Engine,
    model: str,
    uri: str,
    settings: Settings,
    shards: list[Shard],
    report: Report,
    progress: Callable[[Outcome | None, int], None],
) -> None:
    outcomes: Iterable[Outcome] = engine(model, uri, settings, shards) if shards else ()
    for outcome in outcomes:
        if outcome.error:
            raise UserError(
                f"{outcome.error} {report.shards_read:,} of {len(shards):,} shards are committed; the same command does the rest."
            )
        report.shards_read += 1
        report.tokens_read += outcome.tokens
        report.processor_seconds += outcome.seconds
        progress(outcome, len(shards))


def _committed(place: Place, shards: Sequence[Shard], known: dict[str, Part]) -> list[Part]:
    """
    Args:
        known: parts that need not be read.

    Raises:
        UserError: a shard was not read, or its part is missing or damaged.
    """
    parts = [known.get(shard.id) or read_part(place, shard.id) for shard in shards]
    lost = sum(part is None for part in parts)
    if lost:
        raise UserError(
            f"{lost} of {len(shards)} shards are not in {place.uri}: run the same command again, which reads those."
        )
    return [part for part in parts if part is not None]
