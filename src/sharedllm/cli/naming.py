"""Errors of the package name its arguments, as `score='x'`; those of a command name the option, as `--score x`."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from typer.core import TyperCommand, TyperGroup

from ..utils.errors import ITS_MODEL, UserError


class _Named:
    """What both kinds of commands have in common."""

    params: list[Any]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)  # pyright: ignore[reportAttributeAccessIssue]
        except Exception as error:
            # An option without its value does not know the command that it is for.
            if getattr(error, "ctx", ctx) is None:
                error.ctx = ctx  # pyright: ignore[reportAttributeAccessIssue]
            raise

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)  # pyright: ignore[reportAttributeAccessIssue]
        except UserError as error:
            error.args = (in_options(str(error), self.params, ctx.params),)
            raise


class NamedCommand(_Named, TyperCommand):
    """A command whose errors name its options."""


class NamedGroup(_Named, TyperGroup):
    """The same for a command that has others below it."""


def in_options(message: str, parameters: Iterable[Any], given: Mapping[str, Any]) -> str:
    """A message in which the values of arguments that are options here are written as on the command line, and the model that
    made a memory as what is to be given with --model. A memory knows that model by its fingerprint, so how to find it is told too.

    Args:
        parameters: of the command; only its options count. given: their values by name.
    """
    options = {p.name: p for p in parameters if p.param_type_name == "option"}
    if "model" in options:
        how = f"its folder or name with --model instead of {given['model']} (`sharedllm info MODEL` shows the fingerprint of one)"
        message = message.replace(ITS_MODEL, f"{ITS_MODEL}, {how}")

    def written(match: re.Match[str]) -> str:
        name, value, quoted = match["name"], match["value"], match["quoted"]
        option = options.get(name)
        if option is None or (option.is_flag and value != "True"):
            return match[0]
        shown = max(option.opts, key=len)
        if option.is_flag:
            return shown
        plain = quoted and re.fullmatch(r"[\w.:/+-]+", quoted)
        return f"{shown} {quoted if plain else value}"  # quotes stay where a shell needs them too

    # Neither a part of a longer name, such as `train.window=1`, nor of an option, such as `--a=b`.
    return re.sub(r"(?<![\w.=-])(?P<name>[a-z]\w*)=(?P<value>'(?P<quoted>[^']*)'|True\b|(?=[^\s=]))", written, message)
