"""From an uploaded file to its text and the places in it, by `documents`."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..documents import open_document
from ..documents.places import Origin
from ..utils.errors import UserError
from .errors import ServingError, invalid

# Longest file name on disk, in bytes; a longer name keeps only its suffix there.
_LONGEST = 200


@dataclass(frozen=True)
class Upload:
    """The text of a file; origin: its hash, title and places."""

    text: str
    origin: Origin


def opened(name: str, data: bytes) -> Upload:
    """
    Args:
        name: of the document, whose suffix tells its kind where its bytes do not.

    Raises:
        ServingError: it is empty, damaged, locked, or of a kind that can't be read.
    """
    if not data.strip():
        raise invalid("document", f"{name} is empty: there is nothing to read.")
    last = Path(name).name
    # ".." is no name of a file.
    last = last if last.strip(".") else "document"
    last = last if len(last.encode()) <= _LONGEST else f"document{Path(name).suffix[:20]}"
    with tempfile.TemporaryDirectory(prefix="sharedllm-") as folder:
        path = Path(folder) / last
        path.write_bytes(data)
        try:
            document = open_document(str(path))
            return Upload(document.text(), document.origin)
        except UserError as error:
            raise ServingError(415, str(error).replace(str(path), name), "document") from None


def check_name(name: str) -> None:
    """
    Raises:
        ServingError: a name that no document can have.
    """
    if not name.strip() or len(name) > 512 or not name.isprintable():
        raise invalid(
            "document", f"document={name[:40]!r} is no name of a document: use 1 to 512 printable characters."
        )
