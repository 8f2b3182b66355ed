"""Fills in the parts of pages about commands, families, systems, tasks, scores and policies from the program itself,
when the site is built. The table of extras is part of its page, because people read that one before they have the site.

Run: python docs/make_pages.py     writes that table, and prints the other texts
"""

import importlib.util
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

WIDTH = 100
INSTALL = Path(__file__).parent / "install.md"


def helps(command: Any, name: str = "sharedllm", parent: Any = None) -> Iterator[tuple[str, str]]:
    """Name and help text of a command, then of its subcommands."""
    context = command.context_class(
        command, info_name=name, parent=parent, terminal_width=WIDTH, max_content_width=WIDTH
    )
    yield context.command_path, command.get_help(context)
    if hasattr(command, "list_commands"):
        for below in command.list_commands(context):
            yield from helps(command.get_command(context, below), below, context)


def commands() -> str:
    """A heading and the help text for each command."""
    import typer.main

    from sharedllm.cli.app import app

    root = typer.main.get_command(app) if isinstance(app, typer.Typer) else app
    return "\n\n".join(f"## {name}\n\n```text\n{text.strip()}\n```" for name, text in helps(root))


def families() -> str:
    """The families that can be extended, and those that can't, with reasons."""
    from sharedllm.model.families import FAMILIES, REFUSED

    reasons: dict[str, list[str]] = {}
    for name, reason in sorted(REFUSED.items()):
        reasons.setdefault(reason, []).append(f"`{name}`")
    lines = [f"{len(FAMILIES)} can be extended: {', '.join(f'`{name}`' for name in sorted(FAMILIES))}.", ""]
    lines += ["These can't:", "", "| families | reason |", "|---|---|"]
    return "\n".join([*lines, *(f"| {', '.join(names)} | {reason} |" for reason, names in reasons.items())])


def systems() -> str:
    """A heading for each compared system, with its names in evaluation, benchmark and recipes."""
    from sharedllm.systems import SYSTEMS

    parts = []
    for name, system in SYSTEMS.items():
        lines = [f"### {name}", "", f"{system.about[0].upper()}{system.about[1:]}.", ""]
        lines += [f"- Evaluated: `sharedllm eval … --system {name}`."] if system.evaluated else []
        lines += [f"- Asked: `sharedllm qa … --system {name}`."] if system.asked else []
        lines += [f"- With settings: `{system.variants}`."] if system.variants else []
        lines += [f"- Timed: `sharedllm bench --system {name}`."] if system.timed else []
        if system.trained is not None:
            named = ", ".join(f"`{part.name}`" for part in system.trained.parts)
            lines.append(f"- Trained: `system: {name}`" + (f"; parts {named}." if named else "."))
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def extras() -> str:
    """The extras: what each adds, its libraries, and the command."""
    from sharedllm.utils.extras import EXTRAS

    rows = [
        f"| {extra.about} | {', '.join(extra.modules)} | `pip install '.[{name}]'` |" for name, extra in EXTRAS.items()
    ]
    return "\n".join(["| for | libraries | |", "|---|---|---|", *rows])


def made(page: Path) -> str:
    """The page about installing, with its table of extras made anew."""
    table = f"<!-- extras -->\n{extras()}\n<!-- end -->"
    return re.sub(
        r"<!-- extras -->\n.*?<!-- end -->", lambda _: table, page.read_text(encoding="utf-8"), flags=re.DOTALL
    )


def notebook() -> str:
    """The cells of the notebook and what they print."""
    spec = importlib.util.spec_from_file_location("make_notebook", Path(__file__).parent / "make_notebook.py")
    assert spec is not None and spec.loader is not None
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    return maker.markdown(maker.load())


def named(table: str) -> Callable[[], str]:
    """Names and descriptions of a registry, `module:NAME`."""

    def rows() -> str:
        from sharedllm.utils.registry import load

        about = load(table).about
        return "\n".join(
            ["| name | what it is |", "|---|---|", *(f"| `{name}` | {line} |" for name, line in about.items())]
        )

    return rows


MARKS = {
    "<!-- notebook -->": notebook,
    "<!-- commands -->": commands,
    "<!-- families -->": families,
    "<!-- systems -->": systems,
    "<!-- tasks -->": named("sharedllm.evaluation.tasks:TASKS"),
    "<!-- scores -->": named("sharedllm.scoring:SCORES"),
    "<!-- policies -->": named("sharedllm.context.policies:POLICIES"),
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for each page."""
    for mark, text in MARKS.items():
        if mark in markdown:
            markdown = markdown.replace(mark, text())
    return markdown


if __name__ == "__main__":
    INSTALL.write_text(made(INSTALL), encoding="utf-8")
    for make in MARKS.values():
        print(make(), "\n")
