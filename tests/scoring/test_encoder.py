"""Sentence encoders: embeddings as written down naively here, made once and kept, and ranked beside words."""

import json
import shutil

import numpy as np
import pytest
import torch
from helpers import byte_tokenizer, tiny_base, tiny_shared
from transformers import BertConfig, BertModel

from sharedllm.causal_lm import SharedLLMForCausalLM
from sharedllm.memory.segment import Stored
from sharedllm.memory.segments import segments_of
from sharedllm.scoring import passages, rankings
from sharedllm.scoring.embedded import SentenceIndex, cut_sentences, embedded
from sharedllm.scoring.encoder import FOLDER, Form, SentenceEncoder, encoder_of
from sharedllm.scoring.rankings import rank_pieces, with_encoded
from sharedllm.scoring.text_index import TextIndex, embedded_sentences
from sharedllm.utils.errors import UserError
from sharedllm.utils.hardware import count_operations

PIECES = ["An owl sat. It was late!\n", "Rain fell", "\n", 'He said "no." Then he left.']


def tokenizer():
    made = byte_tokenizer()
    made.pad_token = made.convert_ids_to_tokens(7)
    return made


def encoder(form: Form | None = None, seed: int = 0, size: int = 16) -> SentenceEncoder:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=256, hidden_size=size, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64,
    )  # fmt: skip
    return SentenceEncoder(BertModel(config, add_pooling_layer=False), tokenizer(), form)


def deep(**settings):
    base = tiny_base("qwen2", vocab_size=256, max_position_embeddings=256)
    settings |= {"injection": "deep", "encoding": "chunk", "prefix": [5, 3], "window": 256, "chunk_size": 64}
    closing = byte_tokenizer().convert_tokens_to_ids([".", "!"])
    return tiny_shared("qwen2", base=base, lower_layers=1, closing=closing, **settings)


@pytest.fixture(scope="module")
def model():
    return deep()


def with_encoder(encoder: SentenceEncoder):
    made = deep(sentence_encoder=encoder.settings)
    made.use_encoder(encoder)
    return made


@pytest.mark.parametrize("form", [Form(), Form("first", "query: ", "passage: ")])
def test_embeddings_as_defined(form):
    """The mean over a text's own tokens, or the first one's state, whatever it is embedded together with."""
    ours = encoder(form)

    def alone(text):
        ids = torch.tensor([tokenizer().encode(text)])
        with torch.no_grad():
            states = ours.model(input_ids=ids).last_hidden_state[0]
        pooled = states[0] if form.pooling == "first" else sum(states) / len(states)
        return pooled / pooled.norm()

    texts = ["An owl sat here, and there.", "Rain.", "A mill"]
    torch.testing.assert_close(
        ours.sentences(texts).float(), torch.stack([alone(form.text + t) for t in texts]), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(ours.question("Who sat?").float(), alone(form.question + "Who sat?"), atol=1e-3, rtol=0)
    assert ours.sentences([]).shape == (0, ours.size)
    # Of a text that is too long the beginning counts.
    assert torch.equal(ours.sentences(["x" * 64 + "y"]), ours.sentences(["x" * 64 + "z"]))


def test_half_of_a_character_is_refused():
    embeds = encoder()
    with pytest.raises(UserError, match="sentence 1 contains half of a character, or bytes that are not UTF-8"):
        embeds.sentences(["whole", "half \ud800"])
    with pytest.raises(UserError, match="the question contains half of a character"):
        embeds.question("\ud800?")


def test_operations_are_those_counted():
    ours = encoder()
    counted = count_operations(lambda: ours.sentences(["An owl sat here."] * 2))
    assert ours.operations == counted > 0


def test_the_form_is_what_the_files_say(tmp_path):
    def write(name, content):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))

    assert Form.of(str(tmp_path)) == Form()
    write(
        "1_Pooling/config.json",
        {"word_embedding_dimension": 16, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
    )
    write("config_sentence_transformers.json", {"prompts": {"query": "query: ", "passage": "passage: "}})
    assert Form.of(str(tmp_path)) == Form("first", "query: ", "passage: ")
    write("1_Pooling/config.json", {"pooling_mode": "mean", "include_prompt": True})
    assert Form.of(str(tmp_path)).pooling == "mean"
    write("1_Pooling/config.json", {"pooling_mode_lasttoken": True})
    with pytest.raises(UserError, match="makes embeddings by lasttoken: use one that takes the mean"):
        Form.of(str(tmp_path))
    write("1_Pooling/config.json", {"pooling_mode_cls_token": True})
    write(
        "modules.json",
        [{"type": "sentence_transformers.models.Transformer"}, {"type": "sentence_transformers.models.Dense"}],
    )
    with pytest.raises(UserError, match="makes embeddings by Dense"):
        Form.of(str(tmp_path))
    # Some copies lack the file that says how it pools: the mean, as for sentence-transformers.
    write("modules.json", [{"type": "sentence_transformers.models.Pooling"}])
    (tmp_path / "1_Pooling" / "config.json").unlink()
    assert Form.of(str(tmp_path)).pooling == "mean"


@pytest.mark.parametrize("file", ["modules.json", "1_Pooling/config.json", "config_sentence_transformers.json"])
@pytest.mark.parametrize("content", ["{bad", "3", "[3]", '"text"'])
def test_a_damaged_file_of_the_form_is_named(tmp_path, file, content):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(content)
    with pytest.raises(UserError, match=f"has a damaged {file}: copy its folder again"):
        Form.of(str(tmp_path))


def test_sentences_end_with_their_pieces():
    sentences, begin = cut_sentences(PIECES)
    assert sentences == ["An owl sat.", " It was late!", "Rain fell", "\n", 'He said "no."', " Then he left."]
    assert begin.tolist() == [0, 2, 3, 4]


def test_a_piece_counts_as_its_nearest_sentence():
    ours = encoder()
    scores, compared = SentenceIndex(ours, PIECES).scores("An owl sat.")
    asked = ours.question("An owl sat.").float()
    for piece, score in zip(PIECES, scores.tolist(), strict=True):
        assert score == pytest.approx(
            float((ours.sentences(cut_sentences([piece])[0]).float() @ asked).max()), abs=2e-3
        )
    assert scores[0] == pytest.approx(1, abs=2e-3) and compared.encoded > 0


def test_what_is_kept_is_not_embedded_again():
    ours = encoder()
    kept = embedded(ours, PIECES[1:3])
    whole, before = SentenceIndex(ours, PIECES), ours.operations
    of_others = SentenceIndex(ours, PIECES, [(1, 3, kept)])
    spent = ours.operations - before
    alone, before = encoder(), ours.operations
    alone.sentences(cut_sentences(PIECES[:1] + PIECES[3:])[0])
    assert spent == alone.operations
    assert torch.equal(of_others.scores("Owls?")[0], whole.scores("Owls?")[0])
    # What another encoder made, or of other sentences, is not taken.
    before = ours.operations
    other = Stored("of another", kept.sentences)
    SentenceIndex(ours, PIECES, [(0, 3, kept), (1, 3, other)])
    assert ours.operations - before == whole_cost()
    # Of a text that goes on only what is new is embedded.
    before = ours.operations
    longer = SentenceIndex(ours, [*PIECES, "A new one."], earlier=whole)
    new = encoder()
    new.sentences(["A new one."])
    assert ours.operations - before == new.operations
    assert torch.equal(longer.scores("Owls?")[0][:4], whole.scores("Owls?")[0])


def whole_cost() -> float:
    ours = encoder()
    SentenceIndex(ours, PIECES)
    return ours.operations


def test_scores_of_words_and_encoder_are_scaled_alike():
    free = np.array([True, True, False, True])
    words, near = torch.tensor([2.0, 0.0, 8.0, 1.0]), torch.tensor([0.1, 0.5, 0.9, 0.3])
    found = with_encoded(words, near, free)
    share = rankings.ENCODED
    # The third quotes the question, so it is no nearer than the nearest of the others.
    assert found.tolist() == pytest.approx(
        [(1 - share) * 0.25, share, 1 - share + share, (1 - share) * 0.125 + share * 0.5]
    )
    assert with_encoded(words * 0, near * 0, free).tolist() == [0, 0, 0, 0]


def test_the_less_words_say_the_more_the_encoder_counts():
    def weight(covered: float, unsaid: bool = True, pieces: int = 3) -> float:
        some = np.array([covered, *[0.1] * (pieces - 2), 1.0])
        # The last one quotes the question.
        return rankings.encoder_weight(some, some < 1, unsaid)

    assert [weight(covered) for covered in (0.45, 0.3, 0.29, 0.0)] == [0.75, 0.75, 1.0, 1.0]
    assert weight(0.6, unsaid=False) == weight(0.25, unsaid=False) == 0.5
    # In a longer text some piece has more of any question by chance.
    assert [weight(0.34, pieces=pieces) for pieces in (256, 512, 1024, 10_000)] == [0.75, 1.0, 1.0, 1.0]
    assert [weight(0.4, pieces=pieces) for pieces in (1024, 10_000)] == [0.75, 0.75]


def rank(model, score: str | None = None, question: str = "qqq"):
    tokens = torch.tensor(
        [byte_tokenizer().encode("The mill is old. " * 5 + "Geese crossed the river. Rain fell! " * 3)]
    )
    segments = segments_of(model.read(tokens, keep_all=True))
    index = TextIndex(segments, byte_tokenizer(), 256, marks=model.config.marks)
    ids = torch.tensor([byte_tokenizer().encode(question)])
    return index, rank_pieces(
        model.model, segments, index, question, ids, torch.ones_like(ids, dtype=torch.bool), score
    )


def test_a_model_with_an_encoder_ranks_by_words_and_by_it(model):
    with pytest.raises(UserError, match="score='meaning' needs meaning_layers"):
        rank(model, "meaning")
    ours = encoder()
    index, ranked = rank(with_encoder(ours), question="the old geese")
    near = SentenceIndex(ours, index.texts).scores("the old geese")[0]
    by_words = index.words.scores("the old geese")
    expected = with_encoded(by_words, near, np.ones(len(near), dtype=bool))
    # Pieces that are linked to the best one may rank higher.
    assert (ranked.scores >= expected - 1e-6).all() and ranked.scores.argmax() == expected.argmax()
    assert torch.equal(rank(with_encoder(ours), "meaning", "the old geese")[1].scores, near)
    assert torch.equal(rank(with_encoder(ours), "bm25", "the old geese")[1].scores.argmax(), by_words.argmax())
    assert ranked.compared.encoded > 0


def test_the_encoder_says_too_whether_it_is_found(model, monkeypatch):
    given = []
    monkeypatch.setattr(rankings, "seems_answered", lambda covered, free, near=None: given.append(near))
    for score in (None, "meaning", "bm25"):
        index, _ = rank(with_encoder(encoder()), score, "the old geese")
    near = SentenceIndex(encoder(), index.texts).scores("the old geese")[0]
    assert torch.equal(given[0], near) and torch.equal(given[1], near) and given[2] is None


def test_an_encoder_is_saved_with_its_model_and_checked(model, tmp_path):
    ours = encoder(Form("first", "q: "))
    with_encoder(ours).save_pretrained(tmp_path)
    again = SharedLLMForCausalLM.from_pretrained(tmp_path)
    loaded = encoder_of(again.model)
    assert loaded is not None and loaded is encoder_of(again.model)
    assert loaded.form == ours.form and loaded.fingerprint == ours.fingerprint
    assert torch.equal(loaded.question("Who?"), ours.question("Who?"))
    assert again.fingerprint() == model.fingerprint()
    # One that was put there since is refused.
    encoder(Form("first", "q: "), seed=1).model.save_pretrained(tmp_path / FOLDER)
    with pytest.raises(UserError, match="is not the sentence encoder that"):
        encoder_of(SharedLLMForCausalLM.from_pretrained(tmp_path).model)
    shutil.rmtree(tmp_path / FOLDER)
    with pytest.raises(UserError, match="lacks its sentence encoder, the folder encoder: copy"):
        encoder_of(SharedLLMForCausalLM.from_pretrained(tmp_path).model)


def test_what_is_no_encoder_is_refused(tmp_path):
    """A language model, and a folder whose tokenizer is missing."""
    tiny_base("qwen2", vocab_size=256).save_pretrained(tmp_path / "base")
    tokenizer().save_pretrained(tmp_path / "base")
    with pytest.raises(UserError, match=r"is a language model \(Qwen2ForCausalLM\): name a sentence encoder"):
        SentenceEncoder.load(str(tmp_path / "base"))
    encoder().model.save_pretrained(tmp_path / "without")
    with pytest.raises(UserError):
        SentenceEncoder.load(str(tmp_path / "without"))


def test_another_tokenizer_is_another_encoder():
    ours = encoder()
    other = tokenizer()
    other.add_tokens(["owl"])
    assert SentenceEncoder(ours.model, other).fingerprint != ours.fingerprint


def test_only_a_model_that_names_an_encoder_takes_it(model):
    with pytest.raises(UserError, match="sentence_encoder=None is not this encoder"):
        model.use_encoder(encoder())
    with pytest.raises(UserError, match="injection='joint': it is for injection='deep'"):
        tiny_shared("llama", injection="joint", sentence_encoder=encoder().settings)
    with pytest.raises(UserError, match="is the `settings` of a SentenceEncoder"):
        tiny_shared("llama", injection="deep", encoding="chunk", sentence_encoder={"fingerprint": "x"})


def test_a_model_without_a_folder_has_to_be_given_its_encoder():
    with pytest.raises(UserError, match=r"give it with use_encoder\(encoder\)"):
        encoder_of(deep(sentence_encoder=encoder().settings).model)


def test_the_sentences_of_pieces_are_those_of_the_index(model):
    ours = encoder()
    named = with_encoder(ours)
    index, _ = rank(named)
    kept = embedded_sentences(named.model, byte_tokenizer(), index.ids)
    before = ours.operations
    SentenceIndex(ours, index.texts, [(0, len(index.pieces), kept)])
    assert ours.operations == before
    assert embedded_sentences(model.model, byte_tokenizer(), index.ids) is None


def test_a_text_that_is_appended_to_embeds_only_what_is_new():
    """Also where it has as many pieces as before."""
    ours = encoder()
    named = with_encoder(ours)

    def index_of_text(text, earlier=None):
        segments = segments_of(named.read(torch.tensor([byte_tokenizer().encode(text)]), keep_all=True))
        index = TextIndex(segments, byte_tokenizer(), 256, marks=named.config.marks)
        if earlier is not None:
            index.go_on_from(earlier)
        before = ours.operations
        index.sentences(ours, segments)
        return index, ours.operations - before

    first, all_of_it = index_of_text("The mill is old. Rain fell")
    longer, spent = index_of_text("The mill is old. Rain fell on us!", first)
    assert len(longer.pieces) == len(first.pieces) and 0 < spent < all_of_it
    anew = SentenceIndex(ours, longer.texts)
    assert torch.equal(longer.sentences(ours, []).scores("Rain?")[0], anew.scores("Rain?")[0])


def test_an_encoder_is_asked_with_the_question_mark():
    tokens = byte_tokenizer()
    ids = tokens.encode("<Who sat?>")
    own = [0 < place < 8 for place in range(len(ids))]
    assert passages._said(tokens, ids, own) == "Who sat?"
    assert passages._said(tokens, [*ids[:8], *ids[9:]], own[:-1]) == "Who sat"
    assert passages._said(tokens, ids, [False] * len(ids)) == ""
