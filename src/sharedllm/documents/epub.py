"""E-books by chapter, with the standard library: the package's spine says which pages to read, its contents how they are called."""

import posixpath
from pathlib import Path
from urllib.parse import unquote
from zipfile import ZipFile

from ..utils.errors import UserError, clipped
from .extract import Extract, Kind, Part
from .html import decoded, parts_of
from .package import holds, package, tree

CONTAINER = "META-INF/container.xml"
_ROOT = ".//{urn:oasis:names:tc:opendocument:xmlns:container}rootfile"
_OPF = "{http://www.idpf.org/2007/opf}"
_TITLE = ".//{http://purl.org/dc/elements/1.1/}title"
_NCX = "{http://www.daisy.org/z3986/2005/ncx/}"
_XHTML = "{http://www.w3.org/1999/xhtml}"
# Fonts may be obfuscated; text that is encrypted can't be read.
_ENCRYPTED = "{http://www.w3.org/2001/04/xmlenc#}CipherReference"


def extract(path: Path) -> Extract:
    """
    Raises:
        UserError: it is damaged, protected against copying, or has no text.
    """
    with package(path) as members:
        opf_name = tree(members, CONTAINER, path).find(_ROOT)
        if opf_name is None:
            raise UserError(f"{path} is damaged: {CONTAINER} names no book; get it again.")
        name = opf_name.get("full-path", "")
        opf = tree(members, name, path)
        pages = _pages(opf, posixpath.dirname(name))
        _check_readable(members, pages, path)
        titles = _titles(members, opf, posixpath.dirname(name), path)
        parts: list[Part] = []
        number = 0
        for page in pages:
            if page not in members.namelist():
                continue
            _, texts = parts_of(decoded(members.read(page), path))
            text = "".join(part.text for part in texts).strip()
            if not text:
                continue
            number += 1
            heading = titles.get(page) or _first_heading(texts) or ""
            parts.append(Part(text + "\n\n", _chapter(number, heading)))
    if not parts:
        raise UserError(f"{path} has no text: its pages may be pictures; make their text readable with OCR first.")
    return Extract(parts, " ".join((opf.findtext(_TITLE) or "").split()))


def _chapter(number: int, heading: str) -> str:
    heading = " ".join(heading.split())
    return f'chapter "{clipped(heading, 60)}"' if heading else f"part {number}"


def _pages(opf, folder: str) -> list[str]:
    """Names of the pages in reading order."""
    manifest = {item.get("id"): item for item in opf.iter(f"{_OPF}item")}
    pages = []
    for reference in opf.iter(f"{_OPF}itemref"):
        item = manifest.get(reference.get("idref"))
        if item is not None and "nav" not in (item.get("properties") or "").split():
            pages.append(_join(folder, item.get("href", "")))
    return pages


def _join(folder: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(folder, unquote(link.partition("#")[0])))


def _check_readable(members: ZipFile, pages: list[str], path: Path) -> None:
    if "META-INF/encryption.xml" in members.namelist():
        locked = {unquote(r.get("URI", "")) for r in tree(members, "META-INF/encryption.xml", path).iter(_ENCRYPTED)}
        if locked & set(pages):
            raise UserError(f"{path} is locked: it is protected against copying; get a copy without protection.")


def _titles(members: ZipFile, opf, folder: str, path: Path) -> dict[str, str]:
    """Page → its title in the table of contents."""
    titles: dict[str, str] = {}
    for item in opf.iter(f"{_OPF}item"):
        name = _join(folder, item.get("href", ""))
        if name not in members.namelist():
            continue
        if "nav" in (item.get("properties") or "").split():
            for link in tree(members, name, path).iter(f"{_XHTML}a"):
                titles.setdefault(_join(posixpath.dirname(name), link.get("href", "")), "".join(link.itertext()))
        elif item.get("media-type") == "application/x-dtbncx+xml":
            for point in tree(members, name, path).iter(f"{_NCX}navPoint"):
                content, label = point.find(f"{_NCX}content"), point.findtext(f"{_NCX}navLabel/{_NCX}text")
                if content is not None and label:
                    titles.setdefault(_join(posixpath.dirname(name), content.get("src", "")), label)
    return titles


def _first_heading(parts: list[Part]) -> str:
    place = next((part.place for part in parts if part.place), "")
    return place.removeprefix('section "').removesuffix('"')


EPUB = Kind("EPUB", (".epub",), extract, lambda path, head: holds(path, head, CONTAINER))
