"""Plain text, source code and Markdown: the text as it is, with its lines."""

import re
from collections.abc import Iterator
from pathlib import Path

from ..utils.text_files import text_pieces
from .encoding import legacy_encoding
from .extract import Extract, Kind, Part, section

_HEADING = re.compile(r" {0,3}#{1,6}[ \t]+(.*?)[ \t]*#*[ \t]*\r?\n?")
_FENCE = re.compile(r" {0,3}(```+|~~~+)(.*)")


def text(path: Path) -> Extract:
    """Text read in pieces, so that a pipe of any length can be read; see `utils.text_files.text_pieces`."""
    encoding = legacy_encoding(path)
    return Extract((Part(piece) for piece in text_pieces(str(path), encoding)), unit="line", read_as=encoding)


def markdown(path: Path) -> Extract:
    """As text; headings are places. Lines that look like headings inside fenced code are none."""
    encoding = legacy_encoding(path)
    return Extract(_sections(text_pieces(str(path), encoding)), unit="line", read_as=encoding)


def _sections(pieces: Iterator[str]) -> Iterator[Part]:
    fence = ""
    for piece in pieces:
        held, place = [], ""
        for line in piece.splitlines(keepends=True):
            fence = _fence_after(line, fence)
            heading = None if fence else _HEADING.fullmatch(line)
            if heading and heading[1]:
                if held:
                    yield Part("".join(held), place)
                held, place = [], section(heading[1])
            held.append(line)
        yield Part("".join(held), place)


def _fence_after(line: str, fence: str) -> str:
    """The fence of the code that goes on after a line, "" outside code, as CommonMark has it: what follows the marks names the
    code's language, so that such a line closes none, and with more backticks the line is text.

    Args:
        fence: of the code before the line.
    """
    mark = _FENCE.match(line)
    if mark and fence:
        return "" if mark[1].startswith(fence) and not mark[2].strip() else fence
    return mark[1] if mark and not (mark[1][0] == "`" and "`" in mark[2]) else fence


CODE = (
    ".py .pyi .js .mjs .cjs .ts .tsx .jsx .java .kt .scala .c .h .cc .cpp .cxx .hpp .cu .cs .go .rs .rb .php .pl .lua .r .jl .swift"
    " .m .sh .bash .zsh .fish .ps1 .bat .sql .css .scss .less .vue .yaml .yml .toml .ini .cfg .conf .xml .tex .bib .cmake .gradle .proto"
    " .dockerfile .diff .patch"
)
TEXT = Kind("text", (".txt", ".text", ".log", ".rst", ".org", ".adoc", ".srt", ".vtt", *CODE.split()), text)
MARKDOWN = Kind("Markdown", (".md", ".markdown", ".mdx"), markdown)
