"""Meaning: sentences are compared as written down naively here, in states that are the base's own, and only where words say little."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from combined import combined, rarely
from helpers import byte_tokenizer, tiny_base, tiny_shared
from stores import build

from sharedllm.context.pieces import Pieces
from sharedllm.memory.segments import segments_of
from sharedllm.model.config import SharedLLMConfig
from sharedllm.scoring import meaning, rankings
from sharedllm.scoring.meaning import Compared, MeaningIndex
from sharedllm.scoring.passages import select_pieces
from sharedllm.scoring.rankings import HARDLY_SAID, UNSAID, rank_pieces, with_meaning, with_words
from sharedllm.scoring.sentences import Sentences, cut_sentences
from sharedllm.scoring.states import KeptStates, layers_kept, read_alone
from sharedllm.scoring.text_index import TextIndex, index_of
from sharedllm.utils.errors import UserError

PREFIX = [5, 3, 9]
TEXT = [
    "The mill is old. Nobody lives at town70. ",
    "Rain fell on the hills. The town has a red bridge! ",
    "Seven geese crossed the river. Who knows? ",
    "An owl slept in the tower. It was late. ",
]


@pytest.fixture(scope="module")
def model():
    settings = {"injection": "deep", "encoding": "chunk", "prefix": PREFIX, "window": 256, "chunk_size": 64}
    base = tiny_base("qwen2", vocab_size=256, dtype=torch.float64, max_position_embeddings=256)
    pairs = [[0, 0], [1, 1], [2, 2]]
    return tiny_shared("qwen2", base=base, lower_layers=2, injection_map=pairs, meaning_layers=3, **settings)


def ids(text: str) -> torch.Tensor:
    return torch.tensor([byte_tokenizer().encode(text)])


def index_of_text(model, depth: int = 3, most: int = 10_000) -> MeaningIndex:
    ends = torch.tensor([len(text) for text in TEXT]).cumsum(0)
    pieces = Pieces(ends - torch.tensor([len(text) for text in TEXT]), ends)
    return MeaningIndex(
        model.model, byte_tokenizer(), ids("".join(TEXT))[0].int(), pieces, depth, whole=most, most=most
    )


def test_sentences_end_with_their_pieces_and_are_never_tiny():
    closes = torch.tensor([0, 1, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0], dtype=torch.bool)
    # The close after two tokens ends nothing; the one at the ninth token leaves three tokens, too few for a sentence.
    assert cut_sentences(closes, [13]).tolist() == [0] * 6 + [1] * 7
    assert cut_sentences(closes, [4, 9]).tolist() == [0] * 4 + [1] * 5 + [2] * 4


def test_compared_as_defined():
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    states, weights = draw(20, 6) * torch.tensor([1, 1, 9, 1, 1, 1]), draw(20).abs()
    sentence, lengths = torch.tensor([0] * 5 + [1] * 3 + [2] * 8 + [3] * 4), [8, 12]
    asked, shares = [draw(4, 6), draw(3, 6), draw(5, 6)], [draw(4).abs(), draw(3).abs(), draw(5).abs()]
    found = Sentences.by_states(lambda: states.split(7), weights, sentence, lengths).scores(asked, shares)

    def cosine(a, b):
        return float(a @ b / (a.norm() * b.norm()))

    means = [
        (weights[sentence == s, None] * states[sentence == s]).sum(0) / weights[sentence == s].sum() for s in range(4)
    ]
    middle = sum(means) / 4
    spread = (sum((m - middle) ** 2 for m in means) / 4).sqrt()
    questions = [(w[:, None] * q).sum(0) / w.sum() for q, w in zip(asked, shares, strict=True)]
    query = (questions[0] - (questions[1] + questions[2]) / 2) / spread
    by_mean = [cosine((m - middle) / spread, query) for m in means]
    deviation = (states - states.mean(0)).pow(2).mean(0).sqrt()
    tokens, words = (states - states.mean(0)) / deviation, (asked[0] - torch.cat(asked[1:]).mean(0)) / deviation
    by_token = [
        sum(
            float(w) * max(cosine(word, t) for t in tokens[sentence == s])
            for w, word in zip(shares[0], words, strict=True)
        )
        for s in range(4)
    ]
    total = torch.zeros(2)
    for each in (by_mean, by_token):
        pieces = torch.tensor([max(each[:2]), max(each[2:])])
        total += (pieces - pieces.mean()) / pieces.std(correction=0)
    assert found == pytest.approx(total, abs=1e-3)


@torch.no_grad()
def test_states_are_those_of_the_base(model):
    texts = [ids(text)[0] for text in (TEXT[0], "An owl slept.")]
    for depth, found in zip((1, 3), read_alone(model.model, texts, [1, 3]), strict=True):
        for text, states in zip(texts, found, strict=True):
            whole = torch.cat([torch.tensor(PREFIX), text])[None]
            layers = model.model.upper(input_ids=whole, output_hidden_states=True, use_cache=False).hidden_states
            assert states == pytest.approx(layers[depth][0, len(PREFIX) :], abs=1e-9)


def test_the_sentence_itself_is_found_and_read_once(model):
    index = index_of_text(model)
    for place, sentence in enumerate(
        ("Nobody lives at town70.", "The town has a red bridge!", "Seven geese crossed the river.")
    ):
        scores, compared = index.scores(sentence)
        assert int(scores.argmax()) == place and scores.isfinite().all()
        assert compared.read.tolist() == ([] if place else [len(text) for text in TEXT])
        assert compared.tokens == sum(map(len, TEXT))


def test_of_a_long_text_the_nearest_pieces_are_read(model):
    most = len(TEXT[2]) + len(TEXT[1])
    scores, compared = index_of_text(model, most=most).scores("Seven geese crossed the river.")
    assert int(scores.argmax()) == 2 and scores.isneginf().any()
    assert int(compared.read.sum()) == compared.tokens <= most
    assert len(compared.read) == int(scores.isfinite().sum())


def test_only_given_pieces_are_compared(model):
    """As those of a long text that are nearest would be, and counted without a search."""
    index, question = index_of_text(model), "Seven geese crossed the river."
    scores, compared = index.scores(question, chosen=torch.tensor([0, 2]))
    assert scores.isfinite().nonzero()[:, 0].tolist() == [0, 2] and int(scores.argmax()) == 2
    assert compared.read.tolist() == [len(TEXT[0]), len(TEXT[2])] and compared.tokens == len(TEXT[0] + TEXT[2])


def test_all_depths_from_one_reading(model):
    questions = ["Which birds swam?", "Where did it sleep?"]
    found = index_of_text(model).by_depth(questions, [1, 2, 3])
    for depth, rows in zip((1, 2, 3), found, strict=True):
        for question, row in zip(questions, rows, strict=True):
            assert row == pytest.approx(index_of_text(model, depth).scores(question)[0], abs=1e-6)


def test_only_where_words_say_little(model):
    text = "".join(TEXT)
    segments = segments_of(model.read(ids(text), keep_all=True))
    index = TextIndex(segments, byte_tokenizer(), 256)

    def ranked(question: str, score: str | None = None):
        asked = ids(question)
        return rank_pieces(
            model.model, segments, index, question, asked, torch.ones_like(asked, dtype=torch.bool), score
        )

    said, unsaid = "Who crossed the river?", "Which birds swam over there?"
    assert index.covered(said)[0].max() >= UNSAID > index.covered(unsaid)[0].max()
    assert torch.equal(ranked(said).scores, index.words.scores(said)) and len(ranked(said).compared.read) == 0
    by_meaning = ranked(unsaid)
    assert by_meaning.kept is None and by_meaning.compared.read.tolist() == index.pieces.lengths.tolist()
    assert torch.equal(by_meaning.scores, ranked(said, "meaning").scores) is False
    assert torch.equal(by_meaning.scores, ranked(unsaid, "meaning").scores)
    # Word ranking stays what it was.
    assert torch.equal(ranked(unsaid, "bm25").scores, index.words.scores(unsaid))

    asked = ids(unsaid)
    own = torch.ones_like(asked, dtype=torch.bool)
    selected = select_pieces(model.model, segments, byte_tokenizer(), asked, own, 64)
    assert 0 < len(selected.memory.position[0]) <= 64 and selected.found is False


def test_words_decide_where_one_piece_stands_out(model):
    """As where it alone has a number that the question names, and nothing else of its words."""
    code = "The key 48213 belongs to the row of 77120. "
    text = "".join(TEXT) + code + "".join(reversed(TEXT))
    segments = segments_of(model.read(ids(text), keep_all=True))
    index = TextIndex(segments, byte_tokenizer(), 256)
    named, unsaid = "Whose amount is 48213?", "Whose amount is it?"
    for question in (named, unsaid):
        assert index.covered(question)[0].max() < HARDLY_SAID
        asked = ids(question)
        ranked = rank_pieces(model.model, segments, index, question, asked, torch.ones_like(asked, dtype=torch.bool))
        assert (len(ranked.compared.read) == 0) is (question == named)
        if question == named:
            assert "48213" in index.texts[int(ranked.scores.argmax())]


def test_what_stands_out_has_a_name_or_a_number_of_the_question():
    """Otherwise any piece that alone has two common words of it would be read instead of what is meant."""
    covered, free, words = np.array([0.35, 0.1]), np.array([True, True]), torch.tensor([4.0, 0.0])

    def by_meaning(text: str, question: str) -> bool:
        return rankings.by_meaning(covered, free, words, [text, "Rain fell."], question)

    common = "so together they cost more, and come at the same moment"
    assert by_meaning(common, "Where do the people who love plants come together?")
    assert not by_meaning(
        "The boat to Lindholm leaves at noon.", "What must travellers show before they go to Lindholm?"
    )
    assert not by_meaning("row 4b-77 is full", "Which thing is stored as 4b-77?")
    # The first word has a capital letter anyway.
    assert by_meaning("Together they cost more.", "Together where do people who love plants come?")
    assert not rankings.by_meaning(np.array([0.5, 0.1]), free, words, [common, "Rain fell."], "Where do they come?")


def test_where_words_say_few_both_count(model):
    """Between the two limits meaning and words are added, and a piece that was not compared can still be found by its words."""
    text = "".join(TEXT)
    segments = segments_of(model.read(ids(text), keep_all=True))
    index, question = TextIndex(segments, byte_tokenizer(), 256), "Which birds crossed swimming yesterday?"
    asked = ids(question)
    own = torch.ones_like(asked, dtype=torch.bool)
    coverage = index.covered(question)[0].max()
    meaning, words = index.meaning(model.model, segments).scores(question)[0], index.words.scores(question)
    standard = lambda x: (x - x.mean()) / x.std(correction=0)  # noqa: E731
    for limits, wanted in (
        ((coverage - 0.1, coverage + 0.1), standard(meaning) + standard(words)),
        ((coverage + 0.1, coverage + 0.2), meaning),
        ((coverage - 0.2, coverage - 0.1), words),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rankings, "NAMED", 0.0)  # of so few pieces one stands out
            patch.setattr(rankings, "UNSAID", limits[0])
            patch.setattr(rankings, "HARDLY_SAID", limits[1])
            found = rank_pieces(model.model, segments, index, question, asked, own)
        assert found.scores == pytest.approx(wanted, abs=1e-4)
    far = with_words(torch.tensor([1.0, 2.0, -torch.inf, 0.5]), torch.tensor([0.0, 0.0, 9.0, 0.0]))
    assert far.isfinite().all() and far[2] > far[3]


def test_a_question_without_words_and_one_that_the_text_quotes(model):
    scores, compared = index_of_text(model).scores("")
    assert scores.tolist() == [0.0] * len(TEXT) and len(compared.read) == compared.tokens == 0
    question = "Which birds swam over there?"
    text = question + " " * 200 + "".join(TEXT) * 3
    index = TextIndex(segments_of(model.read(ids(text), keep_all=True)), byte_tokenizer(), 256)
    free, asked = index.covered(question)[1], ids(question)
    assert not free.all() and free.any()
    alone = index.meaning(model.model, []).scores(question)[0]
    ranked = rank_pieces(model.model, [], index, question, asked, torch.ones_like(asked, dtype=torch.bool)).scores
    assert int(alone.argmax()) in np.flatnonzero(~free) and int(ranked.argmax()) in np.flatnonzero(free)


def test_an_answer_below_its_question_is_read(model):
    """As in a list of questions and answers, with the question as a heading."""
    asked = [f"Where is the {thing}?" for thing in ("gate", "pump", "well", "barn")]
    text = "".join(f"{question}\nUnder {i} oaks, by the old road to the sea.\n\n" for i, question in enumerate(asked))
    segments = segments_of(model.read(ids(text), keep_all=True))
    for question in asked:
        own = torch.ones_like(ids(question), dtype=torch.bool)
        taken = select_pieces(model.model, segments, byte_tokenizer(), ids(question), own, 128).memory.position[0]
        assert question in "".join(text[place] for place in taken.tolist())


def test_the_form_of_questions_is_read_once(model, monkeypatch):
    index, read = index_of_text(model), []
    monkeypatch.setattr(meaning, "read_alone", lambda *args: read.append(len(args[1])) or read_alone(*args))
    index.scores("Who knows?")
    index.scores("Was it late?")
    assert read == [4, 32, 1, 1]


PIECES = {
    "injection": "deep",
    "encoding": "chunk",
    "prefix": PREFIX,
    "window": 256,
    "chunk_size": 128,
    "meaning_layers": 3,
}
CLOSING = sorted({byte_tokenizer().encode(c)[0] for c in ".!?"})


def kept_by(lower_layers: int, closing=CLOSING, family: str = "qwen2"):
    """A model that reads pieces, and the states after 3 layers that are made from what its memory of a text keeps."""
    base = tiny_base(family, vocab_size=256, dtype=torch.float64, max_position_embeddings=256)
    settings = PIECES | {"closing": closing, "injection_map": [[i, i] for i in range(lower_layers)]}
    model = tiny_shared(family, base=base, lower_layers=lower_layers, **settings)
    segments = segments_of(model.read(ids("".join(TEXT) * 4), keep_all=True))
    return model, segments, TextIndex(segments, byte_tokenizer(), 256, marks=model.config.marks)


@pytest.mark.parametrize(("lower_layers", "family"), combined([1, 2, 3], ["qwen2", "gemma3_text"]))
def test_states_go_on_from_the_memory(lower_layers, family):
    model, segments, index = kept_by(lower_layers, family=family)
    assert layers_kept(model.config) == lower_layers and len(index.units.lengths.unique()) > 2
    kept, whole = KeptStates(model.model, segments, index.units), index.units.slots()
    with torch.no_grad():
        alone = torch.cat(read_alone(model.model, index.ids.long().split(index.units.lengths.tolist()), [3])[0])
    assert kept.read_on(whole, 3) == pytest.approx(alone, abs=1e-9)
    some = whole[::3]
    assert kept.read_on(some, 3) == pytest.approx(alone[::3], abs=1e-9)


@pytest.mark.parametrize("lower_layers", [2, 3])
def test_a_long_text_is_compared_by_what_its_memory_keeps(lower_layers):
    model, segments, index = kept_by(lower_layers)
    question, size = "Which birds swam over there?", len(index.units.slots())
    from_ids = MeaningIndex(model.model, byte_tokenizer(), index.ids, index.pieces, 3)
    found, compared = index.meaning(model.model, segments).scores(question)
    assert found == pytest.approx(from_ids.scores(question)[0], abs=1e-5)
    deep_enough = lower_layers == 3
    assert compared.tokens == size and int(compared.read.sum()) == (0 if deep_enough else size)
    kept = KeptStates(model.model, segments, index.units)
    few = MeaningIndex(model.model, byte_tokenizer(), index.ids, index.pieces, 3, kept, size - 1, size // 3)
    scores, compared = few.scores(question)
    if deep_enough:  # nothing has to be read, so everything is compared
        assert scores == pytest.approx(found, abs=1e-6) and compared.tokens == size
        return
    assert size < compared.tokens <= size + size // 3 and scores.isneginf().any()
    # What an earlier question needed is not read again.
    again, last = few.scores("What fell from the sky?")[1], few.scores(question)
    assert int(again.read.sum()) < int(compared.read.sum()) and not len(last[1].read)
    assert last[0] == pytest.approx(scores, abs=1e-6)
    by_two = MeaningIndex(model.model, byte_tokenizer(), index.ids, index.pieces, 2).scores(question)[0]
    assert scores.isfinite()[by_two.argmax()] and not scores.isfinite()[by_two.argmin()]


@torch.no_grad()
@pytest.mark.parametrize("lower_layers", [2, 3])
def test_some_pieces_are_compared_as_the_memory_keeps_them(lower_layers):
    model, segments, index = kept_by(lower_layers)
    question, some = "Which birds swam over there?", torch.tensor([0, 2, 5])
    near, compared = index.meaning(model.model, segments).as_kept(question, some)
    assert compared.tokens == int(index.pieces.lengths[some].sum()) and not len(compared.read)
    assert (compared.asked, compared.layers) == (len(question), lower_layers)
    # As in a text of nothing but these, in which each token is as rare as in the whole.
    by_ids = MeaningIndex(model.model, byte_tokenizer(), index.ids, index.pieces, lower_layers)
    by_ids._read_missing(some)
    expected = by_ids._sentences_of(some).scores(*by_ids._asked(ids(question)[0], lower_layers))
    assert near == pytest.approx(expected, abs=1e-6)
    model, segments, index = kept_by(4)  # deeper than meanings are compared
    assert index.meaning(model.model, segments).as_kept(question, some) is None


def test_of_what_words_find_the_nearest_in_meaning_comes_first(monkeypatch):
    model, segments, index = kept_by(2)
    asked = ids("Which town has a red bridge?")
    own = torch.ones_like(asked, dtype=torch.bool)
    wanted = {"score": "hybrid", "question_ids": asked, "own": own}
    plain = rank_pieces(model.model, segments, index, "Which town has a red bridge?", **wanted | {"score": "bm25"})
    best = plain.scores.topk(2).indices
    near = {int(piece): float(place) for place, piece in enumerate(best)}  # the second one is nearer
    given = lambda _, __, chosen: (torch.tensor([near.get(int(p), -1.0) for p in chosen]), Compared(7))  # noqa: E731
    monkeypatch.setattr(MeaningIndex, "as_kept", given)
    monkeypatch.setattr(rankings, "COMPARED", 3)
    found = rank_pieces(model.model, segments, index, "Which town has a red bridge?", **wanted)
    assert int(found.scores.argmax()) == int(best[1]) and found.compared.tokens == 7
    assert found.kept is not None and found.kept[best[0]], "what words find first is read, too"
    monkeypatch.setattr(rankings, "COMPARED", len(index.pieces))  # a text of few pieces
    assert rank_pieces(model.model, segments, index, "Which town has a red bridge?", **wanted).compared.tokens == 0
    monkeypatch.setattr(rankings, "COMPARED", 3)
    monkeypatch.setattr(MeaningIndex, "as_kept", lambda *_: None)
    found = rank_pieces(model.model, segments, index, "Which town has a red bridge?", **wanted)
    assert found.scores == pytest.approx(plain.scores) and found.compared.tokens == 0
    monkeypatch.undo()
    monkeypatch.setattr(rankings, "COMPARED", 3)
    nothing = rank_pieces(model.model, segments, index, "Why?", **wanted)  # of which no piece has a word
    assert not nothing.scores.any() and nothing.compared.tokens == 0


def test_words_and_meaning_count_the_same():
    scores, near = torch.tensor([4.0, 1.0, 3.0, 2.0]), torch.tensor([0.5, 2.5, 1.5])
    chosen, free = torch.tensor([0, 2, 3]), np.ones(4, dtype=bool)
    expected = [(1 + 0) / 2, 0.25 / 2, (0.75 + 1) / 2, (0.5 + 0.5) / 2]
    assert with_meaning(scores, chosen, near, free) == pytest.approx(torch.tensor(expected))
    # What quotes the question counts as the nearest of the others; if nothing else was compared, words decide.
    free[2] = False
    expected = [(1 + 0) / 2, 0.25 / 2, (0.75 + 1) / 2, (0.5 + 1) / 2]
    assert with_meaning(scores, chosen, near, free) == pytest.approx(torch.tensor(expected))
    assert torch.equal(with_meaning(scores, torch.tensor([2]), near[:1], free), scores)


def test_of_a_text_that_was_appended_to_only_what_is_new_is_read():
    model, _, _ = kept_by(2)
    tokenizer, text, more = byte_tokenizer(), "".join(TEXT) * 4, "Many birds swam over the lake. " * 4
    memory = model.read(ids(text), keep_all=True)
    longer = model.append(memory, ids(more))
    other = model.read(ids("A tower fell. " + text), keep_all=True)
    question, results = "Which birds swam over there?", []
    for read in (memory, longer, other):
        segments = segments_of(read)
        index = index_of(segments, tokenizer, 256, model.config.marks)
        scores, compared = index.meaning(model.model, segments).scores(question)
        alone = TextIndex(segments, tokenizer, 256, marks=model.config.marks)
        assert scores == pytest.approx(alone.meaning(model.model, segments).scores(question)[0], abs=1e-9)
        results.append((index, int(compared.read.sum())))
    (before, first), (_, second), (_, third) = results
    last = int(before.pieces.lengths[-1])
    assert first == len(before.ids) and len(more) <= second <= len(more) + last
    assert third == len("A tower fell. ") + first
    # A text that nobody asked, with which this one begins too, does not hide the one that was.
    for ids_of in (lambda: model.read(ids(text[:300]), keep_all=True), lambda: model.append(longer, ids("One. " * 4))):
        segments = segments_of(ids_of())
        index = index_of(segments, tokenizer, 256, model.config.marks)
    assert int(index.meaning(model.model, segments).scores(question)[1].read.sum()) < first / 2


def test_states_that_are_too_deep_or_of_whole_chunks_are_not_used():
    for lower_layers, closing, kept in ((4, CLOSING, None), (2, None, None), (3, None, 3)):
        model, segments, index = kept_by(lower_layers, closing)
        assert layers_kept(model.config) == kept
        read = index.meaning(model.model, segments).scores("Which birds swam?")[1].read
        assert len(read) == (0 if kept else len(index.pieces))


def test_what_is_refused(model):
    plain = tiny_shared("qwen2", injection="deep", encoding="chunk", window=256)
    segments = segments_of(plain.read(torch.arange(1, 60)[None] % 20, keep_all=True))
    index, asked = TextIndex(segments, byte_tokenizer(), 256), torch.tensor([[3, 4]])
    for score, wanted in (("meaning", "needs meaning_layers"), ("hybrid", "needs selection_heads")):
        with pytest.raises(UserError, match=f"score='{score}' {wanted}"):
            rank_pieces(plain.model, segments, index, "Who?", asked, torch.ones_like(asked, dtype=torch.bool), score)
    text = tiny_base("qwen2").config
    for bad in ({"meaning_layers": 99}, {"meaning_layers": 0}, {"meaning_layers": 2, "injection": "joint"}):
        with pytest.raises(UserError, match="meaning_layers="):
            SharedLLMConfig(text_config=text, **({"injection": "deep", "encoding": "chunk"} | bad))


@pytest.mark.parametrize(
    ("question", "found"), [("Who crossed the river?", True), ("Does photosynthesis help?", False)]
)
def test_every_ranking_says_whether_it_is_found(model, question, found):
    segments = segments_of(model.read(ids("".join(TEXT)), keep_all=True))
    asked = ids(question)
    own = torch.ones_like(asked, dtype=torch.bool)
    for score in ("bm25", "meaning", "hybrid"):
        assert select_pieces(model.model, segments, byte_tokenizer(), asked, own, 64, score).found is found


def test_what_no_question_needs_any_more_is_forgotten():
    model, segments, index = kept_by(2)
    size = len(index.units.slots())
    kept = KeptStates(model.model, segments, index.units)
    few = MeaningIndex(model.model, byte_tokenizer(), index.ids, index.pieces, 3, kept, size // 3, size // 3)
    questions = ["Which birds swam over there?", "Who lives in the mill?", "What fell from the sky?", "A tower?"]
    read = []
    for question in questions * 2:
        scores, compared = few.scores(question)
        read.append(len(compared.read))
        held = set(few._states)
        assert sum(map(len, few._states.values())) <= size // 3
        assert held >= set(np.flatnonzero(scores.isfinite()).tolist())
    assert any(read[4:])


def test_other_questions_may_be_asked_while_a_text_is_read(monkeypatch):
    model, segments, index = kept_by(2)
    size = len(index.units.slots())
    kept = KeptStates(model.model, segments, index.units)
    monkeypatch.setattr(type(model.model.lower()), "fitting", lambda *args: 64)  # a piece at a time
    make = lambda: MeaningIndex(model.model, byte_tokenizer(), index.ids, index.pieces, 3, kept, size // 3, size // 3)  # noqa: E731
    first, second = "Which birds swam over there?", "What fell from the sky?"
    alone, busy, told, meanwhile = make().scores(first)[0], make(), [], []

    def progress(tokens: int) -> None:
        told.append(tokens)
        if not meanwhile:
            meanwhile.append(None)
            meanwhile[0] = busy.scores(second)[0]

    assert torch.equal(busy.scores(first, progress)[0], alone)
    assert torch.equal(meanwhile[0], make().scores(second)[0])
    assert len(told) > 3 and sum(told) >= size // 4

    def stop(tokens: int) -> None:
        raise KeyboardInterrupt

    stopped = make()
    with pytest.raises(KeyboardInterrupt):
        stopped.scores(first, stop)
    assert torch.equal(stopped.scores(first)[0], alone)


@pytest.mark.parametrize("kind", ["store in 8 bits", "appended", *rarely("store", "memories", "in 8 bits")])
@torch.no_grad()
def test_wherever_a_memory_is_kept_meanings_are_the_same(kind, tmp_path):
    """Documents end in the middle of chunks and pieces; the states of their pieces are those of reading them alone."""
    model, texts = kept_by(2)[0], {"one": "".join(TEXT) * 3, "two": "".join(reversed(TEXT)) * 2}
    if kind.startswith("store"):
        source = build(tmp_path / "a.memory", model, texts, storage="int8" if "8 bits" in kind else "model", piece=50)
    elif kind == "memories":
        source = [model.read(ids(text), keep_all=True) for text in texts.values()]
    else:
        model.config.memory_dtype = "int8" if "8 bits" in kind else "model"
        source = model.append(model.read(ids(texts["one"]), keep_all=True), ids(texts["two"]))
        model.config.memory_dtype = "model"
    # Exact, and so not as they would be kept beside a store (tests/store/test_meanings.py).
    segments = [replace(segment, meanings=None) for segment in segments_of(source)]
    index = TextIndex(segments, byte_tokenizer(), 256, marks=model.config.marks)
    pieces = index.ids[index.pieces.slots()].long().split(index.pieces.lengths.tolist())
    wanted = torch.cat(read_alone(model.model, pieces, [3])[0])
    found = KeptStates(model.model, segments, index.units).read_on(index.pieces.slots(), 3).double()
    near = 0.02 * float(wanted.abs().max()) if "8 bits" in kind else 1e-6
    torch.testing.assert_close(found, wanted, atol=near, rtol=0.0)
    scores = index.meaning(model.model, segments).scores("Which birds swam over there?")[0]
    plain = MeaningIndex(model.model, byte_tokenizer(), index.ids, index.pieces, 3).scores(
        "Which birds swam over there?"
    )
    torch.testing.assert_close(scores, plain[0], atol=0.5 if "8 bits" in kind else 1e-4, rtol=0.0)
