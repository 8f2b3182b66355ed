"""Facts as one HTML file that needs nothing else: style, script and data are inside, and it may be opened from a disk."""

import html
import json
import re
from dataclasses import asdict
from importlib.resources import files

from .facts import Facts


def render(facts: Facts) -> str:
    """The page. Whatever stands in the texts is shown as text: nothing of it is markup or code."""
    folder = files(__package__)
    # Inside <script> only "<" can be the beginning of something else than data.
    data = json.dumps(asdict(facts), ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    values = {
        "style": (folder / "page.css").read_text(encoding="utf-8"),
        "script": (folder / "page.js").read_text(encoding="utf-8"),
        "facts": data,
        "question": html.escape(facts.question),
        "answer": html.escape(facts.answer or "(nothing was written)"),
    }
    template = (folder / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda field: values[field[1]], template)
