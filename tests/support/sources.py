"""The package's source as syntax trees, each parsed once."""

import ast
from functools import cache
from pathlib import Path

import sharedllm

PACKAGE = Path(sharedllm.__file__).parent


@cache
def trees() -> dict[Path, ast.Module]:
    """Of all modules, by path."""
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
