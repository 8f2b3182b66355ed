"""On a GPU every path gives what it gives on the CPU. Skipped where there is none."""

import copy
import json

import pytest
import torch
from helpers import tiny_base, tiny_shared

from sharedllm.memory.segments import segments_of
from sharedllm.scoring.heads import HeadIndex
from sharedllm.store import open_memory

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
JOINT, DEEP = {"injection": "joint", "encoding": "chunk"}, {"injection": "deep", "encoding": "chunk"}
SETTINGS = {
    "cross": {},
    "joint": JOINT,
    "deep": DEEP | {"prefix": [5, 3], "selection_heads": [[0, 1, 1.0], [2, 3, 0.5]]},
}


def test_a_device_that_is_not_there(run, tmp_path, monkeypatch):
    # The command puts it into the environment, for processes that it starts.
    monkeypatch.setenv("SHAREDLLM_DEVICE", "cpu")
    (tmp_path / "a.txt").write_text("The mill burned in 1312.\n")
    for name in ("nonsense", "cuda:99"):
        code, out, err = run("--device", name, "ask", tmp_path / "a.txt", "When did it burn?")
        assert code == 2 and not out and f"is '{name}', which this machine" in err and len(err.splitlines()) == 1


@needs_gpu
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3_text"])
@pytest.mark.parametrize("form", SETTINGS)
def test_reading_and_answering_equal_the_cpu(family, form):
    base = tiny_base(family, max_position_embeddings=256, initializer_range=0.1)
    pairs = {"injection_map": [[i, i] for i in range(3)]} if form == "deep" else {}
    here = tiny_shared(family, base=base, **SETTINGS[form], **pairs)
    there = copy.deepcopy(here).to("cuda")
    ids, question = torch.randint(0, 100, (2, 100)), torch.randint(0, 100, (2, 6))
    mask = torch.arange(100) < torch.tensor([[100], [57]])
    keep = form != "cross"
    with torch.no_grad():
        ours, theirs = (m.read(ids, mask, question, keep_all=keep) for m in (here, there))
        assert theirs.keys[0].is_cuda and theirs.fingerprint == ours.fingerprint
        for mine, other in zip(ours.keys + ours.residuals, theirs.keys + theirs.residuals, strict=True):
            torch.testing.assert_close(other.cpu(), mine, atol=1e-4, rtol=1e-4)
        # A memory made on the CPU serves a model on the GPU.
        expected = here(question, memory=ours, use_cache=False).logits
        for memory in (ours, theirs):
            found = there(question.cuda(), memory=memory, use_cache=False).logits.cpu()
            torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
        more = torch.randint(0, 100, (2, 30))
        longer = [m.append(memory, more).kept.cpu() for m, memory in ((here, ours), (there, theirs), (there, ours))]
    assert longer[0].tolist() == longer[1].tolist() == longer[2].tolist()
    written = [m.generate(question[:1].to(m.device), memory=memory.index_select([0]), max_new_tokens=8, do_sample=False)
               for m, memory in ((here, ours), (there, theirs))]  # fmt: skip
    assert written[0].tolist() == written[1].tolist()


@needs_gpu
def test_half_precision_stays_near():
    base = tiny_base("qwen2", max_position_embeddings=256, initializer_range=0.05)
    here = tiny_shared("qwen2", base=base, **SETTINGS["deep"], injection_map=[[i, i] for i in range(3)])
    ids, question = torch.randint(0, 100, (1, 64)), torch.randint(0, 100, (1, 6))
    with torch.no_grad():
        expected = here(question, memory=here.read(ids, keep_all=True), use_cache=False).logits
        there = here.to("cuda", torch.bfloat16)
        found = there(question.cuda(), memory=there.read(ids, keep_all=True), use_cache=False).logits.float().cpu()
    assert float((found - expected).norm() / expected.norm()) < 0.03


@needs_gpu
def test_heads_select_the_same_pieces():
    from sharedllm.context.pieces import Pieces

    base = tiny_base("qwen2", max_position_embeddings=256)
    model = tiny_shared("qwen2", base=base, **SETTINGS["deep"], injection_map=[[i, i] for i in range(3)])
    ids, question = torch.randint(0, 100, (1, 100)), torch.randint(0, 100, (1, 6))
    starts = torch.arange(0, 100, 10)
    found = []
    for device in ("cpu", "cuda"):
        model.to(device)
        memory = model.read(ids, keep_all=True)
        index = HeadIndex(model.model, segments_of(memory), Pieces(starts, starts + 10), model.config.selection_heads)
        asked = question.to(device)
        found.append(index.scores(asked, torch.ones_like(asked, dtype=torch.bool)))
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-4)


@needs_gpu
def test_commands(run, tmp_path):
    """Reading, asking, appending, explaining and writing on, with the bundled model; a memory of one device serves the other."""
    text, memory = tmp_path / "a.txt", tmp_path / "a.memory.d"
    lines = [f"The keeper of mill {i} was called Person{i}.\n" for i in range(300)]
    text.write_text("".join(lines))
    assert run("read", text, "-o", memory, "--keep-all")[0] == 0
    said = {}
    for device in ("cpu", "cuda"):
        code, out, err = run("--device", device, "ask", memory, "Who was the keeper of mill 77?", "--json")
        assert code == 0, err
        said[device] = json.loads(out)
    assert said["cpu"]["sources"][0]["text"] == said["cuda"]["sources"][0]["text"]
    text.write_text("".join(lines) + "The keeper of mill 300 was called Zed.\n")
    assert run("--device", "cuda", "read", text, "-o", memory, "--append")[0] == 0
    assert open_memory(memory).texts == 1
    for arguments in (
        ["explain", memory, "Who kept mill 7?", "-o", tmp_path / "page.html"],
        ["generate", "--prompt", "The mill", "--context", text, "--max-new-tokens", 4],
        ["recall", "--data", text, "-o", tmp_path / "recall", "--lengths", "2K", "--cases", 1, "--per-text", 1],
    ):
        code, _, err = run("--device", "cuda", *arguments)
        assert code == 0, (arguments, err)
