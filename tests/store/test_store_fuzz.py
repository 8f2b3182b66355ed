"""Damaged stores, of every kind that comes to mind: each is opened, asked, checked, appended to, merged or recovered.

Damage is reported or the store is refused, in one line; what is not damaged answers as before; and no command removes what
it did not write."""

import json
import os
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzzing import at_most, counts, mutated, run_cases
from safetensors import safe_open
from safetensors.torch import save_file

from sharedllm import open_memory
from sharedllm.cli.loading import load, tokenizer_fingerprint
from sharedllm.memory.file import checksum, header_checksum
from sharedllm.store import writer
from sharedllm.store.sealed import checksum as sealed_sum
from sharedllm.store.writer import writing
from sharedllm.utils.errors import UserError

TEXTS = {
    "one.txt": "The harbour master counted crates of copper. " * 2,
    "två.txt": "Anna keeps the mill by the river. " * 5,
    "three.txt": "The code of the silver falcon is 48213.",
}
KINDS = {"whole": {}, "int8": {"storage": "int8"}, "tree": {"keep_all": False}}


@dataclass(frozen=True)
class Made:
    """A store before it is damaged. files: content of each by its path. blocks: document, first token, tokens and first slot
    of each by its file."""

    folder: Path
    files: dict[str, bytes]
    blocks: dict[str, tuple[str, int, int, int]]
    loaded: object

    @property
    def manifest(self) -> dict:
        return json.loads(self.files["manifest.json"])


@pytest.fixture(scope="module")
def shared(small_folder):
    return load(str(small_folder))


@pytest.fixture(scope="module")
def made(shared, tmp_path_factory) -> dict[str, Made]:
    model, tokenizer = shared
    stores = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "BLOCK_TOKENS", 32)
        for kind, settings in KINDS.items():
            folder = tmp_path_factory.mktemp("made") / f"{kind}.memory"
            with writing(folder) as writes:
                writes.begin(model, tokenizer_fingerprint(tokenizer), **settings)
                for name, text in TEXTS.items():
                    writes.read(model, tokenizer, name, [text])
                writes.commit()
            store, slot, blocks = open_memory(folder), 0, {}
            for document in store.documents:
                token = 0
                for block in document.blocks:
                    blocks[block.file] = (document.name, token, block.tokens, slot)
                    token += block.tokens
                    slot += -(-block.tokens // 16) * 16
            stores[kind] = Made(folder, contents(folder), blocks, store.load())
    return stores


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "lock"}


# Damage to a store: each changes files, and gives a line that says what it did.


def blocks_of(folder: Path) -> list[Path]:
    return sorted(p for p in (folder / "blocks").iterdir() if p.is_file())


def manifest_of(folder: Path) -> Path:
    """It may be a pipe by now, which must not be opened."""
    if not (folder / "manifest.json").is_file():
        raise FileNotFoundError
    return folder / "manifest.json"


def chosen(rng: random.Random, folder: Path) -> Path:
    """A block, or sometimes the manifest."""
    blocks, manifest = blocks_of(folder), folder / "manifest.json"
    return manifest if manifest.is_file() and (rng.random() < 0.2 or not blocks) else rng.choice(blocks)


def flip(rng, folder):
    path = chosen(rng, folder)
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 1, 1, 5])):
        # Often in the header, which says the most.
        place = rng.randrange(min(len(content), rng.choice([16, 1000, len(content)])))
        content[place] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def cut(rng, folder):
    path = chosen(rng, folder)
    content = path.read_bytes()
    path.write_bytes(content[: rng.choice([0, 1, 7, 8, 9, len(content) - 1, rng.randrange(len(content))])])


def lengthen(rng, folder):
    path = chosen(rng, folder)
    path.write_bytes(path.read_bytes() + rng.choice([b"\0", b"\n", b"}", b"a" * 5000]))


def garbage(rng, folder):
    path = chosen(rng, folder)
    path.write_bytes(
        rng.choice(
            [
                rng.randbytes(500),
                b"{" * 100_000,
                b"[" * 100_000,
                b"\xff" * 16,
                b"\xef\xbb\xbf{}",
                b"null",
                b"PK\x03\x04",
            ]
        )
    )


def overwrite(rng, folder):
    path = chosen(rng, folder)
    content = bytearray(path.read_bytes())
    start = rng.randrange(len(content))
    length = rng.choice([4, 512, 4096])
    content[start : start + length] = bytes(len(content[start : start + length]))
    path.write_bytes(content)


def swap(rng, folder):
    first, second = rng.sample(blocks_of(folder), 2)
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)


def double(rng, folder):
    first, second = rng.sample(blocks_of(folder), 2)
    second.write_bytes(first.read_bytes())


def remove(rng, folder):
    chosen(rng, folder).unlink()


def rename(rng, folder):
    path = chosen(rng, folder)
    path.rename(
        path.with_name(rng.choice([f"{rng.randbytes(16).hex()}.memory", f"{path.name}.bak", path.name.upper()]))
    )


def other_kind(rng, folder):
    """A folder, a pipe, a link to nowhere, to itself or to a device, where a file belongs."""
    path = chosen(rng, folder)
    path.unlink()
    match rng.randrange(5):
        case 0:
            path.mkdir()
        case 1:
            os.mkfifo(path)
        case 2:
            path.symlink_to("nowhere")
        case 3:
            path.symlink_to(path.name)
        case _:
            path.symlink_to(rng.choice(["/dev/zero", "/dev/null", "/dev/full"]))


def no_blocks(rng, folder):
    shutil.rmtree(folder / "blocks")
    if rng.random() < 0.5:
        (folder / "blocks").write_text("a file")


def field(rng, folder):
    """A field of the manifest has another value, and the checksum does not know."""
    path = manifest_of(folder)
    path.write_text(json.dumps(mutated(rng, json.loads(path.read_bytes()))))


def forge(rng, folder):
    """As `field`, and the checksum is right: written wrong, not damaged."""
    path = manifest_of(folder)
    content = json.loads(path.read_bytes())
    content.pop("checksum")
    for _ in range(rng.choice([1, 1, 2])):
        content = mutated(rng, content)
    sign(path, content)


def sign(path: Path, content) -> None:
    path.write_text(json.dumps(content | {"checksum": sealed_sum(content)} if isinstance(content, dict) else content))


def forge_block(rng, folder):
    """A block's header or tensors are written wrong, and all checksums are right, the manifest's too."""
    content = json.loads(manifest_of(folder).read_bytes())
    content.pop("checksum")
    path = rng.choice(blocks_of(folder))
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
        header = json.loads(file.metadata()["sharedllm"])
    before = header.pop("checksum")
    sums = header.pop("checksums")
    if rng.random() < 0.5:
        header = mutated(rng, header)
    else:
        name = rng.choice(sorted(tensors))
        tensors[name] = wrong(rng, tensors[name])
        if rng.random() < 0.2:  # right by itself, but not like the other blocks
            tensors |= {n: t[:, :1].contiguous() for n, t in tensors.items() if n.startswith(("keys.", "values."))}
        sums = {name: checksum(tensor) for name, tensor in tensors.items()}
    header = (header if isinstance(header, dict) else {}) | {"checksums": sums}
    header["checksum"] = header_checksum(header)
    if header["checksum"] == before:
        return  # nothing has changed
    save_file(tensors, path, metadata={"sharedllm": json.dumps(header)})
    for document in content["documents"]:
        for block in document["blocks"]:
            if block["file"] == path.stem:
                block["sha256"] = header["checksum"]
    sign(folder / "manifest.json", content)


def wrong(rng, tensor: torch.Tensor) -> torch.Tensor:
    match rng.randrange(7):
        case 0:
            return tensor[..., :-1].contiguous()
        case 1:
            return torch.cat([tensor, tensor], -1)
        case 2:
            return tensor.double() if tensor.is_floating_point() else tensor.float()
        case 3:
            return tensor.flatten()
        case 4:
            return tensor[None].contiguous()
        case 5:
            return torch.zeros_like(tensor)
        case _:
            odd = (
                [float("nan"), float("inf"), -1.0]
                if tensor.is_floating_point()
                else [100, 1]
                if tensor.dtype == torch.int8
                else [1]
                if tensor.dtype == torch.bool
                else [-1, 10**6, 2**31 - 1]
            )
            flat = tensor.flatten().clone()
            flat[rng.randrange(len(flat))] = rng.choice(odd)
            return flat.view(tensor.shape)


DAMAGE: list[Callable[[random.Random, Path], None]] = [
    flip, flip, flip, cut, cut, lengthen, garbage, overwrite, swap, double, remove, remove, rename, other_kind, other_kind,
    no_blocks, field, field, forge, forge, forge, forge_block, forge_block, forge_block,
]  # fmt: skip


def unless_refused(use: Callable[[], Any]) -> Any:
    """What is returned; None if it is refused in a line that is short enough to read."""
    try:
        return use()
    except UserError as error:
        said = str(error)
    assert "\n" not in said and len(said) < 1500
    return None


def is_as_made(path: Path, content: bytes) -> bool:
    return path.is_file() and not path.is_symlink() and path.read_bytes() == content


def expected_losses(store: Made, folder: Path) -> set[tuple[str, int, int]]:
    whole = {
        f for f in store.blocks if is_as_made(folder / "blocks" / f"{f}.memory", store.files[f"blocks/{f}.memory"])
    }
    return {(name, start, start + n) for f, (name, start, n, _) in store.blocks.items() if f not in whole}


def knows(store: Made, folder: Path) -> bool:
    """Whether the manifest still says what it said."""
    path = folder / "manifest.json"
    try:
        return path.is_file() and json.loads(path.read_bytes()) == store.manifest
    except (ValueError, RecursionError):
        return False


@torch.no_grad()
def check_opened(store: Made, folder: Path, model) -> None:
    """The store is refused in one line, or opens and holds what is not damaged, as it was."""
    trusted = knows(store, folder)
    opened = unless_refused(lambda: open_memory(folder, fingerprint=model.fingerprint()))
    if opened is None:
        assert not trusted, "refused although its manifest is whole"
        return
    lost = {(d.document, d.start, d.end) for d in opened.damaged}
    assert all("\n" not in d.reason for d in opened.damaged)
    if trusted:
        assert lost == expected_losses(store, folder)
    loaded = unless_refused(opened.load)
    if loaded is None:
        assert not opened.documents or len(opened.damaged) == sum(len(d.blocks) for d in opened.documents)
        return
    if trusted:
        left = [
            slot + torch.arange(n)
            for name, start, n, slot in store.blocks.values()
            if (name, start, start + n) not in lost
        ]
        inside = torch.isin(store.loaded.position[0], torch.cat(left))
        assert torch.equal(loaded.position[0], store.loaded.position[0][inside])
        for ours, theirs in zip(loaded.keys + loaded.values, store.loaded.keys + store.loaded.values, strict=True):
            assert torch.equal(ours, theirs[:, :, inside])


def check_asked(folder: Path, model, tokenizer) -> None:
    question = tokenizer("silver falcon", return_tensors="pt").input_ids
    opened = unless_refused(lambda: open_memory(folder, fingerprint=model.fingerprint()))
    if opened is not None:
        unless_refused(lambda: model.select(opened, question, budget=64, score="bm25"))


def check_command(rng, did: list[str], store: Made, folder: Path, small_folder: Path, run) -> None:
    """One command over the damaged store: an exit code of ours, at most one line of error, and nothing lost by it."""
    new, text = folder.parent / "new.memory", folder.parent / "new.txt"
    text.write_text("A new text about a lantern.")
    model = ("--model", small_folder)
    arguments = {
        "info": ["info", folder],
        "check": ["memory", "check", folder],
        "ask": ["ask", folder, "What is the code?", "--max-new-tokens", "1", *model],
        "append": ["read", text, "-o", folder, "--append", *model],
        "read": ["read", text, "-o", folder, *model],
        "forget": ["memory", "forget", folder, "three.txt"],
        "merge": ["memory", "merge", folder, store.folder, "-o", new],
        "recover": ["memory", "recover", folder, "-o", new, *model],
    }
    name = rng.choice(sorted(arguments))
    did.append(name)
    trusted, losses = knows(store, folder), expected_losses(store, folder)
    before = (
        {n: c for n, c in contents(folder).items() if store.files.get(n) == c} if (folder / "blocks").is_dir() else {}
    )
    code, _, err = run(*arguments[name])
    assert code in (0, 1, 2) and "Traceback" not in err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == (code == 2), err
    if name == "check" and trusted:
        assert code == int(bool(losses))
    if name == "merge" and trusted and losses:
        assert code == 2 and not new.exists()
    mine = {f"blocks/{f}.memory" for f, (document, *_) in store.blocks.items() if document == "three.txt"}
    for path, content in before.items():
        if path == "manifest.json" or (name == "forget" and path in mine):
            continue
        if name == "forget" or (code == 0 and not trusted and name in ("append", "forget")):
            # A forged manifest that does not name a block has no claim on it; nor does anything else.
            continue
        assert is_as_made(folder / path, content), f"{name} removed {path}"
    if name == "append" and code == 0:
        assert text.name in str([d["name"] for d in open_memory(folder).contents])
    if name == "recover" and code == 0:
        assert not open_memory(new).damaged


@counts(few=6, full=1000)
def test_damaged_stores(made, shared, small_folder, tmp_path, run, count):
    model, tokenizer = shared

    def case(rng: random.Random, did: list[str]) -> None:
        store, place = made[rng.choice(sorted(KINDS))], tmp_path / "case"
        shutil.rmtree(place, ignore_errors=True)
        folder = place / "a.memory"
        shutil.copytree(store.folder, folder)
        for damage in rng.sample(DAMAGE, rng.choice([1, 1, 1, 2])):
            did.append(damage.__name__)
            with suppress(
                FileNotFoundError,
                NotADirectoryError,
                IsADirectoryError,
                ValueError,
                AttributeError,
                KeyError,
                TypeError,
            ):
                damage(rng, folder)  # the first may have left nothing for the second
        with at_most(60):
            check_opened(store, folder, model)
            check_asked(folder, model, tokenizer)
            check_command(rng, did, store, folder, small_folder, run)

    run_cases("damaged stores", count, case)
