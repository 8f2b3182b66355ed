"""Odd bytes, closed outputs and impatient users: one line, the right exit code, and no answer lost without a word."""

import os
import signal
import subprocess
import sys
import time

import pytest
from combined import rarely
from served import ASKED

from sharedllm.cli import main
from sharedllm.data.rows import load_instructions
from sharedllm.data.sources import documents
from sharedllm.serving.requests import ChatRequest
from sharedllm.store import open_memory
from sharedllm.training import load_recipe
from sharedllm.utils.errors import UserError
from sharedllm.utils.text_files import PIECE, read_text

BOM = b"\xef\xbb\xbf"
COMMAND = [sys.executable, "-m", "sharedllm"]


@pytest.mark.parametrize("text", ["Hello world.\n", "é" * PIECE, "x\n" * PIECE])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, text):
    path = tmp_path / "a.txt"
    path.write_bytes(BOM + text.encode())
    assert read_text(str(path)) == text
    path.write_bytes(BOM + text.encode()[:7] + b"\xff")
    with pytest.raises(UserError, match=r"is not UTF-8: byte 10 is 0xff|is not UTF-8: byte 9 is 0xc3"):
        read_text(str(path))
    path.write_bytes(BOM)
    with pytest.raises(UserError, match="is empty"):
        read_text(str(path))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("utf-16-le", "full of zero bytes, as UTF-16 without a mark is; convert it"),
        ("utf-16-be", "full of zero bytes, as UTF-16 without a mark is; convert it"),
        ("utf-32-be", "full of zero bytes"),
    ],
)
def test_utf_16_without_a_mark_is_refused(tmp_path, run, code, message):
    path = tmp_path / "a.txt"
    path.write_bytes("Hello world, how are you?\n".encode(code))
    status, out, err = run("read", path, "-o", tmp_path / "a.memory")
    assert (status, out, err.count("\n")) == (2, "", 1) and message in err
    assert not (tmp_path / "a.memory").exists()


@pytest.mark.parametrize("code", ["utf-16", "utf-32"])
def test_utf_16_with_a_mark_is_text(tmp_path, code):
    path = tmp_path / "a.txt"
    for text in ("Hello world, how are you?\n", "é" * PIECE, "x\n" * PIECE):
        path.write_bytes(text.encode(code))
        assert read_text(str(path)) == text


def test_a_stray_zero_byte_is_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one line of a log\0 and another\n" * 3)
    assert read_text(str(path)).count("\0") == 3


def test_marks_and_other_encodings_in_records_and_recipes(tmp_path):
    lines, recipe = tmp_path / "a.jsonl", tmp_path / "a.yaml"
    lines.write_bytes(BOM + b'{"text": "one", "context": "c", "question": "q", "answer": "a"}\n')
    assert [d.text for d in documents([str(lines)])] == ["one"]
    assert load_instructions([str(lines)])[0]["context"] == "c"
    lines.write_bytes("{}\n".encode("utf-16"))
    for use in (lambda: load_instructions([str(lines)]), lambda: list(documents([str(lines)]))):
        with pytest.raises(UserError, match=r"a\.jsonl"):
            use()
    recipe.write_bytes("method: sharedllm".encode("utf-16"))
    with pytest.raises(UserError, match=r"a\.yaml is not UTF-8"):
        load_recipe(recipe)
    recipe.write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"a\.yaml is not YAML"):
        load_recipe(recipe)


def test_what_can_be_read_only_once_is_read_once_or_refused(tmp_path, run, small_folder):
    """A pipe with a name, whose writer writes once."""
    text = "The harbour master counted crates.\n" * 40
    for name, command in (
        ("read", ["read", "{}", "-o", tmp_path / "a.memory", "--keep-all"]),
        ("ask", ["ask", "{}", "Who counted?", "--json", "--max-new-tokens", "3"]),
        ("generate", ["generate", "--prompt", "The", "--context", "{}", "--max-new-tokens", "2"]),
    ):
        pipe = tmp_path / f"{name}.txt"
        os.mkfifo(pipe)
        with subprocess.Popen(
            [sys.executable, "-c", "import sys; open(sys.argv[1], 'w').write(sys.argv[2])", str(pipe), text]
        ) as writer:
            code, _, err = run(*[str(pipe) if part == "{}" else part for part in command], "--model", small_folder)
            assert code == 0, err
            assert writer.wait(timeout=20) == 0
    assert open_memory(tmp_path / "a.memory").tokens == len(text)
    os.mkfifo(tmp_path / "tokens.txt")
    for sources in ([tmp_path / "tokens.txt"], ["/dev/null"]):
        code, _, err = run("tokenize", *sources, "-o", tmp_path / "tokens", "--tokenizer", small_folder)
        assert code == 2 and "can be read only once" in err and err.count("\n") == 1, err


def test_instructions_come_through_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "a.jsonl")
    line = '{"context": "c", "question": "q", "answer": "a"}\n'
    script = "import sys; open(sys.argv[1], 'w').write(sys.argv[2])"
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "a.jsonl"), line]):
        assert len(load_instructions([str(tmp_path / "a.jsonl")])) == 1


@pytest.mark.parametrize("temperature", ["1e-45", "1e-38", "1e-7", "0"])
def test_next_to_no_temperature_takes_the_likeliest(run, small_folder, temperature):
    arguments = ["generate", "--prompt", "The old", "--model", small_folder, "--max-new-tokens", 6]
    code, out, err = run(*arguments, "--temperature", temperature)
    assert (code, err) == (0, "") and out == run(*arguments, "--temperature", 0)[1]


@pytest.mark.parametrize("seed", [2**63, 2**64, -(2**70), "x"])
def test_a_seed_that_no_generator_takes(run, small_folder, seed):
    code, out, err = run("generate", "--prompt", "a", "--model", small_folder, "--seed", seed)
    assert (code, out, err.count("\n")) == (2, "", 1) and "--seed" in err


def test_no_temperature_is_refused(run, small_folder):
    for temperature in ("nan", "inf", "-1"):
        code, out, err = run("generate", "--prompt", "a", "--model", small_folder, "--temperature", temperature)
        assert (code, out, err.count("\n")) == (2, "", 1) and "temperature" in err


def test_the_server_takes_next_to_no_temperature():
    from sharedllm.serving.answering import _sampling

    for temperature in (1e-45, 1e-30, 0):
        assert _sampling(None, ChatRequest(**ASKED, temperature=temperature)) == {"do_sample": False}


FULL = "can't be written, because there is no space left on its disk: free some, then run the same command again."


def shell(line: str, **options) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment, check=False, **options)


@pytest.mark.parametrize("arguments", [*rarely("info tiny", "--version"), "--help"])
def test_an_answer_that_can_not_be_written_is_an_error(arguments):
    command = f"{sys.executable} -m sharedllm {arguments}"
    closed = shell(f"{command} >&-")
    assert closed.returncode == 2 and closed.stderr.startswith("error: standard output is closed"), closed.stderr
    full = shell(f"{command} >/dev/full")
    assert full.returncode == 2 and full.stderr == f"error: a file or standard output {FULL}\n"
    cut = shell(f"{command} | true; echo ${{PIPESTATUS[0]}}")
    assert cut.stderr == "" and cut.stdout in ("0\n", "1\n", "2\n")


def test_a_file_that_the_system_refuses_is_named(monkeypatch, capsys):
    def full(**_) -> None:
        raise OSError(28, "No space left on device", "/disk/a.memory")

    monkeypatch.setattr("sharedllm.cli.parser", lambda: full)
    with pytest.raises(SystemExit):
        main(["models"])
    assert capsys.readouterr().err == f"error: /disk/a.memory {FULL}\n"


def listens() -> None:
    """A shell has what it runs in the background ignore interrupts, and what that runs."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.slow
def test_a_second_interrupt_is_quiet(tmp_path):
    (tmp_path / "a.txt").write_text("The sea was calm that day, and nobody came.\n" * 60_000)
    command = [*COMMAND, "read", str(tmp_path / "a.txt"), "-o", str(tmp_path / "a.memory")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=listens) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "a.memory" / "manifest.json").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        for _ in range(3):
            process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        _, err = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT) and "Traceback" not in err, err


def test_documents_of_other_files_are_not_written_over(run, tmp_path):
    """Without --replace; a file that is read again may have changed."""
    first, second, memory = tmp_path / "first.txt", tmp_path / "second.txt", tmp_path / "some.memory"
    first.write_text("Anna keeps the mill.")
    second.write_text("Bruno keeps the castle.")
    assert run("read", first, "-o", memory)[0] == 0
    code, _, err = run("read", second, "-o", memory)
    assert code == 2 and "first.txt: --append adds to it, --replace writes it anew" in err
    assert [document["name"] for document in open_memory(memory).contents] == [str(first)]
    first.write_text("Anna keeps the old mill.")
    assert run("read", first, "-o", memory)[0] == 0
    assert run("read", second, "-o", memory, "--replace")[0] == 0
    assert [document["name"] for document in open_memory(memory).contents] == [str(second)]
    assert run("read", second, "-o", memory, "--replace", "--append")[0] == 2


@pytest.mark.parametrize(
    ("name", "message"), [("~nosuchuser/x", "can't be a model's folder"), ("", "name is empty"), ("a" * 300, "model")]
)
def test_names_that_no_model_can_have(run, name, message):
    code, _, err = run("generate", "--prompt", "a", "--model", name)
    assert code == 2 and message in err and err.count("\n") == 1
