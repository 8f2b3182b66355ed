"""The kinds of files that can be read. A new kind is one entry:

KINDS.add("RTF", Kind("RTF", (".rtf",), extract), "Rich Text Format")
"""

from pathlib import Path

from ..utils.errors import UserError
from ..utils.registry import Registry
from ..utils.text_files import marked
from .extract import Kind

KINDS = Registry("document kind {}")
for _name, _place, _about in [
    ("text", "plain:TEXT", "plain text and source code, by line"),
    ("markdown", "plain:MARKDOWN", "Markdown, by line and section"),
    ("html", "html:HTML", "web pages, by section; navigation, scripts and styles are left out"),
    ("pdf", "pdf:PDF", "PDF with text, by page"),
    ("docx", "docx:DOCX", "Word documents, by section"),
    ("odt", "odt:ODT", "OpenDocument texts, by section"),
    ("pptx", "pptx:PPTX", "PowerPoint slides with their notes, by slide"),
    ("odp", "odp:ODP", "OpenDocument slides with their notes, by slide"),
    (
        "spreadsheet",
        "spreadsheet:SPREADSHEET",
        "Excel and OpenDocument spreadsheets, by sheet and row; each value with its column",
    ),
    ("epub", "epub:EPUB", "e-books, by chapter"),
    ("csv", "table:CSV", "tables, by row; each value is written with the name of its column"),
    ("json", "records:JSON", "chats by message, lists by record, other JSON as it is"),
    ("jsonl", "records:JSONL", "JSON lines, by record; chats by message"),
    ("notebook", "records:NOTEBOOK", "Jupyter notebooks, by cell"),
]:
    KINDS.add(_name, f"sharedllm.documents.{_place}", _about)

_PLAIN = ("text", "markdown", "csv", "json", "jsonl")

# Kinds that people try and that can't be read, with what to do.
CONVERT = {
    ".doc": "save it as .docx",
    ".rtf": "save it as .docx",
    ".xlsb": "save it as .xlsx",
    ".pages": "export it as .docx or PDF",
    ".ppt": "save it as .pptx",
    ".key": "export it as PDF",
    ".mobi": "convert it to .epub",
    ".azw3": "convert it to .epub",
    ".djvu": "convert it to PDF with text",
    ".zip": "unpack it and name the folder",
    ".gz": "unpack it",
    ".tar": "unpack it and name the folder",
    ".memory": "ask it with `sharedllm ask`",
} | dict.fromkeys(
    (".png", ".jpg", ".jpeg", ".gif", ".tif", ".tiff", ".webp", ".bmp"), "make its text readable with OCR first"
)
HEAD = 4096


def kind_of(path: Path) -> Kind:
    """The kind of a file: what its first bytes say, else its suffix, else text if it looks like text.

    Raises:
        UserError: no kind fits.
        OSError: the file can't be read.
    """
    if not path.is_file():  # a pipe can be read only once
        return KINDS["text"]
    with path.open("rb") as file:
        head = file.read(HEAD)
    kinds: list[Kind] = [KINDS[name] for name in KINDS]
    for kind in kinds:
        if kind.recognise is not None and kind.recognise(path, head):
            return kind
    suffix = path.suffix.lower()
    for kind in kinds:
        if suffix in kind.suffixes:
            return kind
    if suffix not in CONVERT and (b"\0" not in head or marked(head)):
        return KINDS["text"]
    fix = CONVERT.get(suffix, f"convert it to one of {', '.join(kind.name for kind in kinds)}")
    raise UserError(f"{path} is of a kind that can't be read: {fix}.")


def text_suffixes() -> frozenset[str]:
    """The suffixes of files whose bytes are their text."""
    return frozenset(suffix for name in _PLAIN for suffix in KINDS[name].suffixes)


def suffixes() -> tuple[str, ...]:
    """The suffixes of all kinds."""
    return tuple(suffix for name in KINDS for suffix in KINDS[name].suffixes)
