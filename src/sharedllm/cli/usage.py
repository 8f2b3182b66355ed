"""One line for what the argument parser refuses: the option, what was given, what is allowed, and where help is."""

import re
from collections.abc import Sequence
from typing import Any

_REMOVES = "`sharedllm memory forget MEMORY NAME` removes a document."
# What people call what has another name here.
_MEANT = {
    "memory list": "`sharedllm info MEMORY` lists the documents of a memory.",
    "memory remove": _REMOVES,
    "memory delete": _REMOVES,
}


def usage_line(error: Any, arguments: Sequence[str]) -> str:
    """
    Args:
        error: of the parser, which has `format_message`. arguments: those of the command line.
    """
    line, context = error.format_message(), getattr(error, "ctx", None)
    options = getattr(getattr(error, "param", None), "opts", None) or []
    kind = type(error).__name__
    if kind == "BadParameter" and options:
        allowed = re.sub(r"^Value error, |, unable to parse .*$", "", error.message)
        allowed = re.sub(r"^Input should be ", "it must be ", allowed).rstrip(".")
        given = _given(arguments, options)
        if given is not None and given.lower() == "nan" and allowed.startswith("it must be"):
            allowed = f"nan is no number; {allowed}"
        shown = options[-1] if given is None else f"{options[-1]} {given or repr(given)}"
        return f"{shown} is not allowed: {allowed}."
    if kind == "NoSuchOption" and context is not None and error.option_name == "--model":
        taken = [param.name for param in context.command.params if param.param_type_name == "argument"]
        if "source" in taken:
            return f"`{context.command_path}` needs no --model: leave it out, or name a model as SOURCE."
        if named := [name for name in taken if name in ("model", "base")]:
            return f"No such option: --model. It is an argument here: `{context.command_path} {named[0].upper()}`."
    missing = re.match(r"No such command '(.*?)'", line)
    if context is not None and missing and (meant := _MEANT.get(f"{context.info_name} {missing[1]}")):
        return f"{missing[0]}: {meant}"
    if context is None or line.endswith("?"):  # it says which command may have been meant
        return line
    if missing:
        return f"{line} `{context.command_path} --help` lists them."
    called = " ".join(context.get_usage().removeprefix("Usage:").split())
    called = re.sub(r"\{(\w+)\}", lambda argument: argument[1].upper(), called)
    return f"{line.rstrip('.')}. It is called as `{called}`; `{context.command_path} --help` shows more."


def _given(arguments: Sequence[str], options: Sequence[str]) -> str | None:
    """The last value of an option, or None if it isn't found."""
    found = None
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in options:
            found = value if equals else next(iter(arguments[i + 1 : i + 2]), None)
    return found
