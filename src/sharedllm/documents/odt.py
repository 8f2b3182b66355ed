"""OpenDocument texts by section: headings, lists, tables and footnotes, as in a Word document."""

from pathlib import Path

from ..utils.errors import UserError
from .extract import Extract, Kind
from .html import parts_of
from .odf import Markup, document_of, of_type
from .package import package

TEXT = "application/vnd.oasis.opendocument.text"


def extract(path: Path) -> Extract:
    """
    Raises:
        UserError: it needs a password, is damaged, or has no text.
    """
    with package(path) as members:
        document = document_of(members, path, "text", "text document", "text", ".odt")
        markup = Markup(document.lists)
        blocks = list(markup.blocks(document.body))
        notes = [f'<li id="footnote-{number}">{note}</li>' for number, note in enumerate(markup.notes, 1)]
        _, parts = parts_of("".join([*blocks, "<ol>", *notes, "</ol>"]), ordered="")
    if not parts:
        raise UserError(f"{path} has no text: leave it out, or make the text of its pictures readable with OCR.")
    return Extract(parts, document.title)


ODT = Kind("ODT", (".odt", ".ott"), extract, lambda path, head: of_type(path, head, TEXT, f"{TEXT}-master"))
