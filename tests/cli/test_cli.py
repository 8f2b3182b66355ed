"""The commands as users run them, on a tiny random model: answers, files, and one line for every invalid input."""

import io
import json
import re
import shutil

import pytest
import torch
from helpers import byte_tokenizer

from sharedllm import SharedLLMForCausalLM, save_memory
from sharedllm.memory.int8 import Int8Keys, quantised
from sharedllm.store import MemoryStore
from sharedllm.store import writer as edit

TEXT = "".join(f"Line {i}: the quick brown fox jumps over the lazy dog.\n" for i in range(8))
FEW = ["--max-new-tokens", 4]


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def memory_file(run, text_file, small_folder, tmp_path):
    path = tmp_path / "text.memory"
    assert run("read", text_file, "-o", path, "--model", small_folder)[0] == 0
    return path


def test_extend_reports_and_refuses_to_overwrite(run, base_folder, small_folder, tmp_path):
    code, out, _ = run("extend", base_folder, "-o", tmp_path / "new", "--paper", "--lower-layers", "1", "--json")
    assert code == 0
    assert json.loads(out)["new_parameters"] > 0
    code, out, err = run("extend", base_folder, "-o", small_folder)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "not an empty folder" in err


def test_info(run, small_folder, memory_file):
    code, out, _ = run("info", small_folder, "--json")
    described = json.loads(out)
    assert (code, described["window"], described["tree"]) == (0, 64, "8 / 4 | 4 / 2 | 2 / 1 | 2 / 1")
    code, out, _ = run("info", memory_file, "--json")
    assert (code, json.loads(out)["tokens"]) == (0, len(TEXT))
    assert json.loads(out)["fingerprint"] == described["fingerprint"]
    assert json.loads(out)["embedded"] in (None, False) and "embedded" not in run("info", memory_file)[1]
    assert "kept tokens" in run("info", memory_file)[1]


def test_read_keeps_everything_of_several_files(run, tmp_path, small_folder):
    for name in ("b", "a"):
        (tmp_path / f"{name}.txt").write_text(f"file {name}\n" * 5)
    path = tmp_path / "x.memory"
    code, out, _ = run("read", tmp_path / "*.txt", "-o", path, "--model", small_folder, "--json")
    assert code == 0
    assert json.loads(out)["tokens_read"] == 70
    store = MemoryStore.open(path)
    assert [(d.name.rpartition("/")[2], d.tokens) for d in store.documents] == [("a.txt", 35), ("b.txt", 35)]


def test_a_file_that_grew_goes_on(run, tmp_path, small_folder, text_file, memory_file):
    half = len(TEXT) // 2 + 3
    text_file.write_text(TEXT[:half])
    path, options = tmp_path / "grown.memory", ["--model", small_folder, "--json"]
    assert run("read", text_file, "-o", path, *options)[0] == 0
    text_file.write_text(TEXT)
    code, out, _ = run("read", text_file, "-o", path, "--append", *options)
    assert (code, json.loads(out)["tokens_read"]) == (0, len(TEXT) - half)
    grown, whole = (MemoryStore.open(p).load() for p in (path, memory_file))
    for name, tensor in whole.tensors().items():
        torch.testing.assert_close(grown.tensors()[name], tensor, atol=1e-5, rtol=1e-4, msg=name)
    text_file.write_text("another text")
    code, _, err = run("read", text_file, "-o", path, "--append", *options)
    assert code == 2 and "does not begin with the" in err
    assert MemoryStore.open(path).tokens == len(TEXT)


def test_standard_input_is_a_document_each_time(run, tmp_path, small_folder, monkeypatch):
    path = tmp_path / "x.memory"
    for option in ([], ["--append"]):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"some text\n")))
        assert run("read", "-", "-o", path, "--model", small_folder, *option)[0] == 0
    assert [d.name for d in MemoryStore.open(path).documents] == ["standard input", "standard input 2"]


def test_memory_forget_merge_check(run, tmp_path, small_folder):
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(f"file {name}\n" * 50)
        run("read", tmp_path / f"{name}.txt", "-o", tmp_path / f"{name}.memory", "--model", small_folder)
    both = tmp_path / "both.memory"
    code, _, err = run("memory", "merge", tmp_path / "a.memory", tmp_path / "b.memory", "-o", both)
    assert code == 0 and "2 documents, 700 tokens" in err.replace("\n", "")
    assert run("memory", "check", both)[0] == 0
    assert run("memory", "forget", both, tmp_path / "a.txt")[0] == 0
    assert [d.name for d in MemoryStore.open(both).documents] == [str(tmp_path / "b.txt")]
    (block,) = (both / "blocks").iterdir()
    data = bytearray(block.read_bytes())
    data[-1] ^= 1
    block.unlink()  # it may be the same file as the other memory's
    block.write_bytes(data)
    code, out, _ = run("memory", "check", both)
    assert code == 1 and "b.txt: tokens 0–350 are lost" in out.replace("\n", " ")
    for arguments, message in (
        (["merge", tmp_path / "a.memory", "-o", both], "already exists"),
        (["merge", both, both, "-o", tmp_path / "new.memory"], "is named twice"),
        (["merge", tmp_path / "none.memory", "-o", tmp_path / "new.memory"], "does not exist"),
        (["forget", both, "c"], "no document is named 'c'"),
        (["check", tmp_path / "none.memory"], "does not exist"),
        (["check", tmp_path], "is not a memory"),
    ):
        code, _, err = run("memory", *arguments)
        assert code == 2 and message in err and err.count("\n") == 1, err
    assert not (tmp_path / "new.memory").exists()
    assert run("memory", "forget", both, tmp_path / "b.txt")[0] == 0
    emptied = json.loads(run("info", both, "--json")[1])
    assert (emptied["documents"], emptied["tokens"], emptied["bytes"]) == (0, 0, 0)


def test_memories_of_several_models_say_what_to_type(run, tmp_path, base_folder, small_folder, text_file, memory_file):
    other, new = tmp_path / "other", tmp_path / "new.memory"
    assert run("extend", base_folder, "-o", other, "--paper", "--chunk-size", "8", "--lower-layers", "1")[0] == 0
    more = tmp_path / "more.txt"
    more.write_text("More foxes.")
    its_model = "use the model that made it, its folder or name with --model instead of {} (`sharedllm info MODEL` shows the fingerprint of one)"
    for arguments in (
        ["ask", memory_file, "Who?"],
        ["chat", memory_file],
        ["read", more, "--append", "-o", memory_file],
    ):
        for model, given in (([], "tiny"), (["--model", other], other)):
            code, out, err = run(*arguments, *model)
            assert (code, out, err.count("\n")) == (2, "", 1) and its_model.format(given) in err, err
    theirs, whole, small = (tmp_path / f"{name}.memory" for name in ("theirs", "whole", "small"))
    assert run("read", text_file, "-o", theirs, "--model", other)[0] == 0
    assert run("read", text_file, "-o", whole, "--model", small_folder, "--keep-all")[0] == 0
    assert run("read", text_file, "-o", small, "--model", small_folder, "--storage", "int8")[0] == 0
    for memory, message in (
        (
            theirs,
            "were made by different models: read the texts of one of them again with the other's model, `sharedllm read",
        ),
        (whole, "read the texts of one of them again with `sharedllm read FILES -o NEW --keep-all`."),
        (
            small,
            "are stored in different formats: read the texts of one of them again with the other's, `sharedllm read FILES "
            "-o NEW --storage model`.",
        ),
    ):
        code, _, err = run("memory", "merge", memory_file, memory, "-o", new)
        assert code == 2 and f"{memory_file} and {memory} " in err and message in err and err.count("\n") == 1, err
        assert not new.exists()


def said(out: str) -> dict:
    """The output of `ask --json` without times."""
    return {name: value for name, value in json.loads(out).items() if name != "seconds"}


def test_ask_within_a_budget(run, tmp_path, small_folder, text_file, memory_file):
    """A memory of every token gives the same as the text itself; other memories say what is missing."""
    whole = tmp_path / "whole.memory"
    assert run("read", text_file, "--keep-all", "-o", whole, "--model", small_folder)[0] == 0
    options = ["What is it?", "--model", small_folder, "--max-new-tokens", 4, "--budget", 40, "--score", "bm25"]
    code, out, err = run("ask", whole, *options, "--json")
    assert code == 0, err
    answer = json.loads(out)
    assert answer["budget"] == 40 and answer["score"] == "bm25" and "selection" not in answer
    assert said(run("ask", text_file, *options, "--json")[1]) == said(out)
    assert answer["selected_tokens"] == 40 and answer["seconds"] > 0
    assert 1 <= len(answer["sources"]) <= 3
    for source in answer["sources"]:
        start, end = source["characters"]
        assert source["document"] == str(text_file) and TEXT[start:end] == source["text"] != ""
        assert [start, end] == source["tokens"], "one token per character here"
    assert f"{text_file}, {answer['sources'][0]['place']}: " in run("ask", whole, *options)[2].replace("\n", "")
    code, out, err = run("ask", text_file, "What is it?", "--model", small_folder, "--budget", 1)
    assert (code, out) == (2, "") and re.search(
        r"--budget 1 is less than the (\d+) tokens of one part .* least \1", err
    )
    for arguments, message in (
        (["ask", memory_file, *options], "--keep-all"),
        (["ask", whole, *options[:-1], "best"], "--score best is not known"),
        (
            ["ask", whole, *options[:-1], "meaning"],
            "--score meaning is for models with injection='deep', which `sharedllm extend`",
        ),
        (["ask", whole, *options, "--max-new-tokens", 1000], "--max-new-tokens 1000 does not fit: the question has"),
        (["ask", whole, *options, "--selection", "right"], "both given"),
        (["ask", whole, *options[:-1], "attention"], "injection='joint'"),
        (["chat", whole, *options[1:-1], "hybrid"], "injection='joint'"),
        (
            ["read", text_file, "--append", "--keep-all", "-o", memory_file, "--model", small_folder],
            "does not hold every",
        ),
    ):
        code, _, err = run(*arguments)
        assert code == 2 and message in err and len(err.strip().splitlines()) == 1, err


def test_what_is_lost_is_not_read_again(run, tmp_path, small_folder, text_file, monkeypatch):
    """A question that reads the text again reads the undamaged rest, and counts tokens without empty slots."""
    monkeypatch.setattr(edit, "BLOCK_TOKENS", 32)
    memory, rest, options = tmp_path / "x.memory", tmp_path / "rest.txt", ["What jumps?", *FEW, "--model", small_folder]
    rest.write_text(TEXT[32:])
    assert run("read", text_file, "-o", memory, "--model", small_folder)[0] == 0
    (memory / "blocks" / f"{MemoryStore.open(memory).documents[0].blocks[0].file}.memory").unlink()
    code, out, err = run("ask", memory, *options, "--selection", "cosine")
    lines = [line for line in err.splitlines() if "The answer is cut" not in line]
    assert (code, len(lines)) == (0, 2) and "lost: " in lines[0] and "read again by" in lines[1]
    assert out == run("ask", rest, *options, "--selection", "cosine")[1]
    (part,) = json.loads(run("ask", memory, *options, "--json")[1])["damaged"]
    assert (part["document"], part["start"], part["end"]) == (str(text_file), 0, 32) and part["reason"]
    assert run("read", rest, text_file, "-o", memory, "--model", small_folder)[0] == 0
    assert json.loads(run("ask", memory, *options, "--json")[1])["context_tokens"] == 2 * len(TEXT) - 32


def test_a_model_that_selects_by_the_question(run, tmp_path, small_folder, text_file):
    """Reading before a question selects by position; a question reads again by its own words."""
    model, memory = tmp_path / "model", tmp_path / "x.memory"
    shutil.copytree(small_folder, model)
    config = json.loads((model / "config.json").read_text()) | {"selection": "cosine"}
    (model / "config.json").write_text(json.dumps(config))
    assert run("read", text_file, "-o", memory, "--model", model)[0] == 0
    expected = run("ask", text_file, "What jumps?", *FEW, "--selection", "cosine", "--model", small_folder)[1]
    for source in (memory, text_file):
        assert run("ask", source, "What jumps?", *FEW, "--model", model)[:2] == (0, expected)
    assert run("generate", "--context", text_file, "--prompt", "A", *FEW, "--model", model)[0] == 0


@torch.no_grad()
def test_a_file_of_save_memory_is_a_memory_too(run, tmp_path, small_folder, text_file):
    model = SharedLLMForCausalLM.from_pretrained(small_folder).eval()
    ids = torch.tensor([byte_tokenizer()(TEXT).input_ids])
    for name, memory in (
        ("whole", model.read(ids, keep_all=True, sources=[str(text_file)])),
        ("tree", model.read(ids)),
        ("two", model.read(ids.repeat(2, 1))),
    ):
        save_memory(memory, tmp_path / f"{name}.memory")
    whole, tree, two = (tmp_path / f"{name}.memory" for name in ("whole", "tree", "two"))
    options = ["What is it?", *FEW, "--model", small_folder]
    budget = [*options, "--budget", 40, "--score", "bm25", "--json"]
    from_memory, from_text = said(run("ask", whole, *budget)[1]), said(run("ask", text_file, *budget)[1])
    # Only a file has lines.
    assert all(source.pop("place").startswith("line") for source in from_text["sources"])
    assert not any(source.pop("place") for source in from_memory["sources"])
    assert from_memory == from_text
    assert run("generate", "--context", tree, "--prompt", "A", *FEW, "--model", small_folder)[0] == 0
    assert run("memory", "check", whole)[0] == 0
    # By default a question selects from a memory of every token, as from a folder.
    assert json.loads(run("ask", whole, *options, "--json")[1])["budget"] == 64
    assert "budget" not in json.loads(run("ask", tree, *options, "--json")[1])
    described = json.loads(run("info", tree, "--json")[1])
    assert (described["kind"], described["tokens"], described["complete"]) == ("memory file", len(TEXT), False)
    for arguments, message in (
        (["ask", tree, *budget], "does not hold every token"),
        (["ask", two, *options], "holds 2 texts"),
        (["memory", "merge", whole, "-o", tmp_path / "new.memory"], "is a file, not a memory folder"),
        (["read", text_file, "-o", whole, "--model", small_folder], "is a file, not a folder"),
    ):
        code, _, err = run(*arguments)
        assert code == 2 and message in err and err.count("\n") == 1, err


@pytest.mark.parametrize("command", [
    ["read", "TEXT"], ["extend", "base"], ["qa", "base", "--data", "."], ["bench"], ["diagnose", "base"], ["demo"],
    ["recall", "--data", "a=TEXT"], ["eval", "--data", "a=TEXT"], ["memory", "merge", "TEXT"], ["tokenize", "TEXT"],
])  # fmt: skip
def test_an_output_that_can_not_be_written_is_refused_first(run, text_file, command):
    arguments = [part.replace("TEXT", str(text_file)) for part in command]
    for output, message in ((text_file, "is a file, not a folder"), (text_file / "new", "can't be written: Not a dir")):
        code, out, err = run(*arguments, "-o", output)
        assert (code, out, err.count("\n")) == (2, "", 1) and f"-o {output} {message}" in err, err


def test_a_page_that_can_not_be_written_is_named(run, text_file):
    code, out, err = run("explain", text_file, "what?", "-o", text_file / "new" / "x.html")
    assert (code, out) == (2, "") and f"-o {text_file}/new/x.html can't be written: Not a directory" in err


def test_closed_standard_input(run, tmp_path, small_folder, text_file, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    for arguments in (["read", "-", "-o", tmp_path / "x.memory"], ["ask", "-", "what?"], ["chat", text_file]):
        code, _, err = run(*arguments, "--model", small_folder)
        assert code == 2 and "standard input is closed" in err and err.count("\n") == 1, err
    assert not (tmp_path / "x.memory").exists()


def test_odd_names_are_shown_in_one_line(run, tmp_path, small_folder, monkeypatch):
    """No name is interpreted as markup, and each line of output stays one line."""
    monkeypatch.setenv("COLUMNS", "300")
    text, path = tmp_path / 'a\n[red] "b".txt', tmp_path / "x[/b].memory"
    path.parent.mkdir()
    text.write_text(TEXT)
    code, _, err = run("read", text, "-o", path, "--keep-all", "--model", small_folder)
    assert code == 0 and "x[/b].memory" in err and err.count("\n") == 1
    assert "x[/b].memory" in run("info", path)[1]
    _, _, err = run("ask", path, "fox?", *FEW, "--budget", 40, "--score", "bm25", "--model", small_folder)
    assert all('a [red] "b".txt, line' in line for line in err.splitlines() if "The answer is cut" not in line)
    code, _, err = run("read", text, "-o", path, "--append", "--storage", "int8", "--model", small_folder)
    assert code == 2 and "has --storage model" in err


@pytest.mark.parametrize("selection", ["right", "cosine"])
def test_ask_a_memory_and_its_file_alike(run, memory_file, text_file, small_folder, selection):
    options = ["What jumps?", "--model", small_folder, "--max-new-tokens", "4", "--selection", selection]
    code, out, err = run("ask", memory_file, *options)
    assert code == 0
    assert run("ask", text_file, *options)[1] == out
    answer = json.loads(run("ask", memory_file, *options, "--json")[1])
    assert answer["answer"] == out.strip()
    assert err == ("The answer is cut: raise --max-new-tokens.\n" if answer["cut"] else "")
    assert answer["context_tokens"] == len(TEXT)


def test_generate(run, small_folder, memory_file, monkeypatch):
    options = ["--model", small_folder, "--max-new-tokens", "5", "--prompt", "The fox"]
    code, out, _ = run("generate", "--context", memory_file, *options, "--json")
    assert code == 0
    assert json.loads(out)["context_tokens"] == len(TEXT)
    assert run("generate", "--context", memory_file, *options, "--json")[1] == out  # the seed is fixed
    assert run("generate", *options[:-1], TEXT, "--temperature", "0")[0] == 0  # a prompt far longer than the window
    held = []
    monkeypatch.setattr(
        "sharedllm.model.cross_attention.Int8Keys.of", lambda keys: held.append(keys) or Int8Keys(*quantised(keys))
    )
    assert run("generate", "--context", memory_file, *options)[0] == 0 == len(held)
    assert run("generate", "--context", memory_file, *options, "--memory-dtype", "int8")[0] == 0 < len(held)


def bad_inputs(tmp_path, text_file, memory_file):
    """Arguments, and a part of the one-line error."""
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\x01")
    damaged = tmp_path / "damaged.memory"
    shutil.copytree(memory_file, damaged)
    (damaged / "manifest.json").write_text((damaged / "manifest.json").read_text()[:-100])
    (tmp_path / "none").mkdir()
    out = ["-o", tmp_path / "out.memory"]
    return [
        (["read", tmp_path / "missing.txt", *out], "does not exist"),
        (["read", tmp_path / "*.nothing", *out], "matches no file"),
        (["read", tmp_path / "none", *out], "holds no file to read"),
        (["ask", tmp_path, "what?"], "is a folder"),
        (["read", tmp_path / "empty.txt", *out], "is empty"),
        (["read", tmp_path / "latin.txt", *out], "byte 3 is 0xe9"),
        (["read", text_file, "-o", tmp_path / "no" / "x.memory"], "does not exist"),
        (["ask", damaged, "what?"], "is damaged: it can't be read"),
        (["ask", tmp_path / "missing.memory", "what?"], "does not exist"),
        (["ask", memory_file, " "], "question is empty"),
        (["ask", memory_file, "?!"], "the question '?!' has no word: ask with one of what you look for."),
        (["ask", memory_file, "what? " * 50], "the question has"),
        (["ask", memory_file, "what?", "--selection", "best"], "--selection best is not known"),
        (["ask", memory_file, "what?", "--max-new-tokens", "0"], "max-new-tokens"),
        (["generate", "--prompt", ""], "--prompt is empty"),
    ]


def test_bad_input_is_one_line_and_exit_code_2(run, tmp_path, text_file, memory_file, small_folder):
    for arguments, expected in bad_inputs(tmp_path, text_file, memory_file):
        code, out, err = run(*arguments, "--model", small_folder)
        assert (code, out, err.count("\n")) == (2, "", 1), (arguments, out, err)
        assert err.startswith("error: ")
        assert expected in err, (arguments, err)
        assert not (tmp_path / "out.memory").exists()


def test_what_is_lost_is_named(run, memory_file, small_folder):
    """If the only block of the only document is missing, there is nothing to ask."""
    (block,) = (memory_file / "blocks").iterdir()
    block.write_bytes(block.read_bytes()[:-1])
    code, out, err = run("ask", memory_file, "what?", "--model", small_folder)
    assert (code, out) == (2, "") and "lost: " in err and "holds no readable text" in err.replace("\n", " ")


def test_memory_of_another_model_is_refused(run, base_folder, memory_file, small_folder, tmp_path):
    other = tmp_path / "other"
    assert run("extend", base_folder, "-o", other, "--paper", "--chunk-size", "32", "--lower-layers", "2")[0] == 0
    code, _, err = run("ask", memory_file, "what?", "--model", other)
    assert code == 2
    its = json.loads(run("info", memory_file, "--json")[1])
    assert its["model"] == small_folder.name
    given = json.loads(run("info", other, "--json")[1])["fingerprint"]
    assert (
        f"was made by another model ({its['model']}): fingerprint {its['fingerprint']} in it, {given} here; use the model that made it, "
        f"its folder or name with --model instead of {other} (" in err
    )


def test_a_setting_of_nought_is_no_default(run, base_folder, tmp_path):
    for option in ("--chunk-size", "--window", "--lower-layers"):
        code, _, err = run("extend", base_folder, "-o", tmp_path / "new", "--paper", option, 0)
        refused = "--window 0 is too small" if option == "--window" else f"{option} 0 must be"
        assert code == 2 and f"error: {refused}" in err and not (tmp_path / "new").exists(), err


def test_unknown_commands_and_models(run, base_folder):
    assert run("frobnicate")[::2] == (2, "error: No such command 'frobnicate'. `sharedllm --help` lists them.\n")
    lists, removes = "`sharedllm info MEMORY` lists the doc", "`sharedllm memory forget MEMORY NAME` removes a doc"
    assert run("memory", "list")[2].startswith(f"error: No such command 'list': {lists}")
    assert run("memory", "remove", "a.memory", "x")[2].startswith(f"error: No such command 'remove': {removes}")
    assert "ordinary LlamaForCausalLM" in run("info", base_folder)[2]
    assert "does not exist" in run("info", "./nowhere")[2]
    code, out, _ = run()
    assert code == 0
    assert "Usage" in out


def test_names_and_questions_that_are_not_utf_8(run, tmp_path, small_folder):
    text, path = f"{tmp_path}/\udcff.txt", tmp_path / "odd.memory"
    with open(text, "w") as file:  # noqa: PTH123
        file.write(TEXT)
    options = ["--model", small_folder]
    assert run("read", text, "-o", path, "--keep-all", *options)[0] == 0
    code, out, _ = run("info", path, "--json")
    assert (code, json.loads(out)["sources"][0]["name"]) == (0, f"{tmp_path}/\\xff.txt")
    assert run("info", path)[0] == 0
    code, out, err = run("ask", path, "What \udcff?", *options)
    assert (code, out, err.count("\n")) == (2, "", 1) and "not UTF-8" in err


def test_info_shows_no_python_list(run, base_folder, memory_file, tmp_path):
    folder = tmp_path / "model"
    assert run("extend", base_folder, "-o", folder, "--paper", "--lower-layers", "2")[0] == 0
    for source in (folder, memory_file):
        code, out, _ = run("info", source)
        assert code == 0 and not set("[]{}'") & set(out)
    assert "0:0, 1:1" in run("info", folder)[1] and "pieces end" not in run("info", folder)[1]
