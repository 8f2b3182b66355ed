"""Extras: the table is that of the package's metadata, and every hint names an extra that exists."""

import re
import tomllib
from pathlib import Path

import pytest

from sharedllm.utils.extras import EXTRAS, absent, command, missing

ROOT = Path(__file__).parents[2]
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
# Names of distributions that are imported by another name.
IMPORTED = {
    "langchain-core": "langchain_core",
    "llama-index-core": "llama_index.core",
    "python-calamine": "python_calamine",
}
FOR_DEVELOPERS = {"dev", "docs"}


def test_the_table_is_that_of_the_metadata():
    assert EXTRAS.keys() == DECLARED.keys() - FOR_DEVELOPERS
    for name, extra in EXTRAS.items():
        named = [re.split(r"[>=\[]", requirement)[0] for requirement in DECLARED[name]]
        assert sorted(extra.modules) == sorted(IMPORTED.get(n, n) for n in named), name


@pytest.mark.parametrize("folder", ["src", "docs", "README.md"])
def test_hints_name_extras_that_exist(folder):
    path = ROOT / folder
    files = (
        [path]
        if path.is_file()
        else [f for f in path.rglob("*") if f.suffix in (".py", ".md", ".html", ".js", ".ipynb")]
    )
    found = [name for file in files for name in re.findall(r"sharedllm\[([a-z-]+)\]", file.read_text(encoding="utf-8"))]
    assert set(found) <= DECLARED.keys() and (found or folder == "README.md")


def test_what_is_absent(monkeypatch):
    real = __import__("importlib.util").util.find_spec

    def find(name):
        if name.startswith("llama_index."):
            raise ModuleNotFoundError(name)
        return None if name == "uvicorn" else real(name)

    monkeypatch.setattr("importlib.util.find_spec", find)
    assert absent("serve") == ["uvicorn"] and absent("llama-index") == ["llama_index.core"]
    assert str(missing("serve", "uvicorn")) == "uvicorn is not installed: pip install 'sharedllm[serve]'."
    assert command("llama-index") == "pip install 'sharedllm[llama-index]'"
