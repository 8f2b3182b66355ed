"""Pieces by words, by heads and by both: the words of the question decide, and heads pay what the base's attention pays."""

import numpy as np
import pytest
import torch
from helpers import byte_tokenizer, coverage, tiny_base, tiny_shared

from sharedllm.context.pieces import Pieces
from sharedllm.memory.segments import segments_of
from sharedllm.scoring import passages
from sharedllm.scoring.heads import HeadIndex
from sharedllm.scoring.links import linked
from sharedllm.scoring.passages import select_pieces
from sharedllm.scoring.rankings import LEAST_SHARE, follow, join, kept_pieces, rank_pieces
from sharedllm.scoring.text_index import TextIndex, index_of
from sharedllm.scoring.words import WordIndex, names_of, quotes
from sharedllm.utils.errors import UserError

PREFIX = [5, 3, 9]
HEADS = [[0, 1, 1.0], [2, 3, 0.5], [2, 0, 1.0]]
TEXT = "The mill is old. Nobody lives at town70. Rain fell. The town7 has a red bridge! Who knows? " * 2


@pytest.fixture(scope="module")
def model():
    settings = {"injection": "deep", "encoding": "chunk", "prefix": PREFIX, "window": 256, "chunk_size": 32}
    base = tiny_base("qwen2", vocab_size=256, dtype=torch.float64, max_position_embeddings=256)
    pairs = [[0, 0], [1, 1], [2, 2]]
    return tiny_shared("qwen2", base=base, lower_layers=2, injection_map=pairs, selection_heads=HEADS, **settings)


def ids(text: str) -> torch.Tensor:
    return torch.tensor([byte_tokenizer().encode(text)])


def test_whole_words_count():
    index = WordIndex(["Town7 is red.", "Town70 is blue.", "Town71 is green.", "It is the town of the."])
    scores = index.scores("What is the colour of town7?")
    assert scores[0] > 0 and scores[1:].tolist() == [0.0, 0.0, 0.0]
    assert coverage(index, "What is the colour of town7?") == pytest.approx(coverage(index, "colour town7"))
    assert 0 < coverage(index, "What is the colour of town7?") < 1 == coverage(index, "Is town7 red?")
    assert coverage(index, "Where is Paris?") == 0 and index.covered("Which?") is None
    assert index.scores("Which?").tolist() == [0.0] * 4 and WordIndex(["the", "of"]).scores("red").tolist() == [0, 0]


def test_words_are_found_by_their_beginning_and_the_same_word_counts_more():
    index = WordIndex(["They travelled in May.", "He travels in May.", "Rain fell in May."])
    scores = index.scores("Who travels alone?")
    assert scores[1] > scores[0] > scores[2] == 0


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("secret_code = 48213", "What is the secret code?"),
        ("The cafe\u0301 of Zoe\u0308.", "Where is the caf\u00e9 of Zo\u00eb?"),
        ("\u94f6\u9e70\u7684\u5bc6\u7801\u662f\u4e94\u3002", "\u4ec0\u4e48\u662f\u94f6\u9e70\u7684\u5bc6\u7801\uff1f"),
        (
            "\u0915\u092a\u094d\u0924\u093e\u0928 \u092f\u0939\u093e\u0901",
            "\u0915\u092a\u094d\u0924\u093e\u0928 \u0915\u094c\u0928",
        ),
    ],
)
def test_words_of_code_and_of_other_scripts(text, question):
    index = WordIndex([text, "Something else altogether.", "\u5b83\u5728\u90a3\u91cc"])
    assert index.scores(question)[0] > 0 == index.scores(question)[1] and coverage(index, question) > 0.3


def test_equal_beginnings_count_once():
    index = WordIndex(["He travels in May.", "Rain fell in May."])
    assert index.scores("travels travelled travelling")[0] == pytest.approx(float(index.scores("travels")[0]))


def test_heads_decide_where_no_word_matches():
    words, heads = torch.tensor([0.0, 3.0, 2.9]), torch.tensor([0.4, 0.1, 0.3])
    assert join(words, heads).argsort(descending=True).tolist() == [2, 1, 0]
    assert join(torch.zeros(3), heads).argsort(descending=True).tolist() == [0, 2, 1]
    assert join(words, torch.zeros(3)).tolist() == pytest.approx([0.0, 1.0, 2.9 / 3])


def test_heads_pay_what_attention_pays(model, monkeypatch):
    """One softmax over all keys of the text, each after the prefix in its chunk, for queries just after a chunk."""
    text, asked = ids(TEXT), ids("red?")
    memory = model.read(text, keep_all=True)
    pieces = Pieces(torch.tensor([0, 40, 100]), torch.tensor([40, 100, text.shape[1]]))
    own = torch.tensor([[True, False, True, True]])
    got = HeadIndex(model.model, segments_of(memory), pieces, HEADS).weights(asked, own)
    upper, size, before = model.model.upper, model.config.chunk_size, len(PREFIX)

    def heads_of(tokens, layer, projection, positions):
        with torch.no_grad():
            states = upper(tokens, output_hidden_states=True, use_cache=False).hidden_states[layer][0, before:]
        block = upper.layers[layer]
        found = getattr(block.self_attn, projection)(block.input_layernorm(states)).unflatten(-1, (-1, 8))
        cos, sin = upper.rotary_emb(found, positions[None])
        first, second = found.chunk(2, -1)
        return found * cos[0][:, None] + torch.cat([-second, first], -1) * sin[0][:, None]

    prefix = torch.tensor([PREFIX])
    for number, (layer, head, _) in enumerate(HEADS):
        keys = torch.cat([
            heads_of(torch.cat([prefix, chunk], 1), layer, "k_proj", before + torch.arange(chunk.shape[1]))
            for chunk in text.split(size, 1)
        ])  # fmt: skip
        queries = heads_of(torch.cat([prefix, asked], 1), layer, "q_proj", before + size + torch.arange(4))
        weights = (queries[own[0], head] @ keys[:, head // 2].T / 8**0.5).softmax(-1).mean(0)
        expected = [weights[a:b].sum() for a, b in zip(pieces.start, pieces.end, strict=True)]
        torch.testing.assert_close(got[number], torch.stack(expected).to(got.dtype), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.sum(1), torch.ones(3), rtol=1e-4, atol=1e-4)
    monkeypatch.setattr("sharedllm.scoring.heads._BLOCK", 17)
    blocks = HeadIndex(model.model, segments_of(memory), pieces, HEADS)
    torch.testing.assert_close(blocks.weights(asked, own), got)
    # A long question is compared in parts, and says how far it is.
    monkeypatch.setattr("sharedllm.scoring.heads._PRODUCTS", 1)
    told = []
    torch.testing.assert_close(blocks.weights(asked, own, told.append), got)
    depth = max(layer for layer, _, _ in HEADS)
    assert told == [asked.shape[1] // depth] * depth + [1, 1, 1]
    between = Pieces(torch.tensor([3, 60]), torch.tensor([41, 100]))
    apart = HeadIndex(model.model, segments_of(memory), between, HEADS).weights(asked, own)
    monkeypatch.undo()
    torch.testing.assert_close(HeadIndex(model.model, segments_of(memory), between, HEADS).weights(asked, own), apart)


def test_selected_pieces_are_whole_and_within_the_budget(model):
    tokenizer = byte_tokenizer()
    memory = model.read(ids(TEXT), keep_all=True, sources=["a"])
    segments = segments_of(memory)
    asked = ids("Where is the town7?")
    own = torch.ones_like(asked, dtype=torch.bool)
    selected = select_pieces(model.model, segments, tokenizer, asked, own, 64, "bm25")
    chosen, scores = selected.memory, selected.scores
    kept = chosen.position[0].tolist()
    text = "".join(TEXT[i] for i in kept)
    assert len(kept) <= 64 and "town7 has a red bridge" in text and "town70" not in text
    assert (~scores[0].isneginf()).nonzero().flatten().tolist() == kept
    assert torch.equal(chosen.residuals[0], memory.residuals[0][:, :, kept])
    assert index_of(segments_of(memory), tokenizer, 256) is index_of(segments, tokenizer, 256)


def test_a_piece_that_quotes_the_question_does_not_set_the_measure(model):
    """It is read first, and the pieces that it would push out are read as well."""
    asked = "Which old wooden bridge is made of red stone?"
    filler = "Rain fell all day on the wide grey hills and no boat came. "
    text = (
        filler + f"He said: {asked} Nobody knew, and he went home. " + filler * 2 + "The red stone one is by the mill."
    )
    segments = segments_of(model.read(ids(text), keep_all=True))
    own = torch.ones(1, len(asked), dtype=torch.bool)
    selected = select_pieces(model.model, segments, byte_tokenizer(), ids(asked), own, 200, "bm25")
    read = "".join(text[i] for i in selected.memory.position[0].tolist())
    assert asked in read and "by the mill" in read and selected.found is True

    index = TextIndex(segments, byte_tokenizer(), 256)
    covered, free = index.covered(asked)
    assert covered is not None and [asked in text for text in index.texts] == (~free).tolist() and (~free).sum() == 1
    ranked = index.words.scores(asked)
    best, other = ranked.max(), ranked[torch.from_numpy(free)].max()
    assert other < best and covered[free].max() < 0.8
    assert torch.equal(kept_pieces(ranked, covered, free), ranked >= LEAST_SHARE * float(other))
    # Where every piece quotes it, all count; other words in between are no quotation.
    alone = TextIndex(segments_of(model.read(ids(asked), keep_all=True)), byte_tokenizer(), 256)
    assert alone.covered(asked)[1].tolist() == [True]
    assert index.covered("Which old bridge is made of red stone?")[1].all()


@pytest.mark.parametrize(
    ("text", "question", "quoted"),
    [
        ("He said: who keeps the red castle? Nobody knew.", "Who keeps the red castle?", True),
        ('"Who keeps the red castle?" he said. Nobody knew.', "Who keeps the red castle", True),
        ("Ask: who keeps the red\ncastle ?", "Who keeps the red castle?", True),
        ("Who keeps the red castle does not matter.", "Who keeps the red castle?", False),
        ("It was Anna, who keeps the red castle.", "Who keeps the red castle?", False),
        ("The code of the silver falcon is 4821.", "The code of the silver falcon is", False),
        ("Who keeps the red castle?", "Who keeps the red castle?", True),
        ("## Who keeps the red castle?\n\nAnna.", "Who keeps the red castle?", False),
        ("Old notes.\n**3. Who keeps the red castle?** Anna.", "Who keeps the red castle?", False),
        ("Q: Who keeps the red castle?\nA: Anna.", "Who keeps the red castle?", False),
        ("He asked: who keeps the red castle?\n\nWho keeps the red castle?\nAnna.", "Who keeps the red castle?", False),
        ("Nobody who keeps the red castle?", "Who keeps the red castle?", True),
        ("C++ is older.", "c++", False),
        ("Who saw the wreck of the Marigold? Nobody.", "Marigold", False),
        ("Who saw the wreck of the Marigold? Nobody.", "Marigold?", False),
    ],
)
def test_what_is_a_quotation(text, question, quoted):
    assert quotes(text, question) is quoted


@pytest.mark.parametrize(
    ("covered", "kept"),
    [
        ([0.1, 0.29, 0.2, 0.2], [True, True, True, True]),
        ([0.1, 0.31, 0.1, 0.2], [False, True, True, False]),
        ([0.1, 0.79, 0.1, 0.2], [False, True, True, False]),
        ([0.1, 0.81, 0.4, 0.8], [False, True, False, False]),
        ([0.9, 0.81, 0.5, 0.2], [False, True, False, False]),
        (None, [False, True, True, False]),
    ],
)
def test_others_are_compared_with_the_best_piece_if_any_contains_much(covered, kept):
    """By their scores, and by what they have of the question if one has nearly all of it."""
    ranked, every = torch.tensor([0.5, 2.0, 1.3, 1.1]), np.ones(4, dtype=bool)
    assert kept_pieces(ranked, covered and np.array(covered), every).tolist() == kept


def test_pieces_that_have_little_of_the_question_are_left_out(model):
    """For any budget; a question that the text says nothing about fills it."""
    text = "Anna keeps the old red mill by the long river. " * 2 + "Emil has a red boat at sea, and likes it well. " * 6
    segments = segments_of(model.read(ids(text), keep_all=True))

    def chosen(question: str):
        asked = ids(question)
        own = torch.ones_like(asked, dtype=torch.bool)
        return select_pieces(model.model, segments, byte_tokenizer(), asked, own, 200, "bm25")

    known, unknown = chosen("Who keeps the old red mill?"), chosen("Does photosynthesis need chlorophyll or a boat?")
    assert known.found is True and unknown.found is False
    assert int(known.memory.kept[0]) < 130 and known.memory.position[0, 0] == 0
    assert int(unknown.memory.kept[0]) > 130


def test_a_budget_below_the_longest_piece_is_refused_before_anything_is_compared(model, monkeypatch):
    segments, asked = segments_of(model.read(ids(TEXT), keep_all=True)), ids("Who has a red bridge?")
    own, longest = (
        torch.ones_like(asked, dtype=torch.bool),
        int(TextIndex(segments, byte_tokenizer(), 256).pieces.lengths.max()),
    )
    assert select_pieces(model.model, segments, byte_tokenizer(), asked, own, longest).memory.kept.tolist() > [0]
    monkeypatch.setattr(passages, "rank_pieces", lambda *_: pytest.fail("compared"))
    with pytest.raises(UserError, match=f"budget={longest - 1} is less than the {longest} tokens .* least {longest}"):
        select_pieces(model.model, segments, byte_tokenizer(), asked, own, longest - 1)


def test_documents_are_not_mixed(model):
    """No piece reaches from one memory, or one document of it, into the next."""
    first, second = (model.read(ids(t), keep_all=True, sources=[t[:3]]) for t in ("One. " * 9, "Two. " * 9))
    index = TextIndex(segments_of([first, second]), byte_tokenizer(), 256)
    assert all(not ("One" in text and "Two" in text) for text in index.texts)
    assert "".join(index.texts) == "One. " * 9 + "Two. " * 9


def test_a_question_that_is_only_its_form(model):
    memory, asked = model.read(ids(TEXT), keep_all=True), ids("?")
    own = torch.zeros_like(asked, dtype=torch.bool)
    selected = select_pieces(model.model, segments_of(memory), byte_tokenizer(), asked, own, 64)
    kept = selected.scores[0][~selected.scores[0].isneginf()]
    assert len(kept) and kept.isfinite().all()


def test_what_can_not_rank(model):
    segments = segments_of(model.read(ids(TEXT), keep_all=True))
    index, asked = TextIndex(segments, byte_tokenizer(), 256), ids("Who?")
    for score, said in (("focus", "does not rank pieces, .*"), ("bm52", "is not known")):
        with pytest.raises(UserError, match=f"score='{score}' {said}: use one of attention, bm25, hybrid, meaning[.]"):
            rank_pieces(model.model, segments, index, "Who?", asked, torch.ones_like(asked, dtype=torch.bool), score)


def test_a_piece_leads_to_another_that_shares_a_rare_name_with_it(model):
    """The first piece names who wrote the opera; another one says where he was born, and has fewer of the question's words."""
    asked = "In which city was the composer of the opera The Harrow Mill born?"
    first = "The Harrow Mill is an opera. Its composer is Ottilie Brandt."
    second = "Ottilie Brandt saw the light of day in the city of Turku."
    third = "The opera of a city was born late, says a composer."
    texts = [second, third, *(f"Rain fell on hill {i} all day." for i in range(40)), first]
    index = WordIndex(texts)
    assert int(index.scores(asked).argmax()) == 42
    assert linked(index, first, asked, 42).tolist() == [0]
    assert names_of(first) == ["harrow", "mill", "ottilie", "brandt"]
    # Without a word of the question that the first lacks, and with names that the question has too, it isn't followed.
    assert not len(linked(index, first, "Who is the composer of The Harrow Mill?", 42))
    assert not len(linked(index, first, asked.replace("The Harrow Mill", "Ottilie Brandt"), 42))
    # A name that many pieces have leads nowhere.
    common = WordIndex([*texts[:-1], *["Ottilie Brandt sings."] * 10, first])
    assert not len(linked(common, first, asked, 52))


def test_what_is_followed_is_read_right_after_the_best_piece():
    asked = "In which city was the composer of the opera The Harrow Mill born?"
    pieces = [
        "Ottilie Brandt saw the light of day in the city of Turku. ",
        *(f"Rain fell on hill {i} all day. " for i in range(40)),
        "The Harrow Mill is an opera. Its composer is Ottilie Brandt. ",
    ]
    ends = torch.tensor([len(piece) for piece in pieces]).cumsum(0)
    index = TextIndex([], byte_tokenizer(), 256, Pieces(torch.cat([ends.new_zeros(1), ends[:-1]]), ends))
    index.ids = ids("".join(pieces))[0]
    scores, every = index.words.scores(asked), np.ones(42, dtype=bool)
    kept = kept_pieces(scores, index.words.covered(asked), every)
    after = follow(scores, index, asked, every)
    assert not kept[0] and after.argsort(descending=True, stable=True).tolist()[:2] == [41, 0]
    assert after[0] > scores[0] and torch.equal(after[1:], scores[1:])
    # Neither is followed what quotes the question.
    assert torch.equal(follow(scores, index, asked, np.arange(42) > 0), scores)
