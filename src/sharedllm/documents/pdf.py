"""PDF by page, with pypdfium2, the engine of a browser."""

import re
from pathlib import Path

from ..utils.errors import UserError
from .extract import Extract, Kind, Part, library, numbered

SIGNATURE = b"%PDF-"
# A line that is at least this share of a page's long lines is wrapped: its paragraph goes on in the next line.
WRAPPED = 0.75
_BULLET = re.compile(r"\s*([-–•*◦▪·]|\(?\w{1,3}[.)])\s")


def extract(path: Path) -> Extract:
    """
    Raises:
        UserError: it needs a password, is damaged, or has no text, as a scan.
    """
    pdfium = library("pypdfium2", path)
    try:
        document = pdfium.PdfDocument(path)
    except pdfium.PdfiumError as error:
        if "password" in str(error).lower():
            raise UserError(f"{path} is locked: it needs a password; save it without one.") from None
        raise UserError(f"{path} is damaged: it can't be opened as a PDF; get or export it again.") from None
    try:
        title = document.get_metadata_dict().get("Title", "")
        pages, count = [], len(document)
        for number in range(1, count + 1):
            text = paragraphs(_text(pdfium, document, number, path))
            if text.strip():
                pages.append(Part(text.rstrip("\n") + "\n\n", f"page {number}"))
    finally:
        document.close()
    if not pages:
        raise UserError(
            f"{path} has no text on its {numbered('page', 1, count) if count < 2 else f'{count} pages'}, as a scan has: "
            "make its text readable with OCR first, for instance with ocrmypdf."
        )
    return Extract(pages, " ".join(title.split()))


def _text(pdfium, document, number: int, path: Path) -> str:
    try:
        page = document[number - 1]
        try:
            text = page.get_textpage()
            try:
                return text.get_text_bounded()
            finally:
                text.close()
        finally:
            page.close()
    except pdfium.PdfiumError:
        raise UserError(f"{path} is damaged: its page {number} can't be read; get or export it again.") from None


def paragraphs(text: str) -> str:
    """The text of a page with the lines of its paragraphs joined, and words that were divided at the end of a line."""
    # PDFium writes U+FFFE or U+0002 for a hyphen that only divides a word.
    text = re.sub(r"[\ufffe\x02]\s*\r?\n?", "", text.replace("\r\n", "\n"))
    text = text.replace("\0", "")
    lines = [line.rstrip() for line in text.split("\n")]
    lengths = sorted(len(line) for line in lines if line)
    long = lengths[int(0.9 * (len(lengths) - 1))] if lengths else 0
    joined: list[str] = []
    wrapped = False
    for line in lines:
        if wrapped and line and not _BULLET.match(line):
            joined[-1] += " " + line.lstrip()
        else:
            joined.append(line)
        wrapped = len(line) >= max(40, WRAPPED * long)
    return "\n".join(joined)


PDF = Kind("PDF", (".pdf",), extract, lambda path, head: SIGNATURE in head[:1024])
