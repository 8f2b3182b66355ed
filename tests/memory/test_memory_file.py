"""Memories on disk: bit-identical after a round trip; any damage is found; an older file stays whole."""

import json
import os
import re
import stat
import sys
from dataclasses import replace

import pytest
import torch
from memories import assert_same, random_memory
from safetensors import SafetensorError
from safetensors.torch import save_file

from sharedllm.memory import file as memory_file
from sharedllm.memory import opening
from sharedllm.memory.file import save_memory
from sharedllm.memory.opening import open_file, read_header

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
BATCHES = [[20], [9, 30], [5, 0, 17], [0], [0, 0], []]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "notes.memory"


@pytest.fixture
def saved(path):
    """A file with a small memory."""
    save_memory(random_memory([9, 4]), path)
    return path


def rewrite(path, memory, **changes):
    """Save a memory with a changed header and a matching checksum."""
    written = memory_file.save_file

    def save(tensors, name, metadata):
        header = json.loads(metadata["sharedllm"]) | changes
        header["checksum"] = memory_file.header_checksum(header)
        written(tensors, name, metadata={"sharedllm": json.dumps(header)})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_file, "save_file", save)
        save_memory(memory, path)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lengths", BATCHES, ids=str)
def test_round_trip_is_exact(path, lengths, dtype):
    memory = random_memory(lengths, dtype=dtype)
    save_memory(memory, path, tokenizer="tok")
    assert_same(open_file(path, fingerprint="abc"), memory)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="replaces no open file")
def test_a_file_that_is_replaced_while_it_is_opened_is_read_as_it_was(path, monkeypatch):
    before, real = random_memory([20]), opening.header_of
    save_memory(before, path)

    def overtaken(*arguments):
        header = real(*arguments)
        save_memory(random_memory([9, 4]), path)
        return header

    monkeypatch.setattr(opening, "header_of", overtaken)
    assert_same(open_file(path), before)


def test_round_trip_keeps_every_bit_pattern(path):
    """All 65,536 bit patterns of bfloat16, including signalling and negative NaNs, infinities and -0."""
    memory = random_memory([1])
    patterns = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(torch.bfloat16).reshape(1, 1, 1, -1)
    memory = replace(memory, keys=(patterns,) * 2, values=(patterns,) * 2)
    save_memory(memory, str(path))
    assert_same(open_file(str(path)), memory)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_int8_is_within_half_a_step(path, dtype):
    """Every number is off by at most half of a 127th of the largest of its token and head; everything else is exact."""
    memory = random_memory([9, 30], dtype=dtype)
    memory = replace(memory, keys=tuple(k * torch.tensor([1.0, -50.0, 0.01, 3.0]).to(dtype) for k in memory.keys))
    save_memory(memory, path, storage="int8")
    opened, header = open_file(path), read_header(path)
    assert (header["storage"], header["dtype"]) == ("int8", str(dtype).removeprefix("torch."))
    for ours, theirs in zip(opened.keys + opened.values, memory.keys + memory.values, strict=True):
        assert ours.dtype == dtype and ours.shape == theirs.shape
        step = theirs.double().abs().amax(-1, keepdim=True) / 127
        rounding = theirs.double().abs().amax() * 2 * torch.finfo(dtype).eps
        assert ((ours.double() - theirs.double()).abs() <= 0.5001 * step + rounding).all()
    assert_same(replace(opened, keys=(), values=()), replace(memory, keys=(), values=()))
    assert path.stat().st_size < 14_000


def test_views_are_saved_as_what_they_show(path):
    memory = random_memory([9, 30])
    strided = tuple(t.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for t in memory.keys)
    assert not strided[0].is_contiguous()
    save_memory(replace(memory, keys=strided, values=strided), path)
    opened = open_file(path)
    assert_same(opened, replace(memory, values=memory.keys))
    opened.keys[0].zero_()
    assert_same(open_file(path), replace(memory, values=memory.keys))


def test_unknown_storage(path):
    with pytest.raises(ValueError, match="storage='int4' is not known: use 'model' or 'int8'"):
        save_memory(random_memory([3]), path, storage="int4")
    rewrite(path, random_memory([3]), storage="int8")
    with pytest.raises(ValueError, match="are missing or unexpected"):
        open_file(path)


def test_header(saved):
    save_memory(random_memory([9, 4]), saved, tokenizer="tok")
    header = read_header(saved)
    assert (header["format"], header["format_version"]) == ("sharedllm.memory", 2)
    assert (header["fingerprint"], header["tokenizer"]) == ("abc", "tok")
    assert (header["chunk_size"], header["texts"], header["layers"]) == (8, 2, 2)
    assert header["sources"] == [[{"name": "text 0 – ä", "tokens": 9}], [{"name": "text 1 – ä", "tokens": 4}]]
    assert header["checksums"].keys() == random_memory([9, 4]).tensors().keys()
    assert isinstance(header["library"], str)


def test_a_file_is_as_readable_as_others(saved):
    other = saved.with_name("other")
    other.touch()
    assert saved.stat().st_mode == other.stat().st_mode
    saved.chmod(0o640)
    save_memory(random_memory([3]), saved)
    assert stat.S_IMODE(saved.stat().st_mode) == 0o640


def test_cut_short(saved):
    whole = saved.read_bytes()
    header_end = 8 + int.from_bytes(whole[:8], "little")
    for length in (0, 1, 7, 8, 9, header_end - 1, header_end, header_end + 1, len(whole) // 2, len(whole) - 1):
        saved.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"notes\.memory is not a memory, or was cut short"):
            open_file(saved)


def test_longer_than_it_should_be(saved):
    saved.write_bytes(saved.read_bytes() + b"\0")
    with pytest.raises(ValueError, match=r"notes\.memory is not a memory, or was cut short"):
        open_file(saved)


def test_any_flipped_byte_is_found(saved):
    whole = saved.read_bytes()
    header_end = 8 + int.from_bytes(whole[:8], "little")
    # The whole header; after it, an odd step, which hits every byte position of an entry in turn.
    places = [*range(header_end), *range(header_end, len(whole), 27)]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1
        saved.write_bytes(damaged)
        with pytest.raises(ValueError, match=re.escape(str(saved))) as caught:
            open_file(saved)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["keys.0", "values.1", "mask", "token_ids", "lengths"])
def test_damage_names_the_tensor(saved, name):
    whole = bytearray(saved.read_bytes())
    header_end = 8 + int.from_bytes(whole[:8], "little")
    begin, end = json.loads(whole[8:header_end])[name]["data_offsets"]
    whole[header_end + (begin + end) // 2] ^= 0x10
    saved.write_bytes(whole)
    with pytest.raises(ValueError, match=f"is damaged: the checksum of {name} does not match; read the text again"):
        open_file(saved)


def test_a_newer_format(path):
    rewrite(path, random_memory([9]), format_version=4, something="new")
    for read in (open_file, read_header):
        with pytest.raises(ValueError, match=r"format_version=4, this package reads 1 … 3: upgrade sharedllm"):
            read(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "has format 'other', not 'sharedllm.memory'"),
        ({"fingerprint": None}, "in its header fingerprint=None is not a text"),
        ({"layers": "2"}, "layers='2' is not a whole number from 0"),
        ({"layers": True}, "layers=True is not a whole number"),
        ({"layers": 10**9}, "layers=1000000000 is not a whole number from 0 to 10000"),
        ({"layers": 9999}, "are missing or unexpected"),
        ({"texts": -1}, "texts=-1 is not a whole number from 0"),
        ({"residuals": 2}, "residuals=2 is not a whole number from 0 to 1"),
        ({"dtype": 1}, "dtype=1 is not one of"),
        ({"dtype": "nn"}, "dtype=.nn. is not one of"),
        ({"format_version": 2.0}, r"has format_version=2\.0"),
        ({"format_version": True}, "has format_version=True"),
        ({"storage": []}, r"storage=\[\] is not one of"),
        ({"sources": [[{"name": 1, "tokens": 2}]]}, r"sources\[0\]\[0\]\.name=1 is not a text"),
        ({"sources": [[{"name": "a", "tokens": -1}]]}, r"tokens=-1 is not a whole number from 0"),
        ({"sources": [["a"]]}, r"sources\[0\]\[0\]='a' is not a JSON object"),
        ({"checksums": {"mask": 1}}, r"checksums\.mask=1 is not a text of the form"),
        ({"layers": 3}, r"tensors keys\.2, values\.2 are missing or unexpected"),
        ({"layers": 1}, r"tensors keys\.1, values\.1 are missing or unexpected"),
        ({"texts": 3}, r"mask has shape \(1, \d+\) for 3 texts"),
        ({"sources": []}, "for 1 texts"),
        ({"chunk_size": 0}, "chunk_size=0 is not a whole number from 1"),
        ({"checksums": {}}, "are missing or unexpected"),
    ],
)
def test_a_header_that_does_not_fit(path, changes, message):
    rewrite(path, random_memory([9]), **changes)
    with pytest.raises(ValueError, match=message):
        open_file(path)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("keys", lambda t: (t[0], t[1][:, :, :-1]), r"keys\.1 has shape .*, mask"),
        ("keys", lambda t: (t[0].half(), t[1]), r"has dtype torch.float32, not torch.float16"),
        ("values", lambda t: (t[0], t[1][:, :1]), r"values\.1 has shape .*, mask"),
        ("values", lambda t: (t[0][0], t[1]), r"values\.0 has shape .*, mask"),
        ("mask", lambda t: t[0], r"mask has shape \(\d+,\) for 2 texts"),
        ("mask", lambda t: t.long(), r"mask has dtype torch.int64, not torch.bool"),
        ("chunk", lambda t: t.int(), r"chunk has dtype torch.int32, not torch.int64"),
        ("stride", lambda t: t[:, 1:], r"stride has shape .*, mask"),
        ("token_ids", lambda t: t.flatten(), r"token_ids has shape .*, mask"),
        ("token_ids", lambda t: t[:, :5], r"lengths=\[9, 4\] do not match token_ids of 5 columns"),
        ("lengths", lambda t: t[:, None], r"lengths has shape .*, mask"),
        ("lengths", lambda t: -t, r"lengths=\[-9, -4\] do not match"),
    ],
)
def test_tensors_that_do_not_fit_each_other(path, name, change, message):
    memory = random_memory([9, 4])
    save_memory(replace(memory, **{name: change(getattr(memory, name))}), path)
    with pytest.raises(ValueError, match=message):
        open_file(path)


def test_not_a_memory(path):
    for content in (b"Call me Ishmael. " * 20, b"\x80\x04\x95" + bytes(100), json.dumps({"format": 1}).encode()):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"notes\.memory is not a memory, or was cut short"):
            open_file(path)
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="is a safetensors file but not a memory"):
        open_file(path)
    for text in ("not json", "[1, 2]", "3", "{}"):
        save_file({"weight": torch.zeros(3)}, path, metadata={"sharedllm": text})
        with pytest.raises(ValueError, match="its header can't be read"):
            read_header(path)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(ValueError, match="does not exist: check the name"):
        open_file(tmp_path / "none.memory")
    with pytest.raises(ValueError, match="is a folder: name a memory file"):
        open_file(tmp_path)
    with pytest.raises(ValueError, match="is a folder: name a file to save"):
        save_memory(random_memory([3]), tmp_path)
    with pytest.raises(ValueError, match=r"the folder .*nowhere does not exist"):
        save_memory(random_memory([3]), tmp_path / "nowhere" / "notes.memory")
    with pytest.raises(ValueError, match="memory is a str: pass a memory that `read` gave"):
        save_memory("text", tmp_path / "notes.memory")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is not a regular file"):
        open_file(tmp_path / "pipe")


def test_only_memories_are_replaced(saved, tmp_path):
    before = saved.read_bytes()
    save_memory(random_memory([5]), saved)
    assert saved.read_bytes() != before
    for name, content in (("book.txt", b"Once upon a time."), ("weights.safetensors", None)):
        path = tmp_path / name
        save_file({"w": torch.zeros(2)}, path) if content is None else path.write_bytes(content)
        before = path.read_bytes()
        with pytest.raises(
            ValueError, match=f"{name} is there and not a memory: name another file, or delete it first"
        ):
            save_memory(random_memory([3]), path)
        assert path.read_bytes() == before


def test_a_memory_of_another_model(saved):
    message = "another model: fingerprint abc in the file, xyz here; use the model that made it, or read the text again"
    with pytest.raises(ValueError, match=message):
        open_file(saved, fingerprint="xyz")
    save_memory(replace(random_memory([3]), fingerprint=""), saved)
    with pytest.raises(ValueError, match=r"fingerprint \(none\) in the file, xyz here"):
        open_file(saved, fingerprint="xyz")


def test_a_memory_of_another_tokenizer(saved):
    with pytest.raises(ValueError, match=r"another tokenizer: tokenizer \(none\) in the file, tok here; use the model"):
        open_file(saved, tokenizer="tok")
    save_memory(random_memory([3]), saved, tokenizer="tok")
    assert_same(open_file(saved, tokenizer="tok"), random_memory([3]))
    with pytest.raises(ValueError, match="another tokenizer: tokenizer tok in the file, other here"):
        open_file(saved, tokenizer="other")


def test_what_is_saved_can_be_opened_whatever_its_sources(path):
    """Numeric keys sort differently once they are text; the header's checksum must not depend on this."""
    save_memory(replace(random_memory([3]), sources=(({10: "b", 9: "a", "pages": (1, 2)},),)), path)
    assert open_file(path).sources == (({"10": "b", "9": "a", "pages": [1, 2]},),)


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ((({"name": {1, 2}},),), r"sources=.* can't be saved: .*set is not JSON serializable; use text and numbers"),
        (((), ()), r"sources=\(\(\), \(\)\) do not match 1 texts"),
        (({"name": "a"},), r"sources=.* do not match 1 texts: give each text a tuple of dicts"),
    ],
)
def test_sources_that_can_not_be_saved(saved, sources, message):
    before = saved.read_bytes()
    with pytest.raises(ValueError, match=message):
        save_memory(replace(random_memory([3]), sources=sources), saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"tokenizer": 5}, "can't be saved: tokenizer=5 is not a text; pass a memory"),
        ({}, {"tokenizer": object()}, "tokenizer=<object .*> is not a text"),
        ({"fingerprint": None}, {}, "fingerprint=None is not a text"),
        ({"chunk_size": 8.0}, {}, r"chunk_size=8\.0 is not a whole number"),
        ({"keys": (torch.zeros(1, 2, 3, 4, dtype=torch.long),) * 2}, {}, r"dtype=.int64. is not one of"),
    ],
)
def test_what_could_not_be_opened_is_not_saved(saved, changes, options, message):
    before = saved.read_bytes()
    with pytest.raises(ValueError, match=message):
        save_memory(replace(random_memory([3]), **changes), saved, **options)
    assert saved.read_bytes() == before
    save_memory(random_memory([3]), saved, tokenizer=None)
    assert read_header(saved)["tokenizer"] == ""


@pytest.mark.parametrize("error", [OSError("no space left"), SafetensorError("no space left"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["memory.file.save_file", "utils.files.os.fsync", "utils.files.Path.replace"])
def test_a_failed_write_leaves_the_older_file(saved, monkeypatch, step, error):
    before = saved.read_bytes()

    def fail(*args, **kwargs):
        if step == "memory.file.save_file":
            args[1].write_bytes(b"half")
        raise error

    monkeypatch.setattr(f"sharedllm.{step}", fail)
    with pytest.raises((OSError, KeyboardInterrupt)):
        save_memory(random_memory([30]), saved)
    monkeypatch.undo()
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]
    save_memory(random_memory([30]), saved)
    assert_same(open_file(saved), random_memory([30]))
