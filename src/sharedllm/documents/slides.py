"""The text of slides, which PowerPoint and OpenDocument hold in different ways."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..utils.errors import UserError
from .extract import Extract, Part, numbered


@dataclass(frozen=True)
class Slide:
    """Texts of a slide; "" for what it lacks. notes: of the speaker. hidden: it isn't shown."""

    title: str
    body: str
    notes: str
    hidden: bool = False


def extract_of(slides: Iterable[Slide], title: str, path: Path) -> Extract:
    """
    Raises:
        UserError: no slide has text.
    """
    parts, count = [], 0
    for count, slide in enumerate(slides, 1):
        notes = f"Notes: {slide.notes.strip()}" if slide.notes.strip() else ""
        text = "\n\n".join(filter(None, (slide.title.strip(), slide.body.strip(), notes)))
        if text:
            parts.append(Part(text + "\n\n", f"{'hidden ' if slide.hidden else ''}slide {count}"))
    if not parts:
        which = numbered("slide", 1, count) if count == 1 else f"{count} slides"
        raise UserError(
            f"{path} has no text on its {which}, as pictures have none: export it as PDF and make its text readable with OCR, "
            "for instance with ocrmypdf."
        )
    return Extract(parts, title)
