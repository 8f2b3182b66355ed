"""Selecting from a memory for a question: within the budget, the right tokens, each unchanged."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from helpers import pad, random_texts, tiny_shared

from sharedllm.answering.citations import cite
from sharedllm.memory.segments import Segment, segments_of
from sharedllm.model.rope import rotate, rotation
from sharedllm.prompts import own_words
from sharedllm.scoring import SCORES
from sharedllm.scoring.base import get_score, spread
from sharedllm.scoring.bm25 import BM25Score
from sharedllm.scoring.focus import FocusScore
from sharedllm.scoring.oracle import OracleScore


def ids_of(*lengths: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(random_texts(list(lengths), seed))


@pytest.fixture(scope="module")
def model():
    return tiny_shared("llama", injection="joint", encoding="chunk", injection_map=[[1, 1], [2, 2], [2, 3]])


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("budget", [4, 20, 70])
@torch.no_grad()
def test_what_is_selected_is_what_was_read(model, score, budget):
    """Batches of texts of different lengths, and questions with padding."""
    contexts, questions = random_texts([90, 17, 0], 1), random_texts([6, 3, 4], 2)
    ids, mask = pad(contexts, "right")
    query, query_mask = pad(questions)
    memory = model.read(ids, mask, keep_all=True)
    assert memory.kept.tolist() == [90, 17, 0]
    chosen = model.select(memory, query, query_mask, budget=budget, score=score)
    for row, length in enumerate((90, 17, 0)):
        kept = int(chosen.kept[row])
        assert kept <= budget and (kept > 0 or length == 0)
        positions = chosen.position[row, :kept]
        assert (positions.diff() > 0).all() and torch.equal(chosen.chunk[row, :kept], positions // 16)
        for ours, all_of_it in zip(chosen.keys + chosen.values, memory.keys + memory.values, strict=True):
            assert torch.equal(ours[row, :, :kept], all_of_it[row][:, positions])
    assert torch.equal(chosen.lengths, memory.lengths) and torch.equal(chosen.token_ids, memory.token_ids)
    alone = model.read(torch.tensor([contexts[1]]), keep_all=True)
    single = model.select(alone, torch.tensor([questions[1]]), budget=budget, score=score)
    kept = int(single.kept[0])
    assert single.position[0].tolist() == chosen.position[1, :kept].tolist()


@torch.no_grad()
def test_enough_budget_is_stride_one(model):
    ids, query, running = ids_of(50), ids_of(5, seed=1), ids_of(12, seed=2)
    memory = model.read(ids, keep_all=True)
    chosen = model.select(memory, query, budget=50, score="attention")
    assert torch.equal(model(running, memory=chosen).logits, model(running, memory=memory).logits)
    fine = tiny_shared(
        "llama", injection="joint", encoding="chunk", injection_map=[[1, 1], [2, 2], [2, 3]], strides=[1]
    )
    torch.testing.assert_close(model(running, memory=memory).logits, fine(running, context_ids=ids).logits)


@torch.no_grad()
def test_attention_score_is_the_attention(model):
    """The largest softmax weight over the question's tokens, with all keys as far away as the reach, summed over heads."""
    ids, query = ids_of(40), ids_of(5, seed=1)
    memory = model.read(ids, keep_all=True)
    states = model(query, output_hidden_states=True).hidden_states
    expected = torch.zeros(40)
    for pair, (_, index) in enumerate(model.config.injection_map):
        layer = model.model.upper.layers[index]
        rotary = model.model.upper.rotary_emb
        queries = layer.self_attn.q_proj(layer.input_layernorm(states[index])).view(1, 5, 4, 8).transpose(1, 2)
        queries = rotate(queries, rotation(rotary, torch.arange(5)[None], queries))
        keys = rotate(memory.keys[pair], rotation(rotary, torch.full_like(memory.chunk, -model.config.reach), queries))
        for head in range(4):
            weights = torch.softmax(queries[0, head] @ keys[0, head // 2].T / 8**0.5, -1)
            expected += weights.amax(0)
    for block in (7, 16_384):
        score = type(get_score("attention"))(block=block)
        got = score.scores(model.model, segments_of(memory), query, torch.ones_like(query).bool())
        torch.testing.assert_close(got[0], spread(expected[None])[0], atol=1e-5, rtol=1e-5)


def test_spread_reaches_what_stands_behind():
    scores = torch.zeros(1, 50)
    scores[0, 20] = 1.0
    near = spread(scores, before=2, after=5)[0]
    assert near[20] == 1.0 and set(torch.nonzero(near).flatten().tolist()) == set(range(18, 26))
    assert (near[[18, 19, 21, 25]] == 0.5).all()


@pytest.mark.parametrize("length", [1, 15, 16, 17, 200, 1000])
def test_bm25_is_that_of_bm25s(length):
    """Pieces of 32 tokens every 16, words are tokens and pairs; a token has the better score of its two pieces."""
    bm25s = pytest.importorskip("bm25s")
    text, asked = ids_of(length)[0].tolist(), [5, 17, 5, 17, 30, 99, 100]
    text[length // 2 : length // 2 + 2] = [5, 17][: len(text[length // 2 : length // 2 + 2])]

    def words(ids):
        return [str(i) for i in ids] + [f"{a}-{b}" for a, b in pairwise(ids)]

    starts = range(0, max(length - 16, 1), 16)
    index = bm25s.BM25(k1=1.5, b=0.75)
    index.index([words(text[i : i + 32]) for i in starts], show_progress=False)
    known = [word for word in words(asked) if word in index.vocab_dict]
    expected = torch.zeros(length)
    for start, value in zip(starts, index.get_scores(known) if known else [0.0] * len(starts), strict=True):
        expected[start : start + 32] = expected[start : start + 32].clamp(min=float(value))
    segment = Segment(torch.tensor([text], dtype=torch.int32), torch.tensor([length]), 16, 0, None, None)
    query = torch.tensor([asked])
    got = BM25Score().scores(None, [segment], query, torch.ones_like(query).bool())[0]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [1, 16, 200, 1000])
def test_focus_is_what_slow_loops_leave(length):
    """Every word counts for the pieces that match best among those that contain it; pieces with little left are
    dropped, and a stretch that ends within the question's words is extended by half a piece."""
    text, asked = ids_of(length)[0], [5, 17, 5, 17, 30, 99, 100]
    words = [word.tolist() for word in BM25Score().by_word(text, asked)]
    totals = [sum(values) for values in zip(*words, strict=True)]
    left = [0.0] * len(totals)
    for word in words:
        best = max((total for total, value in zip(totals, word, strict=True) if value > 0), default=0.0)
        for piece, value in enumerate(word):
            left[piece] += value if totals[piece] >= 0.9 * best - 1e-6 else 0.0
    expected = torch.zeros(length)
    for place in range(length):
        pieces = [p for p in (place // 16 - 1, place // 16) if 0 <= p < len(left)]
        value = max(left[p] for p in pieces)
        expected[place] = value if value >= 0.25 * max(left) - 1e-6 else -torch.inf
    stays, pairs = expected.isfinite().tolist(), set(pairwise(asked))
    for end in range(1, length):
        if stays[end - 1] and not stays[end] and set(pairwise(text[max(0, end - 8) : end].tolist())) & pairs:
            expected[end : end + 16] = expected[end : end + 16].clamp(min=float(expected[end - 1]))
    segment = Segment(text[None].int(), torch.tensor([length]), 16, 0, None, None)
    query = torch.tensor([asked])
    got = FocusScore().scores(None, [segment], query, torch.ones_like(query).bool())[0]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_focus_finds_one_of_many_alike_and_both_of_two():
    """Facts "7 8 KEY 9 VALUE" among noise: the question about a key keeps its fact, a question about two keys keeps
    both, and no other."""
    noise = ids_of(4000)[0] % 80 + 20
    places = {key: 100 + 250 * key for key in range(15)}
    for key, place in places.items():
        noise[place : place + 6] = torch.tensor([7, 8, 101 + key, 121 + key, 9, 141 + key])
    segment = Segment(noise[None].int(), torch.tensor([4000]), 16, 0, None, None)
    for asked in ([3], [3, 11]):
        query = torch.tensor([[7, 8, *(word for key in asked for word in (101 + key, 121 + key)), 9]])
        got = FocusScore().scores(None, [segment], query, torch.ones_like(query).bool())[0]
        found = {key for key, place in places.items() if got[place + 5] > 0}
        assert found == set(asked)
        assert not got[[place for key, place in places.items() if key not in asked]].isfinite().any()
        assert int((got > 0).sum()) <= 48 * len(asked)


@pytest.mark.parametrize("place", range(64, 96))
def test_focus_keeps_an_answer_that_a_piece_cuts_off(place):
    """A fact of 18 known and 3 new tokens stays whole wherever it is, even if a piece ends between them."""
    noise = ids_of(400)[0] % 80 + 40
    asked = torch.arange(1, 19)
    noise[place : place + 21] = torch.cat([asked, torch.tensor([141, 142, 143])])
    segment = Segment(noise[None].int(), torch.tensor([400]), 16, 0, None, None)
    got = FocusScore().scores(None, [segment], asked[None], torch.ones(1, 18).bool())[0]
    assert got[place : place + 21].isfinite().all()
    assert got.isfinite().sum() <= 64


def test_scores_by_words_go_by_the_question_alone():
    """The form's words don't count, and no pair crosses them."""
    text = ids_of(1000)[0]
    text[500:503] = torch.tensor([5, 17, 30])
    segment = Segment(text[None].int(), torch.tensor([1000]), 16, 0, None, None)
    query = torch.tensor([[40, 41, 5, 17, 42, 43, 30]])
    words = own_words(query, torch.tensor([[40, 41, 9, 42, 43]]))
    assert words.tolist() == [[False, False, True, True, False, False, True]]
    everything = torch.ones_like(query).bool()
    for score in (BM25Score(), FocusScore()):
        got = score.scores(None, [segment], query, everything, words)
        alone = score.scores(None, [segment], torch.tensor([[5, 17, -2, 30]]), torch.ones(1, 4).bool())
        assert torch.equal(got, alone) and not torch.equal(got, score.scores(None, [segment], query, everything))
        assert (got[0, 500:503] == got.max()).all()


def test_focus_of_a_question_that_nothing_matches():
    segment = Segment(torch.arange(100)[None].int(), torch.tensor([100]), 16, 0, None, None)
    query = torch.tensor([[500, 501]])
    assert (FocusScore().scores(None, [segment], query, torch.ones_like(query).bool()) == 0).all()


@torch.no_grad()
@pytest.mark.parametrize("score", ["attention", "bm25", "focus", "hybrid"])
@pytest.mark.parametrize("key_position", ["chunk", "offset"])
def test_parts_at_chunk_borders_are_one_text(key_position, score):
    """Memories cut at chunk borders score and select like the memory that they were cut from."""
    settings = {"injection": "joint", "encoding": "chunk", "reach": 3, "key_position": key_position}
    model = tiny_shared("llama", injection_map=[[1, 1], [2, 2], [2, 3]], **settings)
    whole = model.read(ids_of(200), keep_all=True)
    pieces = [whole.slice(a, b) for a, b in ((0, 32), (32, 144), (144, 200))]
    query = ids_of(5, seed=1)
    expected, got = (model.scores(source, query, score=score) for source in (whole, pieces))
    torch.testing.assert_close(got, expected)
    for budget in (4, 40, 120, 200):
        one, several = (model.select(s, query, budget=budget, score=expected) for s in (whole, pieces))
        assert one.tensors().keys() == several.tensors().keys()
        for name, tensor in one.tensors().items():
            assert torch.equal(several.tensors()[name], tensor), name


@torch.no_grad()
def test_parts_that_do_not_fill_their_chunks(model):
    """Every token of every segment can be kept, in its own chunk; slots that a segment does not fill belong to no token."""
    pieces = [model.read(ids_of(n, seed=n), keep_all=True, sources=[f"text {n}"]) for n in (20, 5, 33)]
    query, running = ids_of(5, seed=1), ids_of(12, seed=2)
    chosen = model.select(pieces, query, budget=1000, score="attention")
    assert chosen.position[0].tolist() == [*range(20), *range(32, 37), *range(48, 81)]
    assert chosen.chunk[0].tolist() == [p // 16 for p in chosen.position[0].tolist()] and chosen.chunks.tolist() == [6]
    assert [(s["name"], s["start"]) for s in chosen.sources[0]] == [("text 20", 0), ("text 5", 32), ("text 33", 48)]
    for pair in range(3):
        assert torch.equal(chosen.keys[pair], torch.cat([p.keys[pair] for p in pieces], 2))
        assert torch.equal(chosen.values[pair], torch.cat([p.values[pair] for p in pieces], 2))
    assert model(running, memory=chosen).logits.isfinite().all()
    for budget in (4, 10, 30):
        kept = model.select(pieces, query, budget=budget, score="attention")
        assert kept.kept[0] <= budget and set(kept.position[0].tolist()) <= set(chosen.position[0].tolist())


@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, {"overlap": 8}, {"lower_weights": "copy"}, {"keep": "first"}], ids=str)
def test_the_papers_cut_is_what_reading_with_the_question_keeps(settings):
    """Reading once and cutting for a question gives the same as reading for that question."""
    model = tiny_shared("llama", encoding="chunk", **settings)
    contexts, questions = random_texts([90, 17, 60], 1), random_texts([6, 3, 4], 2)
    (ids, mask), (query, query_mask) = pad(contexts, "right"), pad(questions)
    everything = model.read(ids, mask, keep_all=True)
    read = model.read(ids, mask, query, query_mask, selection="cosine")
    chosen = model.select(everything, query, query_mask, budget=None, score="cosine")
    nearest = model.select(everything, query, query_mask, budget=None, score=torch.arange(90.0).expand(3, -1))
    for ours, theirs in ((chosen, read), (nearest, model.read(ids, mask, selection="right"))):
        for name, tensor in theirs.tensors().items():
            torch.testing.assert_close(ours.tensors()[name], tensor, atol=1e-5, rtol=1e-5)
    assert not torch.equal(chosen.position, nearest.position)


@torch.no_grad()
def test_the_oracle_keeps_the_answer_whole(model):
    ids, query = ids_of(160), ids_of(5, seed=1)
    memory = model.read(ids, keep_all=True)
    chosen = model.select(memory, query, budget=40, score=OracleScore([[(70, 74)]]), gist=0.0)
    positions = chosen.position[0].tolist()
    assert {70, 71, 72, 73} <= set(positions)
    assert all(chosen.stride[0, positions.index(p)] == 1 for p in (70, 71, 72, 73))


@torch.no_grad()
def test_append_goes_on_keeping_everything(model):
    ids = ids_of(75)
    memory = model.append(model.read(ids[:, :30], keep_all=True), ids[:, 30:])
    assert memory.position[0].tolist() == list(range(75))


def test_bad_requests(model):
    ids, query = ids_of(40), ids_of(5, seed=1)
    memory = model.read(ids, keep_all=True)
    for wrong, options, message in (
        (model.read(ids), {"budget": 8}, "keep_all=True"),
        (memory, {"budget": 0}, "budget=0"),
        (
            memory,
            {"budget": 8, "score": "best"},
            "score='best' is not known: use one of attention, bm25, cosine, focus, hybrid",
        ),
        (memory.repeat_interleave(2), {"budget": 8}, "must be 2 questions"),
        ([], {"budget": 8}, "nothing to select from"),
        ([memory, memory.repeat_interleave(2)], {"budget": 8}, "take one text each"),
        (replace(memory, fingerprint="abc"), {"budget": 8}, "made by another model"),
        ([memory, replace(memory, fingerprint="abc")], {"budget": 8}, "differ in fingerprint"),
    ):
        with pytest.raises(ValueError, match=message):
            model.select(wrong, query, **options)
    with pytest.raises(ValueError, match="needs encoding='chunk'"):
        tiny_shared("llama").read(ids, keep_all=True)
    cross = tiny_shared("llama", encoding="chunk")
    with pytest.raises(ValueError, match="needs a model with injection='joint': use score='focus' or score='bm25'"):
        cross.select(cross.read(ids, keep_all=True), query, budget=8, score="attention")


@torch.no_grad()
def test_citations_are_what_was_kept_whole(model):
    """Citations come best first, are cut at the borders of documents, and count from their beginnings."""
    ids, query = ids_of(160), ids_of(5, seed=1)
    memory = model.append(model.read(ids[:, :72], keep_all=True, sources=["one"]), ids[:, 72:], sources=["two"])
    scores = torch.zeros(1, 160)
    scores[0, 68:76], scores[0, 130] = 2.0, 1.0
    chosen = model.select(memory, query, budget=60, score=scores, gist=0.0, strides=[8, 4, 2, 1])
    found = cite(chosen, scores, most=10)
    assert [(c.document, c.weight) for c in found[:3]] == [("one", 2.0), ("two", 2.0), ("two", 1.0)]
    one, two, third = found[:3]
    assert one.end == 72 and two.start == 0 and third.start <= 130 - 72 < third.end
    kept = set(chosen.position[0][chosen.stride[0] == 1].tolist())
    cited = {p for c in found for p in range(c.start + 72 * (c.document == "two"), c.end + 72 * (c.document == "two"))}
    assert cited == kept
    assert cite(model.select(memory, query, budget=20, score=scores, strides=[8]), scores) == []


@torch.no_grad()
def test_keep_first_holds_under_a_budget():
    """The configuration's `keep` decides which token of a stride stays, with and without a budget."""
    model = tiny_shared("llama", injection="joint", encoding="chunk", keep="first")
    context, query = torch.randint(0, 101, (1, 64)), torch.randint(0, 101, (1, 4))
    memory = model.read(context, keep_all=True)
    chosen = model.select(memory, query, budget=20, score=torch.zeros(1, 64), strides=[8, 4], gist=1.0)
    kept = chosen.position[0][chosen.mask[0]]
    assert (kept % chosen.stride[0][chosen.mask[0]] == 0).all()
