"""An error names what was typed: the option of the command, not the argument of a function below it."""

import ast
import re
from pathlib import Path

import pytest
from typer.main import get_command

import sharedllm
from sharedllm.cli.app import app
from sharedllm.cli.naming import in_options
from sharedllm.utils.errors import ITS_MODEL


@pytest.mark.parametrize(
    ("command", "message", "shown"),
    [
        ("ask", "score='foo' is not known: use one of focus.", "--score foo is not known: use one of focus."),
        ("ask", "score='a b' is not known", "--score 'a b' is not known"),
        ("ask", "score='' is not known", "--score '' is not known"),
        ("ask", "budget=9 is less than the 12 tokens of the longest piece", "--budget 9 is less than the 12 tokens of the longest piece"),
        ("ask", "use score='focus' or score='bm25'.", "use --score focus or --score bm25."),
        (
            "ask",
            f"x; {ITS_MODEL}, or",
            "x; use the model that made it, its folder or name with --model instead of tiny (`sharedllm info MODEL` shows the fingerprint of one), or",
        ),
        ("bench", f"x; {ITS_MODEL}, or", "=same"),
        ("extend", "chunk_size=1 and injection='deep' differ", "--chunk-size 1 and --injection deep differ"),
        ("extend", "strides=[2, 4] must not grow", "--strides [2, 4] must not grow"),
        ("read", "keep_all=True needs encoding='chunk'", "--keep-all needs encoding='chunk'"),
        ("read", "keep_all=False is odd", "keep_all=False is odd"),
        ("ask", "in the window=64: shorten it", "in the window=64: shorten it"),
        ("ask", "question='x' is odd, train.budget=3, --a-score=3, the score==3", "=same"),
    ],
)  # fmt: skip
def test_names_of_options(command, message, shown):
    parameters = get_command(app).commands[command].params
    given = {parameter.name: parameter.default for parameter in parameters}
    assert in_options(message, parameters, given) == (message if shown == "=same" else shown)


def test_commands_name_their_options(run, base_folder, small_folder, tmp_path):
    text = tmp_path / "a.txt"
    text.write_text("Foxes jump over dogs. " * 30)
    for arguments in (["ask", text, "Who?"], ["chat", text], ["explain", text, "Who?", "-o", tmp_path / "a.html"]):
        code, out, err = run(*arguments, "--model", small_folder, "--score", "foo")
        assert (code, out) == (2, "") and err.startswith("error: --score foo is not known: use one of "), err
    code, _, err = run("extend", base_folder, "-o", tmp_path / "x", "--paper", "--chunk-size", 1)
    assert code == 2 and err.startswith("error: --chunk-size 1 must be at least 2"), err
    code, _, err = run("bench", "-o", tmp_path / "b", "--new-tokens", 100_000)
    assert code == 2 and err.startswith("error: --new-tokens 100000 must be "), err


def errors(code: str) -> list[str]:
    """The texts of the errors that a module raises, with {} for values."""
    calls = (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call))
    parts = [part for call in calls if "Error" in ast.unparse(call.func) for part in call.args]
    return [
        "".join(
            str(piece.value) if isinstance(piece, ast.Constant) else "{}" for piece in getattr(part, "values", [part])
        )
        for part in parts
        if isinstance(part, ast.Constant | ast.JoinedStr)
    ]


def test_only_commands_name_options():
    """A function is called from Python too, where an option means nothing; whole commands are in backticks."""
    package = Path(sharedllm.__file__).parent
    modules = [path for path in package.rglob("*.py") if path.relative_to(package).parts[0] != "cli"]
    found = {path: errors(path.read_text(encoding="utf-8")) for path in modules}
    assert sum(map(len, found.values())) > 300
    odd = [(path.name, text) for path, texts in found.items() for text in texts
           if re.search("(^|[ (])--?[a-z]", re.sub("`[^`]*`", "", text))]  # fmt: skip
    assert odd == []
