"""A stream of tokens gives the text of all of them, also where it is cut off or has broken characters."""

import random

import pytest
from helpers import byte_tokenizer
from tokenizers import Tokenizer, decoders, models
from tokenizers.decoders import DecodeStream
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sharedllm import bundled_model
from sharedllm.answering.stream import Decoder

TEXT = "The naïve café 世界 👩‍👧 owl's code is 48,213.\n  x a b  c\n\n"


def with_byte_fallback() -> PreTrainedTokenizerFast:
    """A vocabulary as sentencepiece makes it."""
    pieces = ["<unk>", "▁", "▁the", "▁cat", "▁a", "ing", "s", *(f"<0x{byte:02X}>" for byte in range(256))]
    own = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, [], byte_fallback=True, unk_token="<unk>"))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    own.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=own, unk_token="<unk>")


def streamed(tokenizer, ids) -> str:
    decoder = Decoder(tokenizer)
    return "".join([decoder.add(token) for token in ids]) + decoder.finish()


def by_the_library(tokenizer, ids) -> str:
    stream = DecodeStream(skip_special_tokens=True)
    return "".join(stream.step(tokenizer.backend_tokenizer, token) or "" for token in ids)


@pytest.mark.parametrize(
    "make", [byte_tokenizer, lambda: AutoTokenizer.from_pretrained(bundled_model())], ids=["bytes", "tiny"]
)
def test_any_tokens_are_streamed_as_their_text(make):
    tokenizer, rng = make(), random.Random(0)
    whole = tokenizer.encode(TEXT, add_special_tokens=False)
    for end in range(len(whole) + 1):
        assert streamed(tokenizer, whole[:end]) == tokenizer.decode(whole[:end], skip_special_tokens=True)
    for _ in range(100):
        ids = [rng.randrange(len(tokenizer)) for _ in range(rng.randrange(40))]
        assert streamed(tokenizer, ids) == tokenizer.decode(ids, skip_special_tokens=True)


def test_a_good_character_after_broken_ones_is_whole():
    for tokenizer in (byte_tokenizer(), AutoTokenizer.from_pretrained(bundled_model())):
        for character in "é世👩":
            whole = tokenizer.encode(character, add_special_tokens=False)
            for broken in range(20):
                ids = [whole[0]] * broken + whole * 2 + tokenizer.encode(" ok", add_special_tokens=False)
                assert streamed(tokenizer, ids) == tokenizer.decode(ids)


def test_why_the_library_does_not_do_it():
    """If this fails, it may do it now."""
    bytewise, fallback = byte_tokenizer(), with_byte_fallback()
    cut = bytewise.encode("caf" + "é")[:-1]
    assert streamed(bytewise, cut) == bytewise.decode(cut) == "caf\ufffd" and by_the_library(bytewise, cut) == "caf"
    broken = [2, 7 + 0xC3, 6, 2, 3]
    assert streamed(fallback, broken) == fallback.decode(broken) == "the\ufffds the cat"
    rng = random.Random(0)
    odd = [rng.randrange(len(fallback)) for _ in range(2000)]
    with pytest.raises(Exception, match="Invalid prefix"):
        by_the_library(fallback, odd)
