"""OpenDocument texts by section: headings, lists, tables and footnotes, as in a Word document."""

from pathlib import Path

from ..utils.errors import UserError
from .extract import Extract, Kind
from .html import parts_of
from .numbers_odf import lists_of
from .odf import Markup, odf_title, of_type, roots
from .package import package

TEXT = "application/vnd.oasis.opendocument.text"


def extract(path: Path) -> Extract:
    """
    Raises:
        UserError: it needs a password, is damaged, or has no text.
    """
    with package(path) as members:
        content, styles = roots(members, path)
        title = odf_title(members, path)
        body = content.find("{*}body/{*}text")
        if body is None:
            raise UserError(f"{path} is damaged, or no text document: content.xml has no text; save it as .odt again.")
        markup = Markup(lists_of(content, styles))
        blocks = list(markup.blocks(body))
        notes = [f'<li id="footnote-{number}">{note}</li>' for number, note in enumerate(markup.notes, 1)]
        _, parts = parts_of("".join([*blocks, "<ol>", *notes, "</ol>"]), ordered="")
    if not parts:
        raise UserError(f"{path} has no text: leave it out, or make the text of its pictures readable with OCR.")
    return Extract(parts, title)


ODT = Kind("ODT", (".odt", ".ott"), extract, lambda path, head: of_type(path, head, TEXT, f"{TEXT}-master"))
