"""Nothing imports upwards: a package may use itself and earlier packages in the order of the data."""

import ast
from pathlib import Path

import sharedllm

PACKAGE = Path(sharedllm.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
# Each line may use itself and all lines before it.
ORDER = [
    ["utils"],
    ["documents"],
    ["prompts"],
    ["context"],
    ["memory"],
    ["model"],
    ["scoring"],
    ["causal_lm", "loading", "generation", "rows", "decoding", "reference", "reference_deep"],
    ["store"],
    ["answering"],
    ["corpus"],
    ["data"],
    ["systems"],
    ["training"],
    ["diagnosis"],
    ["evaluation"],
    ["benchmark"],
    ["explain"],
    ["serving", "integrations"],
    ["demo", "installation"],
    ["cli"],
    ["auto", "__init__", "__main__"],
]
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}


def imported(path: Path) -> set[str]:
    """Subpackages and top-level modules that a file imports anywhere, including inside functions."""
    parents, found = ("sharedllm", *path.relative_to(PACKAGE).parts[:-1]), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {(name.split(".") + ["__init__"])[1] for name in names if name.split(".")[0] == "sharedllm"}
    return {name if name in RANK or (PACKAGE / name).exists() else "__init__" for name in found}


def place(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_package_has_a_place():
    assert {place(path) for path in SOURCES} - RANK.keys() == set()


def test_nothing_imports_upwards():
    upwards = {}
    for path in SOURCES:
        # The version is next to the public names, which are loaded on first use.
        later = {name for name in imported(path) if RANK.get(name, len(ORDER)) > RANK[place(path)]}
        if later:
            upwards[str(path.relative_to(PACKAGE))] = later
    assert len(SOURCES) > 200 and upwards == {}, "these files import what comes after them"


def test_no_import_for_types_only():
    assert [path for path in SOURCES if "TYPE_CHECKING" in path.read_text(encoding="utf-8")] == []
