"""Explaining an answer: attention equals slow loops, facts are consistent, and no text can break the page."""

import json
import math
import re
from dataclasses import asdict, replace
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import byte_tokenizer, tiny_base, tiny_shared

from sharedllm import reference
from sharedllm.answering.ask import ask
from sharedllm.explain import attention_paid, gather, render
from sharedllm.explain.gathering import _best, stands_in
from sharedllm.explain.text import ChunkText
from sharedllm.store import writer as edit
from sharedllm.utils.text import decode_pieces

JOINT = {"injection": "joint", "injection_map": [[1, 1], [2, 2], [2, 3]]}
# Chunks are longer than the pieces that are read.
DEEP = {"injection": "deep", "prefix": [7, 8, 9], "chunk_size": 64, "parting": [ord(".")], "closing": [ord(".")]}
NASTY = "Say </script><b>bold</b> <!--<script>alert(1)</script> {{facts}} &amp; 😀👩‍👩‍👧 naïve.\n"


def made(window: int = 64, **overrides):
    """A random model over bytes."""
    base = tiny_base("llama", vocab_size=256, max_position_embeddings=64)
    return tiny_shared("llama", base=base, encoding="chunk", window=window, **overrides)


def ids_of(text: str) -> torch.Tensor:
    return torch.tensor([byte_tokenizer()(text).input_ids])


@torch.no_grad()
def slow_attention(model, memory, running: list[int], rows: range) -> dict[int, torch.Tensor]:
    """Upper layer → attention paid to each kept token, one head and one query at a time."""
    config, upper, kept = model.config, model.model.upper, memory.position[0].tolist()
    pair_of = {index: pair for pair, (_, index) in enumerate(config.injection_map)}
    far = reference.ReferenceMemory(
        [(k[0].transpose(0, 1), v[0].transpose(0, 1)) for k, v in zip(memory.keys, memory.values, strict=True)],
        memory.chunk[0].tolist(),
        kept,
    )
    n, found = int(memory.chunks[0]), {}
    hidden = upper.embed_tokens(torch.tensor(running))
    for index, layer in enumerate(upper.layers):
        attention, positions = layer.self_attn, list(range(len(hidden)))
        joint = None
        if index in pair_of and config.injection == "joint":
            bias = -math.log(max(1.0, len(kept) / config.window))
            places = [max(c - n, -config.reach) for c in far.chunk]
            keys, values = far.pairs[pair_of[index]]
            joint = reference._rotate(model, keys, places), values, bias
            normed = layer.input_layernorm(hidden)
            queries = reference._rotate(model, attention.q_proj(normed).unflatten(-1, (-1, 8)), positions)
            near = reference._rotate(model, attention.k_proj(normed).unflatten(-1, (-1, 8)), positions)
            found[index] = torch.zeros(len(kept))
            for row in rows:
                for head in range(4):
                    scores = [float(key[head // 2] @ queries[row, head]) / 8**0.5 + bias for key in joint[0]]
                    scores += [float(near[seen, head // 2] @ queries[row, head]) / 8**0.5 for seen in range(row + 1)]
                    weights = torch.tensor(scores, dtype=torch.float64).softmax(0)
                    found[index] += weights[: len(kept)].float() / (4 * len(rows))
        hidden = hidden + reference._self_attention(model, layer, index, hidden, joint)
        if index in pair_of and config.injection == "cross":
            cross = layer.injection
            queries = cross.q_proj(cross.norm(hidden)).unflatten(-1, (-1, 8))
            queries = reference._rotate(model, queries, [n] * len(queries))
            keys = reference._rotate(model, far.pairs[pair_of[index]][0], far.chunk)
            found[index] = torch.zeros(len(kept))
            for row in rows:
                for head in range(4):
                    scores = [float(key[head // 2] @ queries[row, head]) / 8**0.5 for key in keys]
                    found[index] += torch.tensor(scores, dtype=torch.float64).softmax(0).float() / (4 * len(rows))
            hidden = hidden + reference._cross_attention(model, layer, hidden, far, pair_of[index])
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return found


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("settings", [JOINT, {"injection": "cross"}], ids=["joint", "cross"])
def test_attention_equals_slow_loops(settings, implementation):
    """More is kept than the window holds, so that the bias matters; the last chunk is kept, as the reference requires."""
    base = tiny_base("llama", vocab_size=256, attn_implementation=implementation)
    model = tiny_shared("llama", base=base, encoding="chunk", **settings)
    text, question, answer = ids_of("the quick brown fox " * 5), ids_of("what jumps?"), ids_of("a fox")
    everything = model.read(text, keep_all=True)
    chosen = model.select(everything, question, budget=60, score=torch.linspace(0, 1, 100)[None])
    assert int(chosen.kept[0]) > model.config.window and set(chosen.stride[0].tolist()) > {1}
    before = model(question, memory=chosen).logits
    paid = attention_paid(model, chosen, question, answer)
    running = torch.cat([question, answer], 1)[0, :-1].tolist()
    expected = slow_attention(model, chosen, running, range(question.shape[1] - 1, len(running)))
    assert [layer.layer for layer in paid] == sorted(expected)
    for layer in paid:
        torch.testing.assert_close(layer.tokens, expected[layer.layer], atol=1e-5, rtol=1e-4)
        whole = float(layer.tokens.sum())
        assert (0 < whole < 0.999) if settings == JOINT else whole == pytest.approx(1, abs=1e-5)
        assert (layer.gate is None) == (settings == JOINT)
    assert torch.equal(model(question, memory=chosen).logits, before), "the model is unchanged"


@torch.no_grad()
def test_attention_of_a_deep_model_is_that_of_the_base():
    """A text that is read whole is read as by the base, after the prefix, so all layers look at it as the base's do."""
    base = tiny_base("llama", vocab_size=256, attn_implementation="eager")
    model = tiny_shared("llama", base=base, encoding="chunk", **DEEP | {"window": 128})
    text, question, answer = ids_of("The quick brown fox."), ids_of("what jumps?"), ids_of("a fox")
    everything = model.read(text, keep_all=True)
    chosen = model.select(everything, question, budget=60, score=torch.ones(1, text.shape[1]))
    assert int(chosen.kept[0]) == text.shape[1]
    paid = attention_paid(model, chosen, question, answer)
    running = torch.cat([torch.tensor([DEEP["prefix"]]), text, question, answer[:, :-1]], 1)
    seen = base(running, output_attentions=True).attentions
    start, rows = len(DEEP["prefix"]), slice(-answer.shape[1], None)
    assert [layer.layer for layer in paid] == [*range(len(seen))]
    for layer in paid:
        expected = seen[layer.layer][0, :, rows].mean((0, 1))[start : start + text.shape[1]]
        torch.testing.assert_close(layer.tokens, expected, atol=1e-5, rtol=1e-4)
        assert layer.gate is None


def test_what_lies_between_pieces_was_not_read():
    """Of a chunk of which one piece is read, the rest stands beside it at stride 0."""
    model, lines = made(**DEEP), "The quick brown fox. " * 2
    everything = model.read(ids_of(f"{lines}Say zebra now. {lines}"), keep_all=True)
    answer = ask(model, byte_tokenizer(), everything, "zebra", budget=30, score="bm25", max_new_tokens=4)
    facts = gather(model, byte_tokenizer(), answer, "random")
    assert facts.strides == [1] and 0 < facts.kept < facts.tokens
    chunk = facts.chunks[0]
    assert 0 < chunk.kept < chunk.tokens[1] - chunk.tokens[0] and chunk.stride == 1
    assert {piece.stride for piece in chunk.pieces} == {0, 1} and chunk.pieces[-1].tokens[1] == chunk.tokens[1]
    assert all(piece.kept == piece.stride * (piece.tokens[1] - piece.tokens[0]) for piece in chunk.pieces)


def test_hooks_are_removed_after_a_failure():
    model = made(**JOINT)
    chosen = model.read(ids_of("abc" * 20), keep_all=True)
    with pytest.raises(ValueError, match="window=64"):
        attention_paid(model, chosen, ids_of("x" * 100), ids_of("y"))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_nothing_kept_gets_no_attention():
    model = made(**JOINT)
    everything = model.read(ids_of("abc" * 20), keep_all=True)
    answer = ask(model, byte_tokenizer(), everything, "what?", budget=16, score="bm25", max_new_tokens=4)
    worthless = torch.full_like(answer.scores, -torch.inf)
    nothing = model.select(everything, answer.question_ids, budget=16, score=worthless)
    answer = replace(answer, memory=nothing, scores=worthless, citations=[], sources=[])
    assert int(nothing.kept[0]) == 0
    facts = gather(model, byte_tokenizer(), answer, "random")
    assert all(layer.memory == 0 for layer in facts.layers) and all(chunk.stride == 0 for chunk in facts.chunks)
    assert all(chunk.score is None for chunk in facts.chunks), "left out, not of a score of 0"
    assert json.loads(embedded(render(facts)))["kept"] == 0


def test_pieces_join_to_the_text():
    """Cuts inside characters too: no byte is lost, repeated or broken."""
    tokenizer, text = byte_tokenizer(), "aé😀 naïve 👩‍👩‍👧!" * 9
    ids = tokenizer(text).input_ids
    for step in (1, 2, 3, 7, 50):
        cuts = sorted({*range(0, len(ids), step), len(ids)})
        pieces = decode_pieces(tokenizer, ids, cuts)
        assert len(pieces) == len(cuts) - 1 and "".join(pieces) == text
        assert not any("\ufffd" in piece for piece in pieces)


def test_text_goes_on_behind_what_was_lost():
    """Two documents in chunks of 8 slots; the second has lost its first block and one in the middle."""
    lines = "abcdefghij", "lost1234 😀fghlost5678 the end"
    first, second = (byte_tokenizer()(line).input_ids for line in lines)
    ids = torch.zeros(56, dtype=torch.int32)
    ids[:10], ids[16:24], ids[40:48] = torch.tensor(first), torch.tensor(second[8:16]), torch.tensor(second[24:32])
    documents = [
        {"name": "one", "start": 0, "tokens": 10},
        {"name": "two", "start": 16, "tokens": len(second), "marks": [(0, 8), (24, 21)]},
    ]
    text = ChunkText(byte_tokenizer(), ids, documents, [(0, 8), (8, 10), (16, 24), (40, 48)], {4, 20, 30})
    assert [text.between(*slots) for slots in ((0, 10), (16, 24), (40, 48))] == ["abcdefghij", " 😀fgh", " the end"]
    assert text.characters(8, 10) == [8, 10]
    assert text.characters(16, 24) == [10 + 8, 10 + 8 + 5]
    assert text.characters(40, 48) == [10 + 21, 10 + 21 + 8]


TEXTS = {"one.txt": "The quick brown fox. " * 9, "two": "é", "three": NASTY * 3}


@pytest.fixture(scope="module", params=["joint", "cross", "deep"])
def explained(request):
    """An answer over three documents, two of which begin inside chunks; and all its facts."""
    tokenizer = byte_tokenizer()
    model = made(**{"joint": JOINT, "cross": {"injection": "cross"}, "deep": DEEP}[request.param])
    everything = None
    for name, text in TEXTS.items():
        ids = ids_of(text)
        if everything is None:
            everything = model.read(ids, sources=[name], keep_all=True)
        else:
            everything = model.append(everything, ids, sources=[name])
    answer = ask(model, tokenizer, everything, "Say </script>", budget=150, score="bm25", max_new_tokens=6)
    return answer, gather(model, tokenizer, answer, "random")


def test_facts_add_up(explained):
    answer, facts = explained
    text = "".join(TEXTS.values())
    assert facts.kept == sum(chunk.kept for chunk in facts.chunks) == int(answer.memory.kept[0]) <= facts.budget
    assert facts.tokens == len(text.encode()) == facts.chunks[-1].tokens[1]
    # Chunks partition the text, pieces their chunks.
    for name in ("tokens", "characters"):
        ends = [getattr(chunk, name) for chunk in facts.chunks]
        assert [start for start, _ in ends] == [0, *(end for _, end in ends[:-1])]
    assert facts.chunks[-1].characters[1] == len(text)
    for index, chunk in enumerate(facts.chunks):
        assert chunk.pieces[0].tokens[0] == chunk.tokens[0] and chunk.pieces[-1].tokens[1] == chunk.tokens[1]
        assert all(a.tokens[1] == b.tokens[0] for a, b in zip(chunk.pieces, chunk.pieces[1:], strict=False))
        assert "".join(piece.text for piece in chunk.pieces) == text[slice(*chunk.characters)]
        assert chunk.kept == sum(piece.kept for piece in chunk.pieces)
        for piece in chunk.pieces:
            length = piece.tokens[1] - piece.tokens[0]
            assert piece.kept * piece.stride >= length if piece.stride else piece.kept == 0
            assert piece.stride != 1 or piece.kept == length
        kept = answer.memory.chunk[0] == index
        strides = answer.memory.stride[0][kept].tolist()
        assert (chunk.kept, chunk.stride) == (len(strides), min(strides, default=0))
        assert len(chunk.excerpt) <= 80
        best = float(answer.scores[0, slice(*chunk.tokens)].max())
        assert chunk.score == (pytest.approx(best, rel=1e-4) if math.isfinite(best) else None)
        assert facts.documents[chunk.document].tokens[0] <= chunk.tokens[0] < facts.documents[chunk.document].tokens[1]
    # Attention: for each layer all chunks together, and the mean over all pieces.
    for place, layer in enumerate(facts.layers):
        masses = [chunk.attention[place] for chunk in facts.chunks if chunk.attention]
        assert sum(masses) == pytest.approx(layer.memory, abs=1e-4)
        assert 0 <= layer.sources <= layer.memory + 1e-4 <= 1 + 2e-4
        assert layer.memory == pytest.approx(1, abs=1e-4) or facts.injection != "cross"
    pieces = sum(piece.attention for chunk in facts.chunks for piece in chunk.pieces)
    assert pieces == pytest.approx(sum(layer.memory for layer in facts.layers) / len(facts.layers), abs=1e-4)
    # Documents and sources are at the stated places.
    for document, (name, content) in zip(facts.documents, TEXTS.items(), strict=True):
        assert document.name == name and text[slice(*document.characters)] == content
    assert facts.sources
    for source in facts.sources:
        assert TEXTS[source.document][slice(*source.characters)] == source.text != ""
        inside = [
            piece
            for chunk in facts.chunks[source.chunks[0] : source.chunks[1] + 1]
            for piece in chunk.pieces
            if piece.tokens[0] >= source.start and piece.tokens[1] <= source.start + source.tokens[1] - source.tokens[0]
        ]
        assert "".join(piece.text for piece in inside) == source.text
        assert sum(piece.attention for piece in inside) == pytest.approx(source.attention, abs=1e-4)
    assert sum(s.attention for s in facts.sources) == pytest.approx(
        sum(layer.sources for layer in facts.layers) / len(facts.layers), abs=1e-4
    )


class Page(HTMLParser):
    """Tags, attributes, and the text in each kind of tag."""

    def __init__(self, page: str):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], {}
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "link", "img", "br", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.setdefault(self.open[-1] if self.open else "", []).append(data)


def embedded(page: str) -> str:
    return re.search(r'<script type="application/json" id="facts">(.*?)</script>', page, re.DOTALL)[1]


def test_the_page_needs_nothing_and_breaks_on_nothing(explained):
    _, facts = explained
    page = render(facts)
    parsed = Page(page)
    assert not re.search(r"https?:|//[a-z]", page.replace(embedded(page), "")), "nothing is loaded"
    assert not {"src", "href"} & {name for name, _ in parsed.attributes}
    assert not any(name.startswith("on") for name, _ in parsed.attributes)
    assert json.loads(embedded(page)) == json.loads(json.dumps(asdict(facts)))
    # The texts are data: script tags in three documents add none to the page.
    assert parsed.open == [] and parsed.tags.count("script") == 2 and "b" not in parsed.tags
    assert parsed.text["h1"] == ["Say </script>"]
    assert "😀" in embedded(page) and "<" not in embedded(page)
    assert not re.findall(r"\{\{(?!facts)\w+\}\}", page)
    script = parsed.text["script"][-1]
    assert "function tellApart(" in script and not re.search(r"^import", script, re.MULTILINE), (
        "it can be opened from disk"
    )


NEEDLE = "The secret code of the silver falcon is 48213."


def test_command_on_the_bundled_model(run, tmp_path):
    """A text of about 3,000 tokens, six windows: the needle is among the sources, on the page and in the JSON."""
    lines = [
        f"On day {i} the men of house {i * 7 % 31} went down to the river and came back at night." for i in range(130)
    ]
    path, page = tmp_path / "river.txt", tmp_path / "x.html"
    path.write_text("\n".join([*lines[:40], NEEDLE, *lines[40:]]))
    question = "What is the secret code of the silver falcon?"
    code, out, err = run("explain", path, question, "-o", page, "--budget", 1024, "--max-new-tokens", 12, "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert 2_500 < facts["tokens"] < 5_000 and facts["budget"] == 1024 and facts["score"] == "focus"
    assert any(NEEDLE in source["text"] for source in facts["sources"])
    assert "x.html" in err.replace("\n", "")
    whole = {"damaged": [], "incomplete": []}
    assert json.loads(embedded(page.read_text(encoding="utf-8"))) | whole == facts
    assert [f.name for f in tmp_path.iterdir() if "html" in f.name] == ["x.html"], "no temporary file is left"


def test_places_are_right_behind_lost_blocks(run, tmp_path, small_folder, monkeypatch):
    """If a store's second document has a damaged first block and one in the middle, the rest keeps its place."""
    monkeypatch.setattr(edit, "BLOCK_TOKENS", 32)
    texts = {"one": "The quick brown fox – jumps. " * 2, "two": "".join(f"Day {i}: rain 😀. " for i in range(12))}
    for name, content in texts.items():
        (tmp_path / name).write_text(content)
    memory, page = tmp_path / "x.memory", tmp_path / "x.html"
    arguments = [tmp_path / "one", tmp_path / "two", "-o", memory, "--keep-all", "--model", small_folder]
    assert run("read", *arguments)[0] == 0
    blocks = json.loads((memory / "manifest.json").read_text())["documents"][1]["blocks"]
    for block in (blocks[0], blocks[3]):
        (memory / "blocks" / f"{block['file']}.memory").write_bytes(b"no more")
    options = ["--model", small_folder, "--score", "bm25", "--budget", 200, "-o", page, "--json"]
    code, out, err = run("explain", memory, "Day 9?", *options)
    assert code == 0 and "lost" in err, err
    facts = json.loads(out)
    assert facts["tokens"] == sum(len(content.encode()) for content in texts.values()) - 64
    for chunk in facts["chunks"]:
        document = facts["documents"][chunk["document"]]
        start, end = (place - document["characters"][0] for place in chunk["characters"])
        name = document["name"].rpartition("/")[2]
        shown = "".join(piece["text"] for piece in chunk["pieces"])
        expected = texts[name][start:end]
        # A character whose end is lost can't be shown.
        assert shown == expected or (shown[-1] == "\ufffd" and expected.startswith(shown.rstrip("\ufffd")))
    for source in facts["sources"]:
        assert source["text"] == texts[source["document"].rpartition("/")[2]][slice(*source["characters"])]


def test_bad_requests(run, tmp_path, small_folder):
    text, memory, page = tmp_path / "a.txt", tmp_path / "a.memory", tmp_path / "a.html"
    text.write_text("The quick brown fox. " * 9)
    assert run("read", text, "-o", memory, "--model", small_folder)[0] == 0
    (tmp_path / "folder.html").mkdir()
    options = ["--model", small_folder, "--score", "bm25"]
    for arguments, message in (
        ([text, "What?", "-o", tmp_path / "folder.html", *options], "is a folder"),
        ([text, "What?", "-o", text / "a.html", *options], "is a file, not a folder"),
        ([text, "What?", "-o", text, *options], "does not end in .html"),
        ([text, " ", "-o", page, *options], "the question is empty"),
        ([text, "What? " * 50, "-o", page, *options], "shorten it"),
        ([text, "What?", "-o", page, *options[:-1], "best"], "--score best is not known"),
        ([memory, "What?", "-o", page, *options], "--keep-all"),
        ([tmp_path / "none.txt", "What?", "-o", page, *options], "does not exist"),
    ):
        code, out, err = run("explain", *arguments)
        assert (code, out) == (2, "") and message in err and len(err.strip().splitlines()) == 1, err
    assert not page.exists()


@pytest.mark.parametrize(
    ("answer", "text", "stands"),
    [
        ("4 711", "The code is 4-711.", True),
        ("Anna Lind", "It was ANNA\nLIND who signed.", True),
        ("Anna", "Joanna signed.", False),
        ("town7", "town70 and town 7", False),
        ("", "anything", False),
        ("?!", "anything", False),
        ("not there", "there not", False),
    ],
)
def test_an_answer_stands_in_a_passage_word_for_word(answer, text, stands):
    assert stands_in(answer, text) is stands


def test_the_page_says_what_was_read_and_where_the_answer_stands(run, tmp_path):
    """Passages are the text read for the answer; a passage is marked as its source only if it contains the answer."""
    text = tmp_path / "a.txt"
    text.write_text("The secret code of the silver falcon is 48213.\n" + "The sea was calm that day.\n" * 300)
    question = "What is the secret code of the silver falcon?"
    code, out, _ = run("explain", text, question, "-o", tmp_path / "a.html", "--json")
    facts = json.loads(out)
    assert code == 0 and "48213" in facts["answer"]
    assert [source["answer"] for source in facts["sources"]] == [
        "48213" in source["text"] for source in facts["sources"]
    ]
    assert any(source["answer"] for source in facts["sources"])
    page = (tmp_path / "a.html").read_text()
    assert "source of the answer" not in page and "comes from" not in page
    assert "read for the answer" in page and "None of them contains the answer" in page


def test_a_chunk_that_was_read_for_a_negative_score_is_told_from_one_that_was_not():
    scores = torch.tensor([[-2.0, -1.0, -math.inf, -math.inf, 3.0, -math.inf]])
    starts, ends = torch.tensor([0, 2, 4]), torch.tensor([2, 4, 6])
    answer: Any = SimpleNamespace(scores=scores, chunks=(starts, ends))
    assert _best(answer).tolist() == [-1.0, -math.inf, 3.0]
