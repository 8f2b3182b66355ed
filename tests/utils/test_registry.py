"""Tables of things by name."""

import subprocess
import sys

import pytest

from sharedllm.utils.registry import Registry


@pytest.fixture
def registry() -> Registry:
    found = Registry("thing={}", aliases={"old": "path"})
    found.add("path", "pathlib:PurePosixPath", "made when it is asked for")
    found.add("number", 3, "a thing that is there already")
    return found


def test_things_are_found_by_name(registry):
    assert str(registry["path"]) == "." and registry["number"] == 3
    assert registry["path"] is registry["old"] is registry.find("old"), "made once"
    assert list(registry) == ["path", "number"] and len(registry) == 2 and "old" in registry
    assert registry.about["number"] == "a thing that is there already"


def test_a_name_is_given_once_and_an_unknown_one_lists_the_others(registry):
    with pytest.raises(ValueError, match="thing='path' already exists"):
        registry.add("path", 4)
    with pytest.raises(ValueError, match="thing='best' is not known: use one of path, number"):
        registry.find("best")
    registry.remove("number")
    assert "number" not in registry and registry.names == "path"


@pytest.mark.parametrize("package", ["sharedllm.context.policies", "sharedllm.scoring"])
def test_names_cost_nothing(package):
    """For a package imported alone, because `sharedllm` may import more."""
    code = (
        "import sys, types; root = types.ModuleType('sharedllm'); root.__path__ = [sys.argv[1]]; "
        f"sys.modules['sharedllm'] = root; import {package}; print('torch' in sys.modules)"
    )
    source = __import__("sharedllm").__path__[0]
    done = subprocess.run([sys.executable, "-c", code, source], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
