"""What the operating system refuses is one line that names the file, the reason and the fix."""

import errno
import os
import re
from pathlib import Path

import pytest

from sharedllm.cli import common, info, main
from sharedllm.memory.opening import read_header
from sharedllm.store import is_memory, look
from sharedllm.utils.errors import UserError

FIX = "Permission denied; ask for the right to it (`ls -ld` shows who has it), or name another."
LONG = "a" * 300


@pytest.fixture
def close(monkeypatch):
    """Makes folders that may not be entered, and files that may not be read, also for root."""
    access, stat, shut = os.access, Path.stat, []

    def closed(*paths):
        shut.extend(map(str, paths))

    def looks(path, *args, **kwargs):
        if any(str(parent) in shut for parent in path.parents):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return stat(path, *args, **kwargs)

    monkeypatch.setattr(os, "access", lambda path, mode: str(path) not in shut and access(path, mode))
    monkeypatch.setattr(Path, "stat", looks)
    return closed


def test_a_folder_that_may_not_be_entered(tmp_path, monkeypatch, run, close):
    monkeypatch.chdir(tmp_path)
    Path("pr").mkdir()
    Path("pr/a.txt").write_text("a text")
    close("pr")
    assert run("read", "pr", "-o", "a.memory") == (2, "", f"error: pr can't be read: {FIX}\n")
    for command in (["ask", "pr", "q"], ["info", "pr"], ["read", "pr/a.txt", "-o", "a.memory"]):
        code, out, err = run(*command)
        assert (code, out) == (2, "") and err == f"error: pr can't be used: {FIX}\n"
    with pytest.raises(UserError, match=r"^pr can't be read: Permission denied; ask"):
        is_memory("pr")


def test_a_folder_inside_that_may_not_be_entered(tmp_path, monkeypatch, run, close, small_folder):
    monkeypatch.chdir(tmp_path)
    for name in ("in/a.txt", "in/below/b.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("The harbour master counted crates.")
    close("in/below")
    code, _, err = run("read", "in", "-o", "a.memory", "--model", small_folder)
    assert code == 0 and "1 file could not be read:\n  in/below: Permission denied\n" in err, err


def test_a_manifest_and_a_block_that_may_not_be_read(tmp_path, monkeypatch, close):
    memory = tmp_path / "a.memory"
    memory.mkdir()
    (memory / "manifest.json").write_text("{}")
    close(memory)
    with pytest.raises(UserError, match=r"manifest\.json can't be read: Permission denied; ask"):
        look(memory)
    file = tmp_path / "b.memory"
    file.write_text("")
    close(file)

    def opens(*_, **__):
        raise FileNotFoundError(f"No such file or directory: {file}")

    monkeypatch.setattr("sharedllm.memory.opening.safe_open", opens)
    with pytest.raises(UserError, match=r"b\.memory can't be opened: Permission denied; ask"):
        read_header(file)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EACCES, FIX),
        (errno.ENAMETOOLONG, "File name too long; name one that is shorter."),
        (errno.EIO, "Input/output error."),
    ],
)
def test_what_the_system_refuses_has_a_fix(tmp_path, monkeypatch, capsys, number, said):
    def fails(_):
        raise OSError(number, os.strerror(number), str(tmp_path / "lock"))

    monkeypatch.setattr(info, "describe_model", fails)
    with pytest.raises(SystemExit):
        main(["info"])
    assert capsys.readouterr().err == f"error: {tmp_path / 'lock'} can't be used: {said}\n"


def test_a_name_that_is_too_long_to_write(tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("a text")
    said = f"error: -o {'a' * 99}… can't be written: File name too long; use a shorter name.\n"
    assert run("read", "a.txt", "-o", LONG) == (2, "", said)
    assert run("read-corpus", "a.txt", "-o", LONG, "--workers", 0) == (2, "", said)
    assert run("explain", "a.txt", "q", "-o", f"{LONG}.html") == (2, "", said)
    said = f"error: {'a' * 99}… can't be used: File name too long; name one that is shorter.\n"
    assert run("read", LONG, "-o", "a.memory") == (2, "", said)


def test_nan_is_no_number(run):
    said = "error: --temperature nan is not allowed: nan is no number; it must be greater than or equal to 0.\n"
    assert run("generate", "--prompt", "a", "--temperature", "nan") == (2, "", said)
    assert "nan is no number; it must be a valid integer" in run("ask", "a", "q", "--budget", "NaN")[2]
    assert "--limit-s nan is not allowed: nan is no number" in run("qa", "tiny", "-o", "q", "--limit-s", "nan")[2]
    assert "no number" not in run("read", "a", "-o", "b", "--storage", "nan")[2]


def test_settings_that_exclude_each_other_say_which_to_leave_out(run, tmp_path, small_folder):
    text, memory = tmp_path / "a.txt", tmp_path / "a.memory"
    text.write_text("The harbour master counted crates.")
    read = ["read", text, "-o", memory, "--model", small_folder]
    assert run(*read)[0] == 0
    said = "are both given: leave out --replace to continue a memory, --append to write it anew"
    assert said in run(*read, "--append", "--replace")[2]
    for option, what in (
        ("--keep-all", "so --keep-all can't be turned on: leave it out"),
        ("--storage=int8", "which stays"),
    ):
        code, _, err = run(*read, "--append", option)
        assert code == 2 and what in err and "anew with --replace" in err, err


def test_where_no_memory_can_be_is_refused_before_a_model_is_loaded(tmp_path, monkeypatch, run):
    monkeypatch.setattr("sharedllm.cli.reading.load", None)
    text = tmp_path / "things" / "a.txt"
    text.parent.mkdir()
    text.write_text("a text")
    for output, said in ((text.parent, "other content"), (tmp_path / "none" / "a.memory", "does not exist")):
        code, _, err = run("read", text, "-o", output)
        assert code == 2 and said in err


def test_progress_ends_at_its_total_without_files_that_are_left_out(run, tmp_path, monkeypatch, small_folder):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(common, "SECONDS_A_LINE", 0)
    (tmp_path / "in").mkdir()
    texts = {
        "a": b"",
        "b": b"Fields. " * 9,
        "c": b"\0" * 99,
        "d": b"Rivers. " * 9,
        "e": b"\0" * 50,
        "f": b"Meadows.\n" * 50,
    }
    for name, text in texts.items():
        (tmp_path / "in" / f"{name}.txt").write_bytes(text)
    options = ["in", "-o", "in.memory", "--model", small_folder]
    code, _, err = run("read", *options)
    assert code == 0 and "reading 6 files: 594 of 594\n3 files could not be read:" in err, err
    (tmp_path / "in" / "d.txt").write_text("Rivers. " * 10)
    code, _, err = run("read", *options, "--append")
    assert code == 0 and "reading 4 files: 80 of 80\n" in err and "2 documents unchanged" in err, err
    assert max(map(int, re.findall(r"of (\d+)\n", err))) <= 80 + 99 + 50, "a file after it that is unchanged counts"


@pytest.mark.parametrize(
    ("command", "options", "said"),
    [
        ("ask", ["  "], "the question is empty: ask something."),
        ("ask", ["?"], "the question '?' has no word: ask with one of what you look for."),
        ("ask", ["q", "--score", "nonsense"], "--score nonsense is not known: use one of attention, bm25, "),
        ("ask", ["q", "--selection", "nonsense"], "--selection nonsense is not known: use one of "),
        ("ask", ["q", "--model", "base"], "base is an ordinary LlamaForCausalLM: make a SharedLLM from it"),
        (
            "ask",
            ["q", "--model", "bert"],
            "bert is an ordinary bert, which can't be extended: model_type='bert' is not ",
        ),
        ("chat", ["--score", "nonsense"], "--score nonsense is not known: use one of attention, bm25, "),
        ("explain", [""], "the question is empty: ask something."),
        ("explain", ["q", "--score", "nonsense"], "--score nonsense is not known: use one of attention, bm25, "),
    ],
)
def test_what_can_not_be_asked_is_refused_before_the_weights_are_loaded(
    tmp_path, monkeypatch, run, command, options, said
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sharedllm.cli.loading.load_any", lambda *_: pytest.fail("a model is loaded"))
    Path("a.txt").write_text("The harbour master counted crates.")
    Path("bert").mkdir()
    Path("bert/config.json").write_text('{"model_type": "bert"}')
    code, out, err = run(command, "a.txt", *options)
    assert (code, out, err.count("\n")) == (2, "", 1) and err.startswith(f"error: {said}"), err


def test_what_can_not_be_served_is_refused_before_the_weights_are_loaded(tmp_path, monkeypatch, run):
    pytest.importorskip("starlette")
    monkeypatch.setattr("sharedllm.cli.loading.load_any", lambda *_: pytest.fail("a model is loaded"))
    code, _, err = run("serve", "--score", "nonsense", "--port", 0)
    assert code == 2 and err.startswith("error: --score nonsense is not known"), err


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("qa", ["tiny", "--data", ".", "-o", "out"]),
        ("recall", ["--data", "prose.txt", "-o", "out"]),
        ("eval", ["loss", "--data", "prose.txt", "--system", "window", "-o", "out"]),
        ("official", ["niah_single_1", "-o", "out"]),
        ("demo", ["-o", "out"]),
    ],
)
def test_a_sharedllm_as_the_base_is_refused_before_any_weights_are_loaded(
    run, small_folder, tmp_path, monkeypatch, no_weights, command, options
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prose.txt").write_text("Foxes jump over dogs. " * 99)
    code, _, err = run(command, *options, "--base", small_folder)
    assert (code, err.count("\n")) == (2, 1) and "is a SharedLLM already" in err, err
