"""What Windows and macOS need, as far as it can be seen on any system."""

import ast
import os
import subprocess
import sys
from pathlib import Path, PureWindowsPath

import pytest
import yaml
from sources import trees

from sharedllm.documents import folder
from sharedllm.store.ownership import owning
from sharedllm.utils import files

POSIX = ("fcntl", "grp", "pwd", "resource", "termios")
# Imports everything of the package with the modules missing that Windows lacks; to other packages they are there.
IMPORT_ALL = f"""
import builtins, importlib, pkgutil
real = builtins.__import__
def without(name, globals=None, *more, **named):
    if name.partition(".")[0] in {POSIX} and (globals or {{}}).get("__name__", "").startswith("sharedllm"):
        raise ImportError(name)
    return real(name, globals, *more, **named)
builtins.__import__ = without
import sharedllm
names = [m.name for m in pkgutil.walk_packages(sharedllm.__path__, "sharedllm.") if not m.name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
from sharedllm.utils.hardware import peak_resident
try:
    peak_resident()
except AttributeError as error:  # of Windows only
    assert "peak_wset" in str(error)
print(len(names))
"""


@pytest.mark.slow
def test_every_module_is_imported_without_what_windows_lacks():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", IMPORT_ALL], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) > 200


def calls(tree: ast.Module):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def is_binary(call: ast.Call) -> bool:
    modes = [a.value for a in [*call.args, *(k.value for k in call.keywords)] if isinstance(a, ast.Constant)]
    return any(isinstance(mode, str) and "b" in mode and len(mode) <= 3 for mode in modes)


def test_texts_are_opened_as_utf_8():
    """Windows would take its own encoding."""
    for path, (call, name) in ((path, found) for path, tree in trees().items() for found in calls(tree)):
        text = name in ("read_text", "write_text") and isinstance(call.func, ast.Attribute)
        opens = name == "open" and not is_binary(call) and isinstance(call.func, ast.Attribute)
        opens = opens and not (
            isinstance(call.func.value, ast.Name) and call.func.value.id in ("os", "MemoryStore", "pdfium")
        )
        if (text and "/proc/" not in ast.unparse(call)) or (
            opens and [a for a in call.args if isinstance(a, ast.Constant) and a.value in ("r", "w", "a", "x")]
        ):
            assert any(k.arg == "encoding" for k in call.keywords), f"{path}:{call.lineno}"


def test_signals_that_windows_lacks_are_guarded():
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in ("SIGKILL", "SIGHUP", "SIGALRM", "SIGUSR1", "fork"):
                raise AssertionError(f"{path}:{node.lineno}: signal.{node.attr}")


@pytest.mark.parametrize("fails", [1, 3])
def test_on_windows_a_file_that_is_being_read_is_replaced_after_a_while(tmp_path, monkeypatch, fails):
    replace, tried = Path.replace, []

    def busy(self, target):
        tried.append(self)
        if len(tried) <= fails:
            raise PermissionError(13, "The process cannot access the file")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", busy)
    with pytest.raises(PermissionError):  # elsewhere permission does not come by waiting
        files.write_text(tmp_path / "a", "one")
    tried.clear()
    monkeypatch.setattr(files, "WINDOWS", True)
    files.write_text(tmp_path / "a", "two")
    assert (tmp_path / "a").read_text() == "two" and len(tried) == fails + 1
    tried.clear()
    monkeypatch.setattr(files, "_ATTEMPTS", fails)
    with pytest.raises(PermissionError):
        files.write_text(tmp_path / "a", "three")
    assert (tmp_path / "a").read_text() == "two" and os.listdir(tmp_path) == ["a"]


def test_stored_names_have_forward_slashes(monkeypatch, tmp_path):
    assert files.slashes("a\\b") == "a\\b"  # a name like any other on Linux
    monkeypatch.setattr(files, "WINDOWS", True)
    assert files.slashes(str(PureWindowsPath("docs", "a", "b.txt"))) == "docs/a/b.txt"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs" / "deep").mkdir(parents=True)
    (tmp_path / "docs" / "deep" / "a.txt").write_text("a")
    monkeypatch.setattr(folder.os.path, "normpath", lambda name: str(PureWindowsPath(name)))
    assert folder.find(["docs/deep/a.txt"]).files == ["docs/deep/a.txt"]
    assert folder.inside("docs/deep/a.txt", "docs")


def test_what_windows_can_not_delete_yet_is_left(tmp_path, monkeypatch):
    """The lock is open while a store that failed is removed."""
    unlink = Path.unlink

    def open_there(self, missing_ok=False):
        if self.name == "lock":
            raise PermissionError(13, "The process cannot access the file")
        unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", open_there)
    with pytest.raises(KeyError), owning(tmp_path / "a.memory"):
        raise KeyError
    assert os.listdir(tmp_path / "a.memory") == ["lock"]
    with owning(tmp_path / "a.memory"):
        pass


def test_the_workflow_sets_up_and_tests_as_the_makefile_does():
    root = Path(__file__).parent.parent
    jobs = yaml.safe_load((root / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))["jobs"]
    matrix = jobs["test"]["strategy"]["matrix"]
    assert [os.partition("-")[0] for os in matrix["os"]] == ["ubuntu", "macos", "windows"]
    assert matrix["python"][0] in (root / "pyproject.toml").read_text(encoding="utf-8")
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    test, windows = (step for step in jobs["test"]["steps"] if "run" in step)
    (lint,) = (step for step in jobs["lint"]["steps"] if "run" in step)
    assert (test["run"], lint["run"]) == ("make test PYTHON=python", "make lint PYTHON=python")
    assert (test["if"], windows["if"]) == ("runner.os != 'Windows'", "runner.os == 'Windows'")
    *installs, tests = windows["run"].splitlines()
    assert [line.partition(" --constraint constraints.txt ")[2] for line in installs] == [
        "torch",
        "--editable '.[dev]'",
    ]
    assert "$(PIP) torch\n" in makefile and "$(call install,'.[dev]')" in makefile
    assert tests.removeprefix("python ") in makefile
