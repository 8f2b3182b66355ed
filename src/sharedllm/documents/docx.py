"""Word documents by section: mammoth turns them into HTML with headings, lists, tables and footnotes."""

import logging
from pathlib import Path

from ..utils.errors import UserError
from .extract import Extract, Kind, library
from .html import parts_of
from .numbering import with_numbers
from .package import COMPOUND, holds, office_title, package


def extract(path: Path) -> Extract:
    """
    Raises:
        UserError: it needs a password, is damaged, or has no text.
    """
    with path.open("rb") as file:
        if file.read(len(COMPOUND)) == COMPOUND:
            raise UserError(f"{path} is locked: it needs a password, or is an old .doc; save it as .docx without one.")
    mammoth = library("mammoth", path)
    logging.getLogger("mammoth").setLevel(logging.CRITICAL)
    with package(path) as members:
        title = office_title(members, path)
        numbered = with_numbers(members, path)
    try:
        with numbered or path.open("rb") as file:
            markup = mammoth.convert_to_html(file, convert_image=mammoth.images.img_element(lambda image: {})).value
    except Exception as error:  # from mammoth, zipfile or the XML parser: there is no common class
        raise UserError(f"{path} is damaged: {str(error) or type(error).__name__}; save it again.") from None
    _, parts = parts_of(markup, ordered="- " if numbered is None else "")
    if not parts:
        raise UserError(f"{path} has no text: leave it out, or make the text of its pictures readable with OCR.")
    return Extract(parts, title)


DOCX = Kind("DOCX", (".docx", ".docm", ".dotx"), extract, lambda path, head: holds(path, head, "word/document.xml"))
