"""Names that no file can have, files that were cut short, and what the commands say of a memory that is damaged."""

import io
import json
import shutil
from types import SimpleNamespace

import pytest
from combined import rarely
from rich.console import Console
from safetensors import SafetensorError, safe_open

from sharedllm import SharedLLMForCausalLM, open_memory
from sharedllm.cli import reading
from sharedllm.cli.common import progress_bar
from sharedllm.memory import file
from sharedllm.store.writer import Writer
from sharedllm.utils.text_files import harmless, read_text

LONG = "a" * 5000
FEW = ["--max-new-tokens", 4]


@pytest.mark.parametrize(
    "arguments",
    [
        ["read", LONG, "-o", "x.memory"], ["read", "TEXT", "-o", LONG], ["ask", LONG, "q"], ["info", LONG], ["info", f"{LONG}.memory"],
        ["memory", "check", LONG], ["memory", "merge", LONG, LONG, "-o", "x.memory"], ["generate", "--prompt", "a", "--model", LONG],
        ["generate", "--prompt", "a", "--context", LONG], ["extend", LONG, "-o", "m"], ["extend", "tiny", "-o", LONG],
        ["explain", LONG, "q", "-o", "e.html"], ["tokenize", LONG, "-o", "t", "--tokenizer", "tiny"], ["train", LONG], ["report", LONG],
    ],
)  # fmt: skip
def test_a_name_that_is_too_long(run, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "TEXT").write_text("some text")
    code, out, err = run(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1) and len(err) < 500
    assert [p.name for p in tmp_path.iterdir()] == ["TEXT"]


@pytest.mark.parametrize("use", [open_memory, read_text])
def test_a_name_that_is_too_long_in_python(use):
    with pytest.raises(ValueError, match=r"^a{99}… can't be opened: File name too long; name one that is shorter\.$"):
        use(LONG)


@pytest.mark.parametrize("left", [0, 7, 100, -1])
def test_weights_that_were_cut_short(run, tmp_path, small_folder, left):
    folder = tmp_path / "model"
    shutil.copytree(small_folder, folder)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:left])
    code, _, err = run("generate", "--prompt", "a", "--model", folder)
    assert code == 2 and err.count("\n") == 1
    assert f"{folder}: its .safetensors files are damaged or were cut short; copy or fetch them again" in err


def test_a_damaged_memory_is_described_as_damaged(run, tmp_path, small_folder):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("The harbour master counted crates. " * 4)
    memory = tmp_path / "a.memory"
    read = ["read", tmp_path / "a.txt", tmp_path / "b.txt", "-o", memory, "--keep-all", "--model", small_folder]
    assert run(*read)[0] == 0
    whole = json.loads(run("info", memory, "--json")[1])
    assert whole["complete"] and whole["damaged"] == [] and "lost" not in run("info", memory)[1]
    file = open_memory(memory).documents[1].blocks[0].file
    path = memory / "blocks" / f"{file}.memory"
    path.write_bytes(path.read_bytes()[:-5])
    told = json.loads(run("info", memory, "--json")[1])
    ((lost),) = told["damaged"]
    reason = f"blocks/{file}.memory is not a memory, or was cut short; read the text again."
    assert lost == {"document": f"{tmp_path}/b.txt", "start": 0, "end": 140, "reason": reason}
    assert not told["complete"] and told["kept_tokens"] == 140 == whole["kept_tokens"] // 2
    mended = f"what is lost is read again by `sharedllm read FILES -o {memory} --append`"
    for command in (["info", memory], ["ask", memory, "crates?", *FEW, "--model", small_folder]):
        code, _, err = run(*command)
        assert code == 0 and " ".join(err.split()).count(mended) == 1, err
    code, out, err = run("memory", "check", memory)
    assert err.count(mended) == 1
    assert code == 1 and out == f"{tmp_path}/b.txt: tokens 0–140 are lost: {reason}\n"
    assert (
        f"are lost: blocks/{file}" in run("info", memory)[1].replace("\n", "").replace(" │ ", "")
        or "lost" in run("info", memory)[1]
    )
    path.unlink()
    assert run("memory", "check", memory)[1].endswith(f"are lost: blocks/{file}.memory is missing\n")
    (memory / "manifest.json").unlink()
    code, _, err = run("read", tmp_path / "b.txt", "-o", memory, "--append")
    assert code == 2 and f"`sharedllm memory recover {memory} -o NEW --model MODEL`" in err


@pytest.mark.parametrize("option", ["--append", "--sync"])
@pytest.mark.parametrize("left", [None, slice(-5), slice(-1)], ids=["missing", "cut short", "changed"])
def test_a_document_that_lost_a_part_is_read_again(run, tmp_path, small_folder, option, left):
    texts, memory = [tmp_path / "a.txt", tmp_path / "b.txt"], tmp_path / "a.memory"
    for text in texts:
        text.write_text("The harbour master counted crates. " * 4)
    read = ["read", *texts, "-o", memory, "--keep-all", "--model", small_folder]
    assert run(*read)[0] == 0
    path = memory / "blocks" / f"{open_memory(memory).documents[1].blocks[0].file}.memory"
    whole = path.read_bytes()
    path.unlink()
    if left is not None:
        path.write_bytes(whole[left] + (bytes([whole[-1] ^ 1]) if left == slice(-1) else b""))
    assert run("memory", "check", memory)[0] == 1
    code, _, err = run(*read, option)
    said = " ".join(err.split())
    assert code == 0 and f"1 damaged document read again: {texts[1]}" in said, err
    assert "1 document unchanged" in said and "\nlost: " not in err
    assert run("memory", "check", memory)[0] == 0
    assert [document.name for document in open_memory(memory).documents] == [str(text) for text in texts]


def stop_at_second_block(patch):
    block, before = Writer._block, []

    def second_fails(self, *args, **options):
        before.append(1)
        if len(before) == 2:
            raise KeyboardInterrupt
        return block(self, *args, **options)

    patch.setattr(Writer, "_block", second_fails)


@pytest.fixture
def partly(run, tmp_path, small_folder, monkeypatch):
    """Arguments that read a text into a memory, and what does so but is interrupted after 512 tokens: it returns stderr."""
    text, memory = tmp_path / "a.txt", tmp_path / "a.memory"
    text.write_text("The harbour master counted crates. " * 40)

    def in_part(*options):
        with monkeypatch.context() as patch:
            patch.setattr("sharedllm.store.writer.BLOCK_TOKENS", 512)
            stop_at_second_block(patch)
            code, _, err = run(*arguments, *options)
        assert code == 130
        return err

    arguments = ["read", text, "-o", memory, "--model", small_folder]
    return SimpleNamespace(text=text, memory=memory, arguments=arguments, in_part=in_part)


def test_what_was_read_in_part_is_called_incomplete(run, partly, small_folder):
    text, memory, read = partly.text, partly.memory, [*partly.arguments, "--keep-all"]
    goes_on = "what was read is kept: the same command with --append goes on"
    assert goes_on in " ".join(partly.in_part("--keep-all").split())
    assert not json.loads(run("info", memory, "--json")[1])["complete"]
    code, _, err = run("ask", memory, "crates?", *FEW, "--model", small_folder)
    told = f"incomplete: {text} was read up to 512 tokens: go on with `sharedllm read --append`."
    assert code == 0 and told in " ".join(err.split())
    asked = ["crates?", *FEW, "--model", small_folder, "--json"]
    answer = json.loads(run("ask", memory, *asked)[1])
    assert answer["incomplete"] == [str(text)] and answer["damaged"] == []
    explained = json.loads(run("explain", memory, *asked, "-o", memory.with_name("page.html"))[1])
    assert explained["incomplete"] == [str(text)] and explained["damaged"] == []
    checked = run("memory", "check", memory)
    assert checked[0] == 0 and told in " ".join(checked[2].split())
    told = f"{memory} was read in part: with --append this would go on after 512 tokens; it begins anew"
    assert told in " ".join(partly.in_part("--keep-all").split())
    assert run(*read, "--append")[0] == 0 and json.loads(run("info", memory, "--json")[1])["complete"]
    assert "incomplete" not in run("ask", memory, "crates?", *FEW, "--model", small_folder)[2]
    assert "incomplete" not in run("memory", "check", memory)[2]


def test_a_memory_that_keeps_every_token_is_not_begun_anew_without(run, partly):
    memory, read = partly.memory, partly.arguments
    partly.in_part("--keep-all")
    said = (
        f"error: {memory} keeps every token, and begun anew without --keep-all it would not: add --keep-all, go on with "
        "--append, or give it up with --replace.\n"
    )
    assert run(*read) == (2, "", said), "what was read in part"
    assert run(*read, "--append")[0] == 0
    for options in ([], ["--storage", "int8"]):
        assert run(*read, *options) == (2, "", said)
    assert run(*read, "--keep-all")[0] == 0 and open_memory(memory).complete
    assert run(*read, "--replace")[0] == 0 and not open_memory(memory).complete
    assert run(*read)[0] == 0, "there is nothing to lose"


def test_a_text_that_changed_after_a_part_of_it_was_read_is_not_called_new(run, partly):
    partly.in_part("--keep-all")
    partly.text.write_text("The harbour master.")
    code, _, err = run(*partly.arguments, "--keep-all", "--sync")
    assert code == 0 and f"1 document changed: {partly.text}" in " ".join(err.split()) and " new" not in err, err


def test_a_stopped_reading_that_would_replace_a_memory_keeps_nothing_and_says_nothing_else(run, partly):
    assert run(*partly.arguments, "--keep-all")[0] == 0
    assert "kept" not in partly.in_part("--keep-all") and open_memory(partly.memory).complete


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (28, "because there is no space left on its disk: free some, then"),
        (27, "because a file would be larger than the system allows: raise that limit (`ulimit -f`), then"),
    ],
)
@pytest.mark.parametrize(
    ("options", "again"),
    [([], "with --append "), (["--sync"], ""), (["--replace"], "with --append instead of --replace ")],
)
def test_reading_without_room_says_how_to_go_on(run, tmp_path, small_folder, monkeypatch, number, said, options, again):
    text, memory = tmp_path / "a.txt", tmp_path / "a.memory"
    text.write_text("The harbour master counted crates. " * 40)
    monkeypatch.setattr("sharedllm.store.writer.BLOCK_TOKENS", 512)
    save, blocks = file.save_file, []

    def second_fails(*arguments, **options):
        blocks.append(1)
        if len(blocks) == 2:
            raise SafetensorError(f"Error while serializing: I/O error: words (os error {number})")
        save(*arguments, **options)

    read = ["read", text, "-o", memory, "--keep-all", "--model", small_folder]
    with monkeypatch.context() as patch:
        patch.setattr(file, "save_file", second_fails)
        code, out, err = run(*read, *options)
    line = f"error: {memory} can't be written, {said} the same command {again}goes on."
    assert (code, out) == (2, "") and line in " ".join(err.split()) and "os error" not in err
    then = options if options == ["--sync"] else ["--append"]
    assert run(*read, *then)[0] == 0 and json.loads(run("info", memory, "--json")[1])["complete"]
    blocks.clear()
    with monkeypatch.context() as patch:
        patch.setattr(file, "save_file", second_fails)
        assert "then run the same command again." in " ".join(run(*read)[2].split())


def test_extend_writes_a_card(run, tmp_path, base_folder, small_folder):
    card = (small_folder / "README.md").read_text()
    assert (
        card.startswith("---\nlibrary_name: transformers\n") and "import sharedllm" in card and "base_model" not in card
    )
    assert "made from `base` with `sharedllm extend`" in card and str(base_folder) not in card
    assert "adds nothing until it is trained" in card and "chunks of 16" in card
    with safe_open(small_folder / "model.safetensors", framework="pt") as file:
        numbers = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118 (no dict)
    assert f"{numbers:,} parameters" in card


# Clears the screen, sets the title of the window, turns the order of the letters, separates lines.
EVIL = "a\x1b[2J\x1b]0;title\x07\u202egnp\u2066\x9b\u2028\r.txt"
SAFE = r"a\x1b[2J\x1b]0;title\x07\u202egnp\u2066\x9b\u2028\r.txt"


def test_names_that_would_change_the_terminal_are_shown_escaped(run, tmp_path, small_folder, monkeypatch):
    """They are stored as they are."""
    monkeypatch.chdir(tmp_path)
    filler = "The lanterns burned low in the harbour.\n"
    (tmp_path / EVIL).write_text(filler * 4 + "The walrus is 771.\n" + filler)
    options = ["--model", small_folder]
    said = [
        run("read", EVIL, "-o", "a.memory", "--keep-all", *options),
        run("ask", "a.memory", "walrus 771", *options, *FEW, "--budget", 24, "--score", "bm25"),
        run("ask", EVIL, "walrus 771", *options, *FEW, "--budget", 24, "--score", "bm25"),
        run("info", "a.memory"),
        run("info", EVIL),
        run("read", EVIL, "b/" + EVIL, "-o", "b.memory", *options),
        run("memory", "forget", "a.memory", EVIL + "x"),
    ]
    for _, out, err in said:
        assert not set(out + err) & set(EVIL) - set("a[2J]0;titlegnp.txt"), (out, err)
    assert [i for i, (_, _, err) in enumerate(said) if SAFE in err] == [1, 2, 4, 5, 6]
    assert SAFE in said[3][1]
    (document,) = open_memory("a.memory").documents
    assert document.name == EVIL
    assert json.loads(run("info", "a.memory", "--json")[1])["sources"][0]["name"] == EVIL
    (tmp_path / "a.memory" / "blocks" / f"{document.blocks[0].file}.memory").unlink()
    code, out, _ = run("memory", "check", "a.memory")
    assert code == 1 and out.startswith(f"{SAFE}: tokens 0–")
    monkeypatch.setattr("sharedllm.cli.common.stderr", console := Console(file=io.StringIO(), force_terminal=True))
    with progress_bar(f"reading {EVIL}", 10) as advance:
        advance(1)
        drawn = console.file.getvalue()
    assert r"a\x1b[2J" in drawn and "title\x07" not in drawn and "\u202e" not in drawn


def test_progress_into_a_file_is_a_line_now_and_then(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("sharedllm.cli.common.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("sharedllm.cli.common.stderr", console := Console(file=io.StringIO()))
    with progress_bar(f"reading {EVIL}", 4096) as advance:
        for seconds in (10, 20, 25, 40):
            clock[0] = seconds
            advance(1000)
        advance(96, 5000)
    lines = [f"reading {SAFE}: {done} of 4,096, 0:00:{left} left\n" for done, left in (("2,000", 21), ("4,000", "01"))]
    assert console.file.getvalue() == "".join(lines)


@pytest.mark.parametrize("name", ["nul.txt", "a\n\n\x1b[2J.md", *rarely("a\nb.txt", "\n.txt", "COM1")])
def test_line_ends_and_devices_in_names_break_no_output(run, tmp_path, small_folder, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / name).write_text("The lanterns burned low in the harbour.\n" * 4 + "The walrus is 771.\n")
    (tmp_path / "texts" / ("empty\n" + name)).write_text("")
    options = ["--model", small_folder]
    code, out, err = run("read", "texts", "-o", "a.memory", "--keep-all", *options)
    assert (code, out) == (0, "") and err.splitlines()[0] == "1 file could not be read:" and err.count("\n") == 3, err
    code, out, err = run("ask", "a.memory", "walrus 771", *options, *FEW, "--budget", 24, "--score", "bm25")
    assert (
        code == 0
        and out.count("\n") == 1
        and all(", line" in line for line in err.splitlines() if line != "The answer is cut: raise --max-new-tokens.")
    ), err
    for command in (
        ["info", "a.memory"],
        ["memory", "check", "a.memory"],
        ["memory", "forget", "a.memory", "texts/x" + name],
    ):
        code, out, err = run(*command)
        assert "\x1b" not in out + err and name.replace("\x1b", "") not in (out + err if "\n" in name else ""), (
            out + err
        )
    assert run("memory", "forget", "a.memory", f"texts/{name}")[0] == 0 and open_memory("a.memory").contents == []


def test_the_speed_of_reading_is_that_of_reading_alone(run, tmp_path, small_folder, monkeypatch):
    """Without loading the model."""
    (tmp_path / "a.txt").write_text("The harbour master counted crates. " * 40)
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    load, read = reading.load, SharedLLMForCausalLM.read

    def loads(name, source=""):
        now[0] += 100
        return load(name)

    def reads(*arguments, **options):
        now[0] += 2
        return read(*arguments, **options)

    monkeypatch.setattr(reading, "load", loads)
    monkeypatch.setattr(SharedLLMForCausalLM, "read", reads)
    options = [tmp_path / "a.txt", "-o", tmp_path / "a.memory", "--model", small_folder]
    assert "read 1,400 tokens in 2.0 s (700 tokens/s); " in run("read", *options)[2]
    assert json.loads(run("read", *options, "--json")[1])["seconds"] == 2.0


def test_names_in_any_language_are_shown_as_they_are():
    for name in (
        "naïve café.txt",
        "日本語.md",
        "نامه\u200cها.txt",
        "👩\u200d💻.txt",
        "Bild\u202f12\u00a0Uhr.png",
        "שלום",
    ):
        assert harmless(name) == name
    assert harmless("a\udcff") == r"a\udcff"


def test_a_memory_that_lost_its_manifest_names_the_way_out(run, tmp_path, small_folder, monkeypatch):
    text, memory = tmp_path / "a.txt", tmp_path / "a"
    text.write_text("The harbour master counted crates. " * 4)
    assert run("read", text, "-o", memory, "--model", small_folder)[0] == 0
    (memory / "manifest.json").unlink()
    for command in (["ask", memory, "Who?"], ["info", memory], ["memory", "check", memory]):
        code, _, err = run(*command)
        assert (
            code == 2
            and f"{memory} lacks its manifest.json: `sharedllm memory recover {memory} -o NEW --model MODEL`" in err
        )
    with monkeypatch.context() as patched:
        patched.setattr("sharedllm.cli.loading.tokenizer_fingerprint", lambda tokenizer: "other")
        code, _, err = run("memory", "recover", memory, "-o", tmp_path / "b")
        assert code == 2 and "use the model that made it, its folder or name with --model instead of tiny (" in err
    assert run("memory", "recover", memory, "-o", tmp_path / "b", "--model", small_folder)[0] == 0


def test_appending_to_a_damaged_memory_says_what_is_lost(run, tmp_path, small_folder):
    old, new, memory = tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "a.memory"
    for path in (old, new):
        path.write_text("The harbour master counted crates. " * 4)
    assert run("read", old, "-o", memory, "--model", small_folder)[0] == 0
    next((memory / "blocks").iterdir()).write_bytes(b"")
    code, _, err = run("read", new, "-o", memory, "--append", "--model", small_folder)
    assert code == 0 and f"lost: {old}, tokens 0–" in err


def test_merging_a_memory_with_its_copy_names_it(run, tmp_path, small_folder):
    text, memory, twice = tmp_path / "a.txt", tmp_path / "a.memory", tmp_path / "b.memory"
    copy = tmp_path / "copy.memory"
    text.write_text("The harbour master counted crates. " * 4)
    assert run("read", text, "-o", memory, "--model", small_folder)[0] == 0
    shutil.copytree(memory, copy)
    code, _, err = run("memory", "merge", memory, copy, "-o", twice)
    assert (
        code == 2
        and f"{text} is in {copy} and in what it is merged with: `sharedllm memory forget MEMORY {text}`" in err
    )
    assert str(twice) not in err


@pytest.mark.parametrize("command", ["questions", "explain"])
def test_the_text_that_is_asked_is_not_written_over(run, tmp_path, base_folder, command):
    text = tmp_path / "a.html"
    text.write_text("The harbour master counted crates. " * 40)
    arguments = {
        "questions": ["questions", text, "--tokenizer", base_folder, "--tokens", 300, "--count", 1],
        "explain": ["explain", text, "Who counted crates?"],
    }[command]
    (tmp_path / "link.html").symlink_to(text)
    for output in (text, tmp_path / "link.html"):
        code, _, err = run(*arguments, "-o", output)
        assert code == 2 and f"-o {output} is a file that is read: name another one." in err
    assert text.read_text().startswith("The harbour")


def test_a_model_that_finds_no_space_leaves_nothing(run, tmp_path, base_folder, monkeypatch):
    def full(*_, **__):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(SharedLLMForCausalLM, "save_pretrained", full)
    code, _, err = run("extend", base_folder, "-o", tmp_path / "m", "--paper")
    assert code == 2 and err.count("\n") == 1
    assert f"{tmp_path / 'm'} can't be written, because there is no space left on its disk: free some, then" in err
    assert list(tmp_path.iterdir()) == []
