"""OpenDocument: what its texts and slides share. Their XML becomes markup, which is read as a page is."""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from xml.etree.ElementTree import Element

from ..utils.errors import UserError
from .numbers_odf import Lists, lists_of
from .package import SIGNATURE, attribute, holds, local, tree

CONTENT, STYLES, META = "content.xml", "styles.xml", "meta.xml"
_MANIFEST = "META-INF/manifest.xml"
# What a document says beside its text, or no longer says, and what a program keeps in it.
_LEFT_OUT = set(
    "tracked-changes annotation annotation-end table-of-content forms variable-decls sequence-decls user-field-decls dde-connection-decls "
    "alphabetical-index-auto-mark-file ruby-text object object-ole image plugin event-listeners notes shapes script "
    "sender-initials thumbnail tracked-change hidden-text bibliography-source illustration-index-source"
    .split()
)  # fmt: skip
# What names or describes a picture; a field of the text has one of these names, too.
_ABOUT_PICTURES = {
    "{urn:oasis:names:tc:opendocument:xmlns:svg-compatible:1.0}title",
    "{urn:oasis:names:tc:opendocument:xmlns:svg-compatible:1.0}desc",
}
_SHAPES = set(
    "frame text-box g custom-shape rect ellipse circle line connector polygon polyline path regular-polygon measure caption".split()
)
# A space that is repeated more often is no text.
_MOST_REPEATS = 1000


def of_type(path: Path, head: bytes, *types: str) -> bool:
    """Whether a file is an OpenDocument of one of these types, or a template for it."""
    if not head.startswith(SIGNATURE) or not holds(path, head, "mimetype"):
        return False
    try:
        with zipfile.ZipFile(path) as members, members.open("mimetype") as member:
            said = member.read(100).decode("ascii", "replace").strip().removesuffix("-template")
    except (OSError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile, EOFError):
        return False
    return said in types


def check_unlocked(members: zipfile.ZipFile, path: Path) -> None:
    """
    Raises:
        UserError: it is encrypted.
    """
    names = members.namelist()
    locked = "encrypted-package" in names
    if not locked and _MANIFEST in names:
        locked = any(local(each) == "encryption-data" for each in tree(members, _MANIFEST, path).iter())
    if locked:
        raise UserError(f"{path} is locked: it needs a password; save it without one.")


def odf_title(members: zipfile.ZipFile, path: Path) -> str:
    """The title of a document; "" if it has none.

    Raises:
        UserError: the part that has it is no XML.
    """
    if META not in members.namelist():
        return ""
    return " ".join((tree(members, META, path).findtext(".//{http://purl.org/dc/elements/1.1/}title") or "").split())


@dataclass(frozen=True)
class Document:
    """body: of the content. lists: their numbers, and those of headings."""

    body: Element
    content: Element
    lists: Lists
    title: str


def document_of(members: zipfile.ZipFile, path: Path, body: str, kind: str, held: str, suffix: str) -> Document:
    """
    Args:
        body: the element of the content that has the text. kind, held, suffix: what it is, what it holds and its name's end, for messages.

    Raises:
        UserError: it is encrypted, a part is missing or no XML, or it is of another kind.
    """
    check_unlocked(members, path)
    content = tree(members, CONTENT, path)
    styles = tree(members, STYLES, path) if STYLES in members.namelist() else Element("none")
    title = odf_title(members, path)
    found = content.find(f"{{*}}body/{{*}}{body}")
    if found is None:
        raise UserError(f"{path} is damaged, or no {kind}: content.xml has no {held}; save it as {suffix} again.")
    return Document(found, content, lists_of(content, styles), title)


@dataclass
class Markup:
    """Makes markup of blocks, in order. `notes` are the footnotes and endnotes that were met; the caller puts them at the end."""

    lists: Lists
    notes: list[str] = field(default_factory=list)

    def blocks(self, element: Element) -> Iterator[str]:
        """The markup of what an element holds."""
        for child in element:
            yield from self.block(child)

    def block(self, element: Element) -> Iterator[str]:
        kind = local(element)
        if kind in _LEFT_OUT or element.tag in _ABOUT_PICTURES:
            return
        if kind in ("p", "h"):
            yield from self._paragraph(element, kind)
        elif kind == "list":
            yield from self._list(element)
        elif kind == "table":
            yield "<table>"
            yield from self._rows(element)
            yield "</table>"
        else:
            yield from self.blocks(element)

    def _paragraph(self, element: Element, kind: str, label: str = "") -> Iterator[str]:
        """A paragraph or heading, and after it what is anchored in it, as a text box is."""
        anchored: list[Element] = []
        text = self._inline(element, anchored)
        if kind == "h":
            level = attribute(element, "outline-level")
            level = int(level) if level.isdecimal() and len(level) < 3 else 1
            label = label or (self.lists.heading(level) if text.strip() else "")
            tag = f"h{min(max(level, 1), 6)}"
        else:
            tag = "p"
        yield f"<{tag}>{escape(label)}{text}</{tag}>"
        for each in anchored:
            yield from self.block(each)

    def _inline(self, element: Element, anchored: list[Element]) -> str:
        """The text in a paragraph. Only spans hold others, some levels deep."""
        pieces = [escape(element.text or "")]
        for child in element:
            kind = local(child)
            if kind == "s":
                count = attribute(child, "c")
                pieces.append(" " * min(int(count), _MOST_REPEATS) if count.isdecimal() and len(count) < 9 else " ")
            elif kind == "tab":
                pieces.append("\t")
            elif kind == "line-break":
                pieces.append("<br>")
            elif kind == "note":
                pieces.append(self._note(child))
            elif kind in _SHAPES:
                anchored.append(child)
            elif kind not in _LEFT_OUT and child.tag not in _ABOUT_PICTURES:
                pieces.append(self._inline(child, anchored))
            pieces.append(escape(child.tail or ""))
        return "".join(pieces)

    def _note(self, note: Element) -> str:
        """The mark of a note."""
        body = next((child for child in note if local(child) == "note-body"), None)
        if body is None:
            return ""
        at = len(self.notes)
        self.notes.append("")
        self.notes[at] = "".join(self.blocks(body))
        return f"[{at + 1}]"

    def _list(self, element: Element) -> Iterator[str]:
        self.lists.enter(
            attribute(element, "style-name"),
            attribute(element, "continue-numbering") == "true" or bool(attribute(element, "continue-list")),
        )
        for item in element:
            yield from self._item(item)
        self.lists.leave()

    def _item(self, item: Element) -> Iterator[str]:
        children = list(item)
        first = local(children[0]) if children else ""
        if local(item) != "list-item" or first not in ("p", "h"):
            yield from self.blocks(item)
            return
        start = attribute(item, "start-value")
        label = self.lists.item(int(start) if start.isdecimal() and len(start) < 10 else None)
        if first == "h":
            yield from self._paragraph(children[0], "h", label or "")
        else:
            kind = "ul" if label is None else "ol"
            yield f"<{kind}><li>"
            yield from self._paragraph(children[0], "p", label or "")
            yield f"</li></{kind}>"
        for child in children[1:]:
            yield from self.block(child)

    def _rows(self, element: Element) -> Iterator[str]:
        """The rows of a table, also those in groups. A repeated one is written once: only spreadsheets have values in them."""
        for child in element:
            if local(child) == "table-row":
                yield "<tr>"
                for cell in child:
                    if local(cell) == "table-cell":
                        yield "<td>"
                        yield from self.blocks(cell)
                        yield "</td>"
                yield "</tr>"
            elif local(child) not in _LEFT_OUT:
                yield from self._rows(child)
