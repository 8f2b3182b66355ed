"""The tokens with which pieces begin."""

from helpers import byte_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sharedllm import bundled_model
from sharedllm.context.spaces import beginnings, without_space


def test_each_pair_is_one_text_with_and_without_its_space():
    tokenizer = AutoTokenizer.from_pretrained(bundled_model())
    bare = without_space(tokenizer, len(tokenizer))
    bare = {int(spaced): int(one) for spaced, one in (pair.split(":") for pair in bare.split())}
    assert len(bare) > 100
    for spaced, one in bare.items():
        text = tokenizer.decode([spaced])
        assert text[0] == " " and text[1:] == tokenizer.decode([one])
    the, spaced_the = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("the", " the"))
    assert bare[spaced_the[0]] == the[0] and the[0] not in bare
    assert all(tokenizer.decode([i]).strip() for i in bare), "a space alone stays"


def test_words_of_several_tokens_without_their_space_stay():
    known = ["Ġ", "t", "h", "e", "Ġt", "he", "Ġthe", "a", "Ġa"]
    merges = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("Ġ", "a")]
    assert without_space(_tokenizer(models.BPE({t: i for i, t in enumerate(known)}, merges)), 9) == "4:1 8:7"


def test_vocabularies_that_begin_every_text_with_a_space_have_none():
    """Llama 2's kind writes a text's first word as it writes all others."""
    known = {"<unk>": 0, "▁the": 1, "the": 2, "▁cat": 3}
    tokenizer = Tokenizer(models.WordLevel(known, "<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    assert without_space(PreTrainedTokenizerFast(tokenizer_object=tokenizer), 4) == ""
    assert without_space(byte_tokenizer(), 256) == ""


def test_all_other_tokens_are_their_own_beginnings():
    assert beginnings("3:1 0:2", 5).tolist() == [2, 1, 2, 1, 4] and beginnings("", 3).tolist() == [0, 1, 2]


def _tokenizer(model: models.Model) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)
