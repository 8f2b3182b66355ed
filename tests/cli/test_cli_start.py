"""Commands that need no model don't load its libraries: help, version, typos, missing files, shell completion."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sharedllm import __version__

SLOW = ("torch", "transformers", "numpy", "matplotlib", "starlette")
# Runs the command line in a separate process, then reports on stderr which slow libraries were imported.
PROGRAM = f"""
import sys
from sharedllm.cli import main
try:
    main()
finally:
    print("imported:", *[name for name in {SLOW!r} if name in sys.modules], file=sys.stderr)
"""


def start(*arguments, folder, **environment):
    """Exit code, stdout, stderr and imported libraries."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    said, _, imported = done.stderr.rpartition("imported:")
    return done.returncode, done.stdout, said, imported.split()


HELP = [
    (["--help"], "Read texts far longer than a model's window"),
    (["read", "--help"], "--keep-all"),
    (["memory", "--help"], "forget"),
    (["memory"], "forget"),
    (["--version"], f"sharedllm {__version__}"),
]
RECIPES = Path(__file__).parents[2] / "recipes"
TRAIN = ["train", str(RECIPES / "minute.yaml")]
LONG = ["--set", "model={}", "--set", "running=1024", "--set", "context=0"]
ABLATE = ["ablate", str(RECIPES / "ablations/tiny.yaml"), "--set", "data.sources={a: {files: here.txt}}"]
WRONG = [
    (["reed"], "No such command 'reed'. Did you mean 'read'"),
    (
        ["ask", "a", "b", "--model"],
        "Option '--model' requires an argument. It is called as `sharedllm ask [OPTIONS] SOURCE",
    ),
    (["ask", "a"], "Missing argument 'question'. It is called as `sharedllm ask [OPTIONS] SOURCE QUESTION`;"),
    (
        ["memory", "check", "a", "b"],
        "(b). It is called as `sharedllm memory check [OPTIONS] MEMORY`; `sharedllm memory check",
    ),
    (["ask", "a", "b", "--bugdet", "9"], "`sharedllm ask --help` shows more."),
    (["ask", "a", "b", "--budget", "0"], "--budget 0 is not allowed: it must be greater than or equal to 1."),
    (["ask", "a", "b", "--budget=nan"], "--budget nan is not allowed: nan is no number; it must be a valid integer."),
    (["ask", "a", "b", "--budget", ""], "--budget '' is not allowed: it must be a valid integer."),
    (
        ["generate", "--prompt", "p", "--temperature", "nan"],
        "--temperature nan is not allowed: nan is no number; it must be",
    ),
    (["read", "a", "-o", "b", "--storage", "int4"], "--storage int4 is not allowed: 'int4' is not one of 'model'"),
    (["read", "a.txt"], "Missing option '-o'"),
    (["qa", "--model", "tiny"], "No such option: --model. It is an argument here: `sharedllm qa MODEL`."),
    (["extend", "--model=x"], "No such option: --model. It is an argument here: `sharedllm extend BASE`."),
    (["info", "x", "--model", "y"], "`sharedllm info` needs no --model: leave it out, or name a model as SOURCE."),
    (["models", "--model", "x"], "No such option: --model"),
    (["recall", "--seed", "-1"], "--seed -1 is not allowed: it must be greater than or equal to 0."),
    (["read", "nosuch.txt", "-o", "x.memory"], "nosuch.txt does not exist: check the name."),
    (["read", "*.nosuch", "-o", "x.memory"], "*.nosuch matches no file"),
    (["read", ".", "-o", "x.memory", "--exclude", "*"], ". holds no file to read"),
    (["ask", "nosuch.txt", "q"], "nosuch.txt does not exist"),
    (["read", "", "-o", "x.memory"], "a name of what to read is blank (''): name a file or a folder"),
    (["read", "here.txt", " ", "-o", "x.memory"], "a name of what to read is blank (' ')"),
    (
        ["read", "here.txt", "-o", ""],
        "--output '' is not allowed: it is blank: name a file or a folder; the current one is `.`.",
    ),
    (["explain", "here.txt", "q", "-o", " "], "--output is not allowed: it is blank"),
    (["memory", "forget", "", "x"], "it is blank: name a file or a folder; the current one is `.`."),
    (["memory", "merge", "", "here.txt", "-o", "x.memory"], "it is blank"),
    (["memory", "recover", "", "-o", "x.memory"], "it is blank"),
    (["train", ""], "it is blank"),
    (["ablate", ""], "it is blank"),
    (["read-corpus", "here.txt", "-o", ""], "--output '' is not allowed: it is blank"),
    (["ask", "", "q"], "a name of what to read is blank ('')"),
    (["ask", " ", "q"], "a name of what to read is blank (' ')"),
    (["ask", "nosuch.memory", "q"], "nosuch.memory does not exist: check the name, or make it with"),
    (["explain", "nosuch.txt", "q"], "nosuch.txt does not exist"),
    (["chat", "nosuch.memory"], "nosuch.memory does not exist"),
    (["serve", "nosuch.memory"], "nosuch.memory does not exist"),
    (["generate", "--prompt", "p", "--context", "nosuch.txt"], "nosuch.txt does not exist"),
    (["info", "nosuch.memory"], "nosuch.memory does not exist"),
    (["memory", "check", "nosuch.memory"], "nosuch.memory does not exist"),
    (["memory", "merge", "nosuch.memory", "-o", "x.memory"], "nosuch.memory does not exist"),
    (["questions", "nosuch.txt", "-o", "x.jsonl"], "nosuch.txt does not exist"),
    (["questions", "here.txt", "-o", "none/sub/x.jsonl"], "the folder none/sub does not exist: create it"),
    (["explain", "here.txt", "q", "-o", "none/sub/x.html"], "the folder none/sub does not exist: create it"),
    (["questions", "here.txt", "-o", "."], "-o . is a folder: name a file in it."),
    (["questions", "here.txt", "-o", "here.txt/x.jsonl"], "-o here.txt is a file, not a folder: name another one."),
    (["info", "here.txt"], "here.txt is a file: name a memory, a corpus, a model's folder, or a .gguf file."),
    (["explain", "here.txt", "q", "-o", "here.txt/x.html"], "-o here.txt is a file, not a folder"),
    (["extend", "base", "-o", "x", "--data", "nosuch.txt"], "nosuch.txt does not exist"),
    (["calibrate", "x", "--data", "nosuch.txt"], "nosuch.txt does not exist"),
    (["diagnose", "--text", "nosuch.txt"], "nosuch.txt does not exist"),
    (["demo", "nosuch.txt"], "nosuch.txt does not exist"),
    (["ask", ".", "q", "--model", "nosuch"], "there is no folder nosuch and no bundled model of that name"),
    (["read", "here.txt", "-o", "x.memory", "--model", "./nosuch"], "./nosuch does not exist or is not a folder"),
    (["info", "nosuch"], "there is no folder nosuch"),
    (["extend", "nosuch", "-o", "x"], "there is no folder nosuch"),
    (["diagnose", "nosuch", "--text", "here.txt"], "there is no folder nosuch"),
    (["calibrate", "nosuch", "--data", "here.txt"], "there is no folder nosuch"),
    (["tokenize", "here.txt", "-o", "x", "--tokenizer", "nosuch"], "there is no folder nosuch"),
    (["eval", "loss", "--data", "here.txt", "-o", "x", "--base", "nosuch"], "there is no folder nosuch"),
    (["qa", "nosuch", "--data", ".", "-o", "x"], "there is no folder nosuch"),
    (["recall", "--data", "here.txt", "-o", "x", "--base", "nosuch"], "there is no folder nosuch"),
    (["train", "nosuch.yaml"], "can't read the recipe nosuch.yaml: it does not exist"),
    ([*TRAIN, "--set", "step=3"], "step is not a key of a recipe: do you mean steps?"),
    (
        [*TRAIN, "--set", "wramup=3", "--set", "step=3"],
        "do you mean warmup? step is not a key of a recipe: do you mean",
    ),
    ([*TRAIN, "--set", "model.windw=64"], "model.windw is not a setting of a SharedLLM: do you mean window?"),
    ([*TRAIN, "--set", "steps=many"], "steps='many' must be of type int"),
    ([*TRAIN, "--set", "model.window=64"], "running=512 does not fit into window=64 of the model"),
    # The window is the base's own.
    ([*TRAIN, *LONG, "--set", "base=base"], "running=1024 does not fit into window=512 of the base base"),
    ([*TRAIN, *LONG, "--set", "base=tiny"], "running=1024 does not fit into window=512 of the base tiny"),
    ([*TRAIN, "--set", "data.sources.a.files=nosuch.txt"], "data.sources.a.files: nosuch.txt does not exist"),
    ([*TRAIN, "--set", "base=nosuch"], "base: there is no folder nosuch"),
    ([*TRAIN, "--set", "data.instructions=[no.jsonl]"], "data.instructions: no.jsonl does not exist"),
    (["ablate", TRAIN[1]], "must hold recipe, variants and, if wanted, change and seeds."),
    ([*ABLATE, "--only", "nosuch"], "--only nosuch is not a variant: use some of 'joint softmax', "),
    ([*ABLATE, "--set", "base=nosuch"], "variant joint softmax: base: there is no folder nosuch"),
    (
        [*ABLATE, *LONG],
        "variant joint softmax: running=1024 does not fit into window=512 of the base base",
    ),
    (["ablate", "nosuch.yaml"], "can't read the recipe nosuch.yaml: it does not exist"),
]
# One process for all, each beginning in a new folder; what one imported would be seen from there on.
ALL = f"""
import contextlib, io, json, pathlib, sys
from sharedllm.cli import main
for number, arguments in enumerate(json.load(sys.stdin)):
    folder = pathlib.Path(sys.argv[1]) / str(number)
    folder.mkdir()
    (folder / "here.txt").write_text("text")
    out, err, code = io.StringIO(), io.StringIO(), None
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code
    imported = [name for name in {SLOW!r} if name in sys.modules]
    print(json.dumps([code, out.getvalue(), err.getvalue(), imported, [path.name for path in folder.iterdir()]]))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """By arguments: exit code, stdout, stderr, imported libraries and what is in the folder afterwards."""
    asked = [arguments for arguments, _ in HELP + WRONG]
    command = [sys.executable, "-c", ALL, str(tmp_path_factory.mktemp("wrong"))]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=True)
    return {" ".join(a): json.loads(line) for a, line in zip(asked, done.stdout.splitlines(), strict=True)}


@pytest.mark.parametrize(("arguments", "shown"), HELP, ids=" ".join)
def test_help_and_version_load_nothing_slow(answers, arguments, shown):
    code, out, err, imported, _ = answers[" ".join(arguments)]
    assert (code, err, imported) == (0, "", [])
    assert shown in out


@pytest.mark.parametrize(("arguments", "said"), WRONG, ids=" ".join)
def test_what_is_not_there_is_said_before_anything_is_loaded(answers, arguments, said):
    code, out, err, imported, files = answers[" ".join(arguments)]
    assert (code, out, imported) == (2, "", [])
    assert err.startswith("error: ") and said in err and err.count("\n") == 1
    assert files == ["here.txt"]


def test_shell_completion(tmp_path):
    # `--show-completion` prints this for the current shell.
    code, out, _, imported = start(folder=tmp_path, _SHAREDLLM_COMPLETE="source_bash")
    assert (code, imported) == (0, [])
    assert "_SHAREDLLM_COMPLETE=complete_bash" in out
    asked = {"_SHAREDLLM_COMPLETE": "complete_bash", "COMP_WORDS": "sharedllm re", "COMP_CWORD": "1"}
    code, out, _, imported = start(folder=tmp_path, **asked)
    assert (code, imported) == (0, [])
    assert out.split() == ["read", "read-corpus", "recall", "report"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs named pipes in the file system")
def test_a_pipe_is_read_once(run, tmp_path, small_folder):
    """As in `read <(command)`: bytes that are looked at before reading are lost."""
    import threading

    pipe, text = tmp_path / "pipe", "A line of text.\n" * 20
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(text,), daemon=True)
    writer.start()
    code, out, _ = run("read", pipe, "-o", tmp_path / "x.memory", "--model", small_folder, "--json")
    assert code == 0 and f'"tokens": {len(text)}' in out
