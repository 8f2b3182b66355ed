"""The numbers of a Word document's lists and headings. Its file only has rules for them, and mammoth only says which lists have numbers."""

import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, tostring

from .package import tree

DOCUMENT, RULES, STYLES = "word/document.xml", "word/numbering.xml", "word/styles.xml"
_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_CHOICE = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Choice"
_DELETED = {f"{_W}del", f"{_W}moveFrom"}
# The text around numbers has some words at most. A longer one is no number, and fills the memory if thousands of paragraphs have it.
_LONGEST = 100
_ROMAN = list(zip((1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1), "m cm d cd c xc l xl x ix v iv i".split(), strict=True))  # fmt: skip


@dataclass
class _Level:
    """start: the first number. form: how numbers are written. text: around them, "%1.%2" for those of two levels. digits: all of these
    are in decimal digits. after: paragraphs of levels before this one let it begin anew."""

    start: int
    form: str
    text: str
    digits: bool
    after: int


@dataclass
class _List:
    """A numbered list. Lists of one `kind` go on counting, unless one has a number to begin with anew, in `starts`."""

    kind: str
    levels: dict[int, _Level]
    starts: dict[int, int]
    begun: set[int] = field(default_factory=set)


def with_numbers(members: zipfile.ZipFile, path: Path) -> BytesIO | None:
    """A copy of a document in which each numbered paragraph begins with its number; None if the rules for them are not found."""
    if not {DOCUMENT, RULES} <= set(members.namelist()):
        return None
    document, rules = tree(members, DOCUMENT, path), tree(members, RULES, path)
    # Documents of the strict standard have other names, and hardly a program writes them.
    if document.find(f"{_W}body") is None:
        return None
    styles = tree(members, STYLES, path) if STYLES in members.namelist() else Element("none")
    by_id = {style.get(f"{_W}styleId"): style for style in styles.iter(f"{_W}style")}
    lists, counts = _lists(rules, by_id), {}
    for line in _lines(document):
        number, level = _place(line[-1], by_id)
        if number in lists and level in lists[number].levels:
            label = _next(lists[number], level, counts.setdefault(lists[number].kind, {}))
            if label and any((text.text or "").strip() for part in line for text in part.iter(f"{_W}t")):
                run = Element(f"{_W}r")
                SubElement(run, f"{_W}t").text = f"{label} "
                line[0].insert(int(line[0][0].tag == f"{_W}pPr"), run)
    copy = BytesIO()
    with zipfile.ZipFile(copy, "w") as written:
        for name in members.namelist():
            if name.endswith((".xml", ".rels")):
                written.writestr(name, tostring(document) if name == DOCUMENT else members.read(name))
    return copy


def _lines(document: Element) -> Iterator[list[Element]]:
    """The paragraphs of the text, in its order, as mammoth reads them. Of what has a choice of two forms, it reads the other one. Those
    whose end was deleted and the one after them are one line, with the number of the last."""
    gone = [*document.iter(_CHOICE), *(part for name in _DELETED for part in document.iter(name))]
    gone += [row for row in document.iter(f"{_W}tr") if row.find(f"{_W}trPr/{_W}del") is not None]
    unread = {paragraph for part in gone for paragraph in part.iter(f"{_W}p")}
    line: list[Element] = []
    for paragraph in document.iter(f"{_W}p"):
        if paragraph in unread:
            continue
        line.append(paragraph)
        end = {mark.tag for mark in paragraph.findall(f"{_W}pPr/{_W}rPr/*")}
        if f"{_W}del" not in end:
            if f"{_W}moveFrom" not in end:
                yield line
            line = []


def _lists(rules: Element, styles: dict[str | None, Element]) -> dict[str | None, _List]:
    """The lists by the number that paragraphs name."""
    kinds = {kind.get(f"{_W}abstractNumId"): _levels(kind) for kind in rules.iter(f"{_W}abstractNum")}
    found: dict[str | None, _List] = {}
    for one in rules.iter(f"{_W}num"):
        kind = _said(one, "abstractNumId") or ""
        starts = {
            _whole(anew.get(f"{_W}ilvl"), 0): _whole(_said(anew, "startOverride"), 1)
            for anew in one.iter(f"{_W}lvlOverride")
            if _said(anew, "startOverride") is not None
        }
        found[one.get(f"{_W}numId")] = _List(kind, kinds.get(kind, {}) | _levels(one), starts)
    # Some kinds only name a style, which names a list of the kind that is meant.
    links = {kind.get(f"{_W}abstractNumId"): _said(kind, "numStyleLink") for kind in rules.iter(f"{_W}abstractNum")}
    for one in found.values():
        style = styles.get(links.get(one.kind) or "")
        meant = None if style is None else found.get(_said(style, "pPr", "numPr", "numId"))
        if meant is not None:
            one.kind, one.levels = meant.kind, meant.levels | one.levels
    return found


def _levels(holder: Element) -> dict[int, _Level]:
    """The levels of a kind of lists, or those that one list has instead."""
    found = {}
    for level in holder.iter(f"{_W}lvl"):
        at, text = _whole(level.get(f"{_W}ilvl"), 0), _said(level, "lvlText") or ""
        found[at] = _Level(
            start=_whole(_said(level, "start"), 1),
            form=_said(level, "numFmt") or "decimal",
            text=text if len(text) <= _LONGEST else "",
            digits=level.find(f"{_W}isLgl") is not None and _said(level, "isLgl") not in ("0", "false", "off"),
            after=min(at, _whole(_said(level, "lvlRestart"), at)),
        )
    return found


def _place(paragraph: Element, styles: dict[str | None, Element]) -> tuple[str, int]:
    """The list and the level of a paragraph: its own, or its style's, or those of a style that this one is based on."""
    number, level, part = None, None, paragraph
    for _ in range(10):
        number = number or _said(part, "pPr", "numPr", "numId")
        level = level or _said(part, "pPr", "numPr", "ilvl")
        style = styles.get(_said(part, "pPr", "pStyle") if part is paragraph else _said(part, "basedOn"))
        if style is None or (number is not None and level is not None):
            break
        part = style
    return number or "", _whole(level, 0)


def _next(one: _List, level: int, counts: dict[int, int]) -> str:
    """The number of the next paragraph of a level, as Word shows it; "" for a bullet."""
    if level in one.starts and level not in one.begun:
        counts[level] = one.starts[level]
    else:
        counts[level] = counts[level] + 1 if level in counts else one.levels[level].start
    one.begun.add(level)
    own = one.levels[level]
    for deeper in [each for each in counts if level < (one.levels[each].after if each in one.levels else each)]:
        del counts[deeper]

    def shown(match: re.Match) -> str:
        upper = one.levels.get(int(match[1]) - 1, own)
        in_digits = own.digits and upper.form not in ("decimalZero", "none")
        return written(counts.get(int(match[1]) - 1, upper.start), "decimal" if in_digits else upper.form)

    return "" if own.form == "bullet" else re.sub("%([1-9])", shown, own.text).strip()


def written(number: int, form: str) -> str:
    """A number in one of Word's forms; those of other scripts, and numbers too large for a form, in digits."""
    if form in ("lowerLetter", "upperLetter") and 0 < number <= 780:
        text = chr(ord("a") + (number - 1) % 26) * ((number - 1) // 26 + 1)
    elif form in ("lowerRoman", "upperRoman") and 0 < number < 4000:
        text = ""
        for value, letters in _ROMAN:
            text += letters * (number // value)
            number %= value
    elif form == "none":
        text = ""
    else:
        text = f"{number:02}" if form == "decimalZero" else str(number)
    return text.upper() if form.startswith("upper") else text


def _said(element: Element, *names: str) -> str | None:
    """The value of what an element holds under these names, one in the other."""
    found = element.find("/".join(f"{_W}{name}" for name in names))
    return None if found is None else found.get(f"{_W}val")


def _whole(text: str | None, otherwise: int) -> int:
    return int(text) if text is not None and re.fullmatch("[0-9]{1,9}", text) else otherwise
