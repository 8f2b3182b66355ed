"""OpenDocument presentations by slide."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

from .extract import Extract, Kind
from .html import parts_of
from .numbers_odf import Lists
from .odf import Markup, document_of, of_type
from .package import attribute, local, package
from .slides import Slide, extract_of

SLIDES = "application/vnd.oasis.opendocument.presentation"
# What is the same on every slide.
_REPEATED = {"header", "footer", "date-time", "page-number"}


def extract(path: Path) -> Extract:
    """
    Raises:
        UserError: it needs a password, is damaged, or has no text.
    """
    with package(path) as members:
        document = document_of(members, path, "presentation", "presentation", "slides", ".odp")
        hidden = {
            attribute(style, "name")
            for style in document.content.iter()
            if local(style) == "style" and any(attribute(each, "visibility") == "hidden" for each in style)
        }
        pages = document.body.iterfind("{*}page")
        return extract_of((_slide(page, document.lists, hidden) for page in pages), document.title, path)


def _slide(page: Element, lists: Lists, hidden: set[str]) -> Slide:
    shapes = [shape for shape in page if local(shape) != "notes" and _is_said(shape)]
    titles = [shape for shape in shapes if attribute(shape, "class") == "title"]
    rest = [shape for shape in shapes if attribute(shape, "class") != "title"]
    notes = [shape for part in page.iterfind("{*}notes") for shape in part if attribute(shape, "class") == "notes"]
    texts = (_text(some, lists) for some in (titles, rest, filter(_is_said, notes)))
    return Slide(*texts, hidden=attribute(page, "style-name") in hidden)


def _is_said(shape: Element) -> bool:
    """Whether a shape is one of the slide's own. An empty one may hold what the program asks for: "Click to add text"."""
    return attribute(shape, "class") not in _REPEATED and attribute(shape, "placeholder") != "true"


def _text(shapes: Iterable[Element], lists: Lists) -> str:
    def markup() -> Iterator[str]:
        made = Markup(lists)
        for shape in shapes:
            yield from made.block(shape)

    return "".join(part.text for part in parts_of("".join(markup()), ordered="")[1])


ODP = Kind("ODP", (".odp", ".otp"), extract, lambda path, head: of_type(path, head, SLIDES))
