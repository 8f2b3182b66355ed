"""Opening a corpus by its URI or folder, for `store.opening`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..memory.interface import Memory
from ..store.opening import Label
from ..utils.errors import ITS_MODEL, UserError
from ..utils.files import is_uri
from .checking import lost
from .corpus import Corpus
from .index import read_index
from .manifest import NAME, CorpusManifest, read_manifest
from .objects import Place


@dataclass(frozen=True)
class _Kind:
    """An entry of `store.opening.ELSEWHERE`."""

    recognised: Callable[[str | Path], bool]
    look: Callable[[str | Path], Label]
    open: Callable[..., Memory]
    check: Callable[[str | Path, Callable[[int, int], None]], Iterator[str]]


def recognised(name: str | Path) -> bool:
    """Whether a name is a corpus's: any URI, or a folder with its manifest."""
    return is_uri(name) or (Path(name) / NAME).is_file()


def look(name: str | Path) -> Label:
    """
    Raises:
        UserError: as `open_corpus`, but only the manifest is read.
    """
    manifest = _manifest(Place(name))
    settings = manifest.settings
    state = manifest.index.sha256 if manifest.index is not None else ""
    return Label("corpus", settings.fingerprint, settings.tokenizer, settings.storage, state)


def open_corpus(
    name: str | Path,
    *,
    fingerprint: str | None = None,
    tokenizer: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Corpus:
    """Open a corpus to be asked. Arguments are those of `store.open_memory`.

    Raises:
        UserError: there is none, or its first reading has not ended; it is another model's; or it can't be reached.
    """
    place = Place(name)
    manifest = _manifest(place)
    for field, given in (("fingerprint", fingerprint), ("tokenizer", tokenizer)):
        found = getattr(manifest.settings, field)
        if given is not None and found != given:
            what = "by another model" if field == "fingerprint" else "with another tokenizer"
            raise UserError(
                f"{place.uri} was made {what}: {field} {found} in it, {given} here; {ITS_MODEL}, or read the corpus again."
            )
    assert manifest.index is not None
    corpus = Corpus(place, manifest, read_index(place, manifest.index))
    if progress is not None:
        progress(corpus.tokens, corpus.tokens)
    return corpus


def check(name: str | Path, progress: Callable[[int, int], None]) -> Iterator[str]:
    """See `store.opening.check`."""
    return lost(open_corpus(name), progress)


def _manifest(place: Place) -> CorpusManifest:
    manifest = read_manifest(place)
    if manifest is None:
        raise UserError(f"{place.uri} holds no corpus: check the address, or make one with `sharedllm read-corpus`.")
    if manifest.index is None:
        raise UserError(
            f"{place.uri} is not read to its end: run the same `sharedllm read-corpus` again, which does the rest."
        )
    return manifest


KIND = _Kind(recognised, look, open_corpus, check)
