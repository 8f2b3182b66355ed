"""The wheel: small, whole, and also built from the source distribution; without extras nothing is a traceback."""

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from sharedllm.utils.extras import EXTRAS, command

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
MOST_BYTES = 25e6
# Modules that can't be imported without an extra, besides all of `serving`; all others can.
NEED = {"evaluation.lm_eval", "integrations.langchain", "integrations.llama_index"} | {
    f"training.{name}" for name in ("ablation", "output", "parallel", "run", "stopping")
}
# Runs a program in which the libraries of all extras are not installed.
WITHOUT = f"""
import sys
from importlib.machinery import PathFinder
class Installed(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        absent = name in {sorted(m for e in EXTRAS.values() for m in e.modules)!r}
        return None if absent else PathFinder.find_spec(name, path, target)
sys.meta_path[:] = [Installed if finder is PathFinder else finder for finder in sys.meta_path]
"""


def process(*arguments, **options):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False, **options
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of a wheel and a source distribution, built without the network."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    done = process("-m", "hatchling", "build", "-d", folder, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return folder


def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return sorted(archive.namelist())


def test_the_wheel_is_small_and_whole(built):
    (wheel,) = built.glob("*.whl")
    assert wheel.stat().st_size < MOST_BYTES
    inside = [name for name in names(wheel) if ".dist-info/" not in name]
    files = [f for f in (ROOT / "src").rglob("*") if f.is_file() and "__pycache__" not in f.parts]
    assert inside == sorted(f.relative_to(ROOT / "src").as_posix() for f in files)
    assert {"sharedllm/py.typed", "sharedllm/bundled/tiny/model.safetensors"} <= set(inside)


def test_the_wheel_says_what_it_needs(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        read = {
            n.rpartition("/")[2]: archive.read(n).decode()
            for n in archive.namelist()
            if (".dist-info/" in n and "." in n.rpartition("/")[2]) or n.endswith(("METADATA", "LICENSE"))
        }
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "sharedllm = sharedllm.cli:main" in read["entry_points.txt"]
    lines = read["METADATA"].splitlines()
    assert {f"Provides-Extra: {name}" for name in declared["optional-dependencies"]} <= set(lines)
    needed = [
        line.removeprefix("Requires-Dist: ")
        for line in lines
        if line.startswith("Requires-Dist: ") and "extra ==" not in line
    ]
    assert len(needed) == len(declared["dependencies"]) and any(line.startswith("torch>=") for line in needed)
    assert "Apache License" in read["LICENSE"]


def test_the_source_distribution_builds_the_same_wheel(built, tmp_path):
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        inside = archive.getnames()
    assert not any("__pycache__" in name or "/.git" in name for name in inside if not name.endswith(".gitignore"))
    done = process("-m", "pip", "wheel", "--no-index", "--no-build-isolation", "--no-deps", "-w", tmp_path, source)
    assert done.returncode == 0, done.stderr
    (again,), (wheel,) = tmp_path.glob("*.whl"), built.glob("*.whl")
    assert names(again) == names(wheel)
    assert any(name.endswith("tests/installation/test_wheel.py") for name in inside)


def test_modules_that_need_an_extra_are_known():
    """In particular no module of a command needs one before the command asks for it."""
    modules = sorted(
        ".".join(f.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
        for f in (ROOT / "src/sharedllm").rglob("*.py")
        if f.name != "__main__.py"
    )
    program = WITHOUT + (
        "import importlib\n"
        f"for name in {modules!r}:\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "    except Exception as error:\n"
        "        print(name.removeprefix('sharedllm.'), type(error).__name__)\n"
    )
    done = process("-c", program)
    assert done.returncode == 0, done.stderr
    failed = dict(line.split() for line in done.stdout.splitlines())
    assert {name for name in failed if name.split(".")[0] != "serving"} == NEED
    with_a_hint = {name: kind for name, kind in failed.items() if name in NEED and not name.startswith("training.")}
    assert set(with_a_hint.values()) <= {"MissingExtra", "UserError"}  # the commands say it for the others


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["serve"], "serve"),
        (["train", ROOT / "recipes/tiny-recall.yaml"], "train"),
        (["ablate", ROOT / "recipes/ablations/tiny.yaml"], "train"),
        (["info", "x.gguf"], "gguf"),
        (["read", "x.pdf", "-o", "x.memory"], "documents"),
        (["extend", "base", "-o", "extended"], None),
        (["ask", "x.txt", "Who sang?"], None),
        (["models"], None),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else str(value),
)
def test_commands_without_extras(tmp_path, arguments, extra):
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    (tmp_path / "x.pdf").write_bytes(b"%PDF-1.4\n")
    (tmp_path / "x.txt").write_text("The falcon of silver sang in a quiet harbour.\n" * 20)
    done = process("-c", WITHOUT + "from sharedllm.cli import main\nmain()", *arguments, cwd=tmp_path)
    assert "Traceback" not in done.stderr, done.stderr
    if extra is None:
        assert done.returncode == 0, done.stderr
    else:
        said = done.stderr.splitlines()[-1]
        assert done.returncode == 2 and command(extra).replace("'", '"') in said.replace("'", '"'), done.stderr
