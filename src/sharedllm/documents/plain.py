"""Plain text, source code and Markdown: the text as it is, with its lines."""

import re
from collections.abc import Iterator
from pathlib import Path

from ..utils.text_files import text_pieces
from .encoding import legacy_encoding
from .extract import Extract, Kind, Part, section

_HEADING = re.compile(r" {0,3}#{1,6}[ \t]+(.*?)[ \t]*#*[ \t]*\n?")
_FENCE = re.compile(r" {0,3}(```+|~~~+)")


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
            mark = _FENCE.match(line)
            if mark and (not fence or mark[1].startswith(fence)):
                fence = "" if fence else mark[1]
            heading = None if fence or mark else _HEADING.fullmatch(line)
            if heading and heading[1]:
                if held:
                    yield Part("".join(held), place)
                held, place = [], section(heading[1])
            held.append(line)
        yield Part("".join(held), place)


CODE = (
    ".py .pyi .js .mjs .cjs .ts .tsx .jsx .java .kt .scala .c .h .cc .cpp .cxx .hpp .cu .cs .go .rs .rb .php .pl .lua .r .jl .swift"
    " .m .sh .bash .zsh .fish .ps1 .bat .sql .css .scss .less .vue .yaml .yml .toml .ini .cfg .conf .xml .tex .bib .cmake .gradle .proto"
    " .dockerfile .diff .patch"
)
TEXT = Kind("text", (".txt", ".text", ".log", ".rst", ".org", ".adoc", ".srt", ".vtt", *CODE.split()), text)
MARKDOWN = Kind("Markdown", (".md", ".markdown", ".mdx"), markdown)
