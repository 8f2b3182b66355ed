"""Documents that are ZIP files with XML in them: those of Office and OpenDocument, and EPUB."""

import posixpath
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

from ..utils.errors import UserError

SIGNATURE = b"PK\x03\x04"
# The container of old Office files, and of new ones with a password.
COMPOUND = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
RELATIONS = (
    "http://schemas.openxmlformats.org/officeDocument/2006/relationships",
    "http://purl.oclc.org/ooxml/officeDocument/relationships",
)
_TITLE = "{http://purl.org/dc/elements/1.1/}title"
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
                fix = (
                    "save its sheets as .csv" if large.filename.startswith("xl/") or _is_sheets(members) else "split it"
                )
                raise UserError(
                    f"{path} has a part of {large.file_size:,} bytes, {large.filename}: more than {MOST:,} can't be read; {fix}."
                )
            yield members
    except UserError:
        raise
    except NotImplementedError as error:
        raise UserError(f"{path} is packed in a way that can't be read: {error}; save it again.") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply to be read: save it again, or export it as PDF.") from None
    except RuntimeError:  # zipfile's word for a password
        raise UserError(f"{path} is locked: it needs a password; save it without one.") from None
    except _DAMAGED as error:
        raise UserError(f"{path} is damaged: {' '.join(str(error).split())}; get or save it again.") from None


def _is_sheets(members: zipfile.ZipFile) -> bool:
    """Whether an OpenDocument is a spreadsheet; its sheets are one part."""
    return "mimetype" in members.namelist() and b"spreadsheet" in members.read("mimetype")[:100]


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


def local(element: ElementTree.Element) -> str:
    """The name of an element without its namespace, of which there are several for the same."""
    return element.tag.rpartition("}")[2]


def attribute(element: ElementTree.Element, name: str) -> str:
    """An attribute in whatever namespace; "" if there is none."""
    return next((value for key, value in element.attrib.items() if key.rpartition("}")[2] == name), "")


def relations(members: zipfile.ZipFile, name: str, path: Path) -> dict[str, tuple[str, str]]:
    """What a part of an Office document refers to: id → (kind of the relation, name of the other part). "" is the document itself.

    Raises:
        UserError: the list of them is no XML.
    """
    folder, file = posixpath.split(name)
    listed = posixpath.join(folder, "_rels", f"{file}.rels")
    if listed not in members.namelist():
        return {}
    found = {}
    for relation in tree(members, listed, path).iterfind("{*}Relationship"):
        if relation.get("TargetMode") != "External":
            target = posixpath.normpath(posixpath.join("/", folder, unquote(relation.get("Target", "")))).lstrip("/")
            found[relation.get("Id", "")] = (posixpath.basename(relation.get("Type", "")), target)
    return found


def related(element: ElementTree.Element, name: str = "id") -> str:
    """The id of a relation that an element names; "" if it names none. Two standards have two namespaces for it."""
    for namespace in RELATIONS:
        if f"{{{namespace}}}{name}" in element.attrib:
            return element.attrib[f"{{{namespace}}}{name}"]
    return ""


def office_title(members: zipfile.ZipFile, path: Path) -> str:
    """The title of a Word document, a workbook or slides; "" if it has none.

    Raises:
        UserError: the part that has it is no XML.
    """
    if "docProps/core.xml" not in members.namelist():
        return ""
    return " ".join((tree(members, "docProps/core.xml", path).findtext(_TITLE) or "").split())
