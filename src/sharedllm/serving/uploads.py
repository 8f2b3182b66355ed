"""From an uploaded file to its text: the one place where files of other kinds than text are turned into text."""

import codecs

from .errors import ServingError, invalid

# How files of well-known kinds begin, so that the error names what was sent.
_KINDS = {
    b"%PDF": "a PDF",
    b"PK\x03\x04": "an archive or an office document",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
}
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def text_of(name: str, data: bytes) -> str:
    """The text of an uploaded file.

    Raises:
        ServingError: it is empty, or of a kind that can't be read.
    """
    kind = next((kind for begin, kind in _KINDS.items() if data.startswith(begin)), None)
    encoding = next((code for mark, code in _MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = "" if kind is not None else data.decode(encoding)
    except UnicodeDecodeError as error:
        what = f"not text in UTF-8: byte {error.start:,} is 0x{data[error.start]:02x}"
        raise ServingError(415, f"{name} is {what}; convert it to UTF-8.", "document") from None
    if kind is not None or 10 * text.count("\0") > len(text) > 0:
        what = kind or "full of zero bytes"
        raise ServingError(415, f"{name} is {what}, which can't be read: upload its text.", "document")
    if not text.strip():
        raise invalid("document", f"{name} is empty: there is nothing to read.")
    return text.replace("\r\n", "\n")


def check_name(name: str) -> None:
    """
    Raises:
        ServingError: a name that no document can have.
    """
    if not name.strip() or len(name) > 512 or any(ord(c) < 32 or ord(c) == 127 for c in name):
        raise invalid(
            "document", f"document={name[:40]!r} is no name of a document: use 1 to 512 printable characters."
        )
