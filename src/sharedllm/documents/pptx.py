"""PowerPoint slides, with the standard library: title, text in reading order, tables, diagrams, charts, and the speaker's notes.

python-pptx leaves out what is there in two forms, as formulas are, and diagrams, and brings 37 MB of other libraries.
"""

import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

from ..utils.errors import UserError
from .extract import Extract, Kind
from .numbering import written
from .package import COMPOUND, SIGNATURE, holds, local, office_title, package, related, relations, tree
from .slides import Slide, extract_of

MAIN = "ppt/presentation.xml"
_TITLES = {"title", "ctrTitle"}
# What is the same on every slide, and on its notes the small picture of the slide.
_REPEATED = {"dt", "ftr", "hdr", "sldNum", "sldImg"}
_FORMS = {
    "arabic": "decimal",
    "alphaLc": "lowerLetter",
    "alphaUc": "upperLetter",
    "romanLc": "lowerRoman",
    "romanUc": "upperRoman",
}

_AROUND = {"ParenBoth": ("(", ")"), "ParenR": ("", ")"), "Plain": ("", "")}


def extract(path: Path) -> Extract:
    """
    Raises:
        UserError: it needs a password, is damaged, or has no text.
    """
    with path.open("rb") as file:
        head = file.read(len(COMPOUND))
    if head == COMPOUND:
        raise UserError(f"{path} is locked: it needs a password, or is an old .ppt; save it as .pptx without one.")
    if not head.startswith(SIGNATURE):
        raise UserError(f"{path} is damaged, or no PPTX: it does not begin as a ZIP file does; save it as .pptx again.")
    with package(path) as members:
        if MAIN not in members.namelist():
            raise UserError(f"{path} is damaged, or no PPTX: it is a ZIP file without slides; save it as .pptx again.")
        parts = relations(members, MAIN, path)
        listed = tree(members, MAIN, path).iterfind("{*}sldIdLst/{*}sldId")
        names = [parts[related(each)][1] for each in listed if related(each) in parts]
        return extract_of((_slide(members, name, path) for name in names), office_title(members, path), path)


def _slide(members: zipfile.ZipFile, name: str, path: Path) -> Slide:
    slide, parts = tree(members, name, path), relations(members, name, path)
    titles, body = [], []
    for shape in _shapes(slide):
        held = titles if _placeholder(shape) in _TITLES else body
        held.append("\n".join(_lines(shape, members, parts, path)))
    notes = []
    for kind, part in parts.values():
        if kind == "notesSlide" and part in members.namelist():
            for shape in _shapes(tree(members, part, path)):
                if _placeholder(shape) == "body":
                    notes.append("\n".join(_lines(shape, members, {}, path)))
    texts = ("\n\n".join(text for text in some if text.strip()) for some in (titles, body, notes))
    return Slide(*texts, hidden=slide.get("show") in ("0", "false"))


def _shapes(slide: Element) -> Iterator[Element]:
    """The shapes with text, in the order in which a screen reader says them, which is that of the file. Groups are opened."""
    waiting = list(reversed(slide.findall("{*}cSld/{*}spTree")))
    while waiting:
        shape = waiting.pop()
        kind = local(shape)
        if kind in ("spTree", "grpSp"):
            waiting += reversed(shape)
        elif kind == "AlternateContent":
            # The first form that has a text; the last one is often a picture.
            forms = [form for form in shape if any((text.text or "").strip() for text in form.iterfind(".//{*}t"))]
            waiting += reversed(forms[0] if forms else shape[:1])
        elif kind in ("sp", "graphicFrame") and _placeholder(shape) not in _REPEATED:
            yield shape


def _placeholder(shape: Element) -> str:
    """What a shape is for: "title", "body"; "" if its layout does not say."""
    found = shape.find("./{*}nvSpPr/{*}nvPr/{*}ph")
    return "" if found is None else found.get("type", "")


def _lines(shape: Element, members: zipfile.ZipFile, parts: dict[str, tuple[str, str]], path: Path) -> Iterator[str]:
    """The lines of a shape, of a table in it, or of a diagram or chart that it refers to."""
    for body in shape.iterfind("{*}txBody"):
        yield from _paragraphs(body)
    for row in shape.iterfind("{*}graphic/{*}graphicData/{*}tbl/{*}tr"):
        cells = [cell for cell in row.iterfind("{*}tc") if cell.get("hMerge") not in ("1", "true")]
        texts = [" ".join(line for body in cell.iterfind("{*}txBody") for line in _paragraphs(body)) for cell in cells]
        if any(texts):
            yield " | ".join(" ".join(text.split()) for text in texts)
    for reference in shape.iterfind("{*}graphic/{*}graphicData/{*}relIds"):
        _, part = parts.get(related(reference, "dm"), ("", ""))
        if part in members.namelist():
            for point in tree(members, part, path).iterfind("{*}ptLst/{*}pt"):
                for body in point.iterfind("{*}t"):
                    yield from _paragraphs(body)
    for reference in shape.iterfind("{*}graphic/{*}graphicData/{*}chart"):
        _, part = parts.get(related(reference), ("", ""))
        if part in members.namelist():
            yield from _chart(tree(members, part, path))


def _chart(root: Element) -> Iterator[str]:
    """The title of a chart, and a line for each series: "Sales: Q1 1.5; Q2 2"."""
    for title in root.iterfind("{*}chart/{*}title/{*}tx/{*}rich"):
        yield from _paragraphs(title)
    for series in root.iterfind(".//{*}ser"):
        label = " ".join(value.text or "" for value in series.iterfind("{*}tx//{*}v"))
        names, values = ({}, {})
        for found, kinds in ((names, ("cat", "xVal")), (values, ("val", "yVal"))):
            for point in (point for kind in kinds for point in series.iterfind(f"{{*}}{kind}//{{*}}pt")):
                found[point.get("idx")] = point.findtext("{*}v") or ""
        points = "; ".join(f"{names.get(at, '')} {value}".strip() for at, value in values.items())
        if points:
            yield f"{label}: {points}" if label else points


def _paragraphs(body: Element) -> Iterator[str]:
    """The paragraphs of a text: numbered ones with their number, deeper ones with a mark."""
    counts: Counter[int] = Counter()
    for paragraph in body.iterfind("{*}p"):
        text = "".join(_inline(paragraph)).strip()
        if not text:
            continue
        given = paragraph.find("{*}pPr")
        level = given.get("lvl", "0") if given is not None else "0"
        level = int(level) if level.isdecimal() and len(level) < 3 else 0
        for deeper in [each for each in counts if each > level]:
            del counts[deeper]
        number = None if given is None else given.find("{*}buAutoNum")
        if number is None:
            del counts[level]
            yield f"- {text}" if level else text
        else:
            start = number.get("startAt", "1")
            counts[level] = (
                counts[level] + 1 if level in counts else int(start) if start.isdecimal() and len(start) < 9 else 1
            )
            yield f"{_label(counts[level], number.get('type', ''))} {text}"


def _inline(paragraph: Element) -> Iterator[str]:
    for element in paragraph.iter():
        kind = local(element)
        if kind == "t":
            yield element.text or ""
        elif kind == "br":
            yield "\n"


def _label(number: int, form: str) -> str:
    """A number as PowerPoint writes it: "arabicPeriod" is 1., "alphaLcParenBoth" (a)."""
    name = next((name for name in _FORMS if form.startswith(name)), "")
    before, after = _AROUND.get(form.removeprefix(name), ("", "."))
    return f"{before}{written(number, _FORMS.get(name, 'decimal'))}{after}"


PPTX = Kind(
    "PPTX", (".pptx", ".pptm", ".ppsx", ".ppsm", ".potx", ".potm"), extract, lambda path, head: holds(path, head, MAIN)
)
