"""Renders facts as one self-contained HTML file, with style, script and data inside, which can be opened from disk."""

import html
import json
import re
from dataclasses import asdict
from importlib.resources import files

from .facts import Facts


def render(facts: Facts) -> str:
    """The page. Texts are shown as text: nothing in them is interpreted as markup or code."""
    folder = files("sharedllm.explain")
    # Inside <script> only "<" could end the data.
    data = json.dumps(asdict(facts), ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    # What the script imports stands before it, since a page that is opened from disk can't load a module.
    names, script = ((folder / name).read_text(encoding="utf-8") for name in ("names.js", "page.js"))
    values = {
        "style": (folder / "page.css").read_text(encoding="utf-8"),
        "script": names + script.removeprefix('import { shown, tellApart } from "./names.js";\n'),
        "facts": data,
        "question": html.escape(facts.question),
        "answer": html.escape(facts.answer or "(nothing was written)"),
    }
    template = (folder / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda field: values[field[1]], template)
