"""Web pages with the standard library: the text of the body by blocks, without navigation, scripts and the controls of forms."""

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

from ..utils.errors import UserError
from .extract import Extract, Kind, Part, section

# Not part of what a page says. `nav`, `aside` and `footer` hold the same on every page of a site.
_LEFT_OUT = set(
    "script style template noscript svg math nav aside footer button select textarea iframe object canvas".split()
)
_LEFT_OUT_ROLES = {"navigation", "banner", "contentinfo", "search", "complementary"}
_BLOCKS = set(
    "address article blockquote body caption center dd details div dl dt fieldset figcaption figure h1 h2 h3 h4 h5 h6 header hr "
    "li main ol p pre section summary table tbody tfoot thead tr ul".split()
)
# In a cell of a table these only begin a new line, so that a row stays one block.
_IN_CELLS = {"p", "div", "ul", "ol", "li", "dl", "dt", "dd", "blockquote", "center"}
# Between blocks of these there is no empty line.
_TOGETHER = ({"li"}, {"tr"}, {"dt", "dd"})
# Elements that may have no end tag: they end where one of these begins, or with their parent.
_ENDED_BY = {
    "p": _BLOCKS,
    "li": {"li"},
    "dt": {"dt", "dd"},
    "dd": {"dt", "dd"},
    "td": {"td", "th", "tr"},
    "th": {"td", "th", "tr"},
    "tr": {"tr"},
}
_HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
_EMPTY = set("area base br col embed hr img input link meta source track wbr".split())
_CHARSET = re.compile(rb"""<(?:meta[^>]*charset|\?xml[^>]*encoding)\s*=\s*["']?\s*([\w-]+)""", re.IGNORECASE)
_SPACES = re.compile(r"[ \t\r\n\f]+")
# What web applications give such a name, for Excel or Word to open.
_NAMED_ELSE = (".xls", ".doc")
_PAGE = re.compile(
    rb"(\xef\xbb\xbf|\xff\xfe|\xfe\xff)?\s*(<\?xml[^>]*>\s*)?<(!doctype\s+html|html|table)\b", re.IGNORECASE
)


class _Reader(HTMLParser):
    """Collects blocks of text. `lines` has (tag of its block, text, whether it is in the page's main part)."""

    def __init__(self, ordered: str | None) -> None:
        super().__init__(convert_charrefs=True)
        # For each open list the number of its next item, or what each begins with; and how many notes there were.
        self._lists: list[int | str] = []
        self._ordered, self._notes, self._marker = ordered, 0, ""
        self.lines: list[tuple[str, str, bool]] = []
        self.title = ""
        self._held: list[str] = []
        self._tag, self._in_title, self._main = "", False, 0
        self._skipping: list[str] = []
        self._preformatted = self._cell = 0
        self._open: list[tuple[str, bool]] = []
        self._opened: Counter[str] = Counter()
        self._tables: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        while self._skipping and tag in _ENDED_BY.get(self._skipping[-1], ()):
            self._skipping.pop()
        if self._skipping:
            if tag not in _EMPTY:
                self._skipping.append(tag)
            return
        while self._open and tag in _ENDED_BY.get(self._open[-1][0], ()):
            self._leave()
        given = dict(attrs)
        hidden = "hidden" in given or given.get("aria-hidden") == "true" or given.get("role") in _LEFT_OUT_ROLES
        if (tag in _LEFT_OUT or hidden) and tag not in _EMPTY and tag not in ("body", "html", "main"):
            self._skipping.append(tag)
        elif tag == "title" and not self.title:
            self._in_title = True
        elif tag == "br":
            self._held.append("\n")
        elif tag in ("td", "th"):
            if self._has():
                self._held.append(" | ")
            self._cell = len(self._held)
        elif tag == "img" and given.get("alt"):
            self._held.append(f" {given['alt']} ")
        elif tag in _IN_CELLS and self._in_cell():
            if self._has(self._cell):
                self._held.append("\n")
        elif tag in _BLOCKS and not (tag in ("p", "div") and self._open[-1:] == [("li", False)] and not self._has()):
            self._close()
            self._tag = tag
            if tag == "li":
                self._marker = self._marker_of(given)
                self._held.append(self._marker)
            self._preformatted += tag == "pre"
        if tag not in _EMPTY:
            main = tag == "main" or given.get("role") == "main"
            if main:
                self._close()
            self._main += main
            self._open.append((tag, main))
            self._opened[tag] += 1
            if tag in ("td", "th", "table"):
                self._tables.append(tag)
            elif tag in ("ul", "ol"):
                numbers = _whole(given.get("start"), 1) if self._ordered is None else self._ordered
                self._lists.append(numbers if tag == "ol" else "- ")

    def handle_endtag(self, tag: str) -> None:
        if self._skipping:
            if tag in self._skipping:
                while self._skipping.pop() != tag:
                    pass
                return
            if self._skipping[0] not in _ENDED_BY or not self._opened[tag]:
                return
            # What is left out has no end tag and ends with its parent.
            self._skipping.clear()
        if tag == "title":
            self._in_title = False
        if tag in _BLOCKS and not (tag in _IN_CELLS and self._in_cell()):
            self._close()
            self._preformatted = max(0, self._preformatted - (tag == "pre"))
        if self._opened[tag]:
            while self._leave() != tag:
                pass

    def _leave(self) -> str:
        """End the innermost element; returns its name."""
        name, main = self._open.pop()
        self._opened[name] -= 1
        if name in ("td", "th", "table"):
            self._tables.pop()
        elif name in ("ul", "ol"):
            self._lists.pop()
        if main:
            self._close()
            self._main -= 1
        return name

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += data
        elif not self._skipping:
            self._held.append(data if self._preformatted else _SPACES.sub(" ", data))

    def _in_cell(self) -> bool:
        """Whether the innermost table is in a cell now."""
        return bool(self._tables) and self._tables[-1] != "table"

    def _marker_of(self, given: dict[str, str | None]) -> str:
        """What an item of a list begins with: its number, as the page shows it."""
        if (given.get("id") or "").startswith(("footnote-", "endnote-")):
            self._notes += 1
            return f"[{self._notes}] "
        number = self._lists[-1] if self._lists else "- "
        if isinstance(number, str):
            return number
        number = _whole(given.get("value"), number)
        self._lists[-1] = number + 1
        return f"{number}. "

    def _has(self, start: int = 0) -> bool:
        return any(piece.strip(" -\n") for piece in self._held[start:] if piece is not self._marker)

    def _close(self) -> None:
        """End a block."""
        text = "".join(self._held)
        if not self._preformatted:
            text = "\n".join(_SPACES.sub(" ", line).strip() for line in text.split("\n"))
        text = text.strip("\n") if self._preformatted else text.strip()
        if text and text not in ("-", self._marker.strip()):
            self.lines.append((self._tag, text, self._main > 0))
        self._held, self._tag, self._cell, self._marker = [], "", 0, ""

    def close(self) -> None:
        super().close()
        self._close()


def _whole(text: str | None, otherwise: int) -> int:
    """A whole number of at most nine digits."""
    return int(text) if text is not None and re.fullmatch(r"-?[0-9]{1,9}", text.strip()) else otherwise


def parts_of(markup: str, ordered: str | None = None) -> tuple[str, list[Part]]:
    """The title of a page, and its text with headings as places.

    ordered: what each item of an ordered list begins with; default: its number.
    """
    reader = _Reader(ordered)
    reader.feed(markup)
    reader.close()
    parts: list[Part] = []
    held, place, before = [], "", ""
    # A page that marks its main part says that the rest is the site's.
    anywhere = not any(main for _, _, main in reader.lines)
    for tag, text, main in reader.lines:
        if not (main or anywhere):
            continue
        if tag in _HEADINGS:
            if held:
                parts.append(Part("".join(held), place))
            held, place = ["\n" if parts or held else ""], section(text.removesuffix("¶"))
        elif before and not any(tag in alike and before in alike for alike in _TOGETHER):
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


def _recognise(path: Path, head: bytes) -> bool:
    """Whether it is a page with the name of another kind."""
    return path.suffix.lower() in _NAMED_ELSE and bool(_PAGE.match(head.replace(b"\0", b"")))


HTML = Kind("HTML", (".html", ".htm", ".xhtml", ".shtml"), extract, _recognise)
