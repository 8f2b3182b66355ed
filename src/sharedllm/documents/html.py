"""Web pages with the standard library: the text of the body by blocks, without navigation, scripts and forms."""

import re
from html.parser import HTMLParser
from pathlib import Path

from ..utils.errors import UserError
from .extract import Extract, Kind, Part, section

# Not part of what a page says. `nav`, `aside` and `footer` hold the same on every page of a site.
_LEFT_OUT = set("script style template noscript svg math nav aside footer form button select iframe object canvas".split())
_LEFT_OUT_ROLES = {"navigation", "banner", "contentinfo", "search", "complementary"}
_BLOCKS = set(
    "address article blockquote body caption center dd details div dl dt fieldset figcaption figure h1 h2 h3 h4 h5 h6 header hr "
    "li main ol p pre section summary table tbody tfoot thead tr ul".split()
)
_HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
_EMPTY = set("area base br col embed hr img input link meta source track wbr".split())
_CHARSET = re.compile(rb"""<(?:meta[^>]*charset|\?xml[^>]*encoding)\s*=\s*["']?\s*([\w-]+)""", re.IGNORECASE)
_SPACES = re.compile(r"[ \t\r\n\f]+")


class _Reader(HTMLParser):
    """Collects blocks of text. `lines` has (tag of its block, text)."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.lines: list[tuple[str, str]] = []
        self.title = ""
        self._held: list[str] = []
        self._tag, self._in_title = "", False
        self._skipping: list[str] = []
        self._preformatted = 0
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._skipping:
            if tag not in _EMPTY:
                self._skipping.append(tag)
            return
        given = dict(attrs)
        hidden = "hidden" in given or given.get("aria-hidden") == "true" or given.get("role") in _LEFT_OUT_ROLES
        if (tag in _LEFT_OUT or hidden) and tag not in _EMPTY and tag not in ("body", "html", "main"):
            self._skipping.append(tag)
        elif tag == "title" and not self.title:
            self._in_title = True
        elif tag == "br":
            self._held.append("\n")
        elif tag in ("td", "th"):
            if any(piece.strip() for piece in self._held):
                self._held.append(" | ")
        elif tag == "img" and given.get("alt"):
            self._held.append(f" {given['alt']} ")
        elif tag in _BLOCKS and not (tag in ("p", "div") and self._open[-1:] in (["td"], ["th"], ["li"]) and not self._has()):
            self._close()
            self._tag = tag
            if tag == "li":
                self._held.append("- ")
            self._preformatted += tag == "pre"
        if tag not in _EMPTY:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._skipping:
            if tag in self._skipping:
                while self._skipping.pop() != tag:
                    pass
            return
        if tag == "title":
            self._in_title = False
        if tag in _BLOCKS and not (tag in ("p", "div") and {"td", "th"} & set(self._open[-2:])):
            self._close()
            self._preformatted = max(0, self._preformatted - (tag == "pre"))
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += data
        elif not self._skipping:
            self._held.append(data if self._preformatted else _SPACES.sub(" ", data))

    def _has(self) -> bool:
        return any(piece.strip(" -\n") for piece in self._held)

    def _close(self) -> None:
        """End a block."""
        text = "".join(self._held)
        if not self._preformatted:
            text = "\n".join(_SPACES.sub(" ", line).strip() for line in text.split("\n"))
        text = text.strip("\n") if self._preformatted else text.strip()
        if text and text != "-":
            self.lines.append((self._tag, text))
        self._held, self._tag = [], ""

    def close(self) -> None:
        super().close()
        self._close()


def parts_of(markup: str) -> tuple[str, list[Part]]:
    """The title of a page, and its text with headings as places."""
    reader = _Reader()
    reader.feed(markup)
    reader.close()
    parts: list[Part] = []
    held, place, before = [], "", ""
    for tag, text in reader.lines:
        if tag in _HEADINGS:
            if held:
                parts.append(Part("".join(held), place))
            held, place = ["\n" if parts or held else ""], section(text.removesuffix("¶"))
        elif before and not (tag in ("li", "tr", "dd") and before in ("li", "tr", "dt", "dd")):
            held.append("\n")
        held.append(text + "\n")
        before = tag
    if held:
        parts.append(Part("".join(held), place))
    return _SPACES.sub(" ", reader.title).strip(), parts


def decoded(raw: bytes, path: Path) -> str:
    """The markup of a page, in the encoding that it names, else in UTF-8 or Windows-1252, as browsers read it."""
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if raw.startswith(mark):
            return raw.decode(encoding, "replace")
    named = _CHARSET.search(raw[:4096])
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        encoding = named[1].decode() if named and named[1].lower() not in (b"utf-8", b"utf8") else "cp1252"
    try:
        return raw.decode(encoding, "replace")
    except LookupError:
        raise UserError(f"{path} has charset={encoding!r}, which is not known: convert it to UTF-8.") from None


def extract(path: Path) -> Extract:
    title, parts = parts_of(decoded(path.read_bytes(), path))
    if title and parts and title not in parts[0].text:
        parts = [Part(f"{title}\n\n"), *parts]
    return Extract(parts, title)


HTML = Kind("HTML", (".html", ".htm", ".xhtml", ".shtml"), extract)
