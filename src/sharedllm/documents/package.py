"""Documents that are ZIP files with XML in them: DOCX and EPUB."""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

from ..utils.errors import UserError

SIGNATURE = b"PK\x03\x04"
# A member that unpacks to more than this is no document's text, but an attack or a mistake.
MOST = 2**28
# What zipfile and the XML parser raise for damaged bytes.
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, EOFError, ElementTree.ParseError, LookupError, ValueError, OverflowError, struct.error
)  # fmt: skip


def holds(path: Path, head: bytes, member: str) -> bool:
    """Whether a file is a ZIP file with a member of this name."""
    if not head.startswith(SIGNATURE):
        return False
    try:
        with zipfile.ZipFile(path) as members:
            return member in members.namelist()
    except (*_DAMAGED, OSError, NotImplementedError):
        return False


@contextmanager
def package(path: Path) -> Iterator[zipfile.ZipFile]:
    """
    Raises:
        UserError: no ZIP file, or a damaged one; also where it is read within the context.
    """
    try:
        with zipfile.ZipFile(path) as members:
            large = next((m for m in members.infolist() if m.file_size > MOST), None)
            if large is not None:
                raise UserError(
                    f"{path} has a part of {large.file_size:,} bytes, {large.filename}: more than {MOST:,} can't be read."
                )
            yield members
    except UserError:
        raise
    except NotImplementedError as error:
        raise UserError(f"{path} is packed in a way that can't be read: {error}; save it again.") from None
    except RuntimeError:  # zipfile's word for a password
        raise UserError(f"{path} is locked: it needs a password; save it without one.") from None
    except _DAMAGED as error:
        raise UserError(f"{path} is damaged: {' '.join(str(error).split())}; get or save it again.") from None


def tree(members: zipfile.ZipFile, name: str, path: Path) -> ElementTree.Element:
    """The XML of a member. Entities that expand without end are refused by the parser.

    Raises:
        UserError: it is no XML.
    """
    raw = members.read(name)
    try:
        return ElementTree.fromstring(raw)
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise UserError(f"{path} is damaged: its part {name} is no XML, {error}; get or save it again.") from None
