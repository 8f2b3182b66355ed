"""The base answers again as it did the first time, also where its layers see a sliding window only."""

import pytest
import torch
from helpers import byte_tokenizer, tiny_base

from sharedllm.evaluation.qa.reader import Reader


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
@pytest.mark.parametrize("text", ["", "The mill is old and nobody lives there now. " * 3])
def test_a_prompt_longer_than_the_sliding_window_leaves_no_trace(family, text):
    base = tiny_base(family, vocab_size=256, max_position_embeddings=1024)
    reader, long = Reader(base, byte_tokenizer(), chunk=32), torch.arange(5, 205)[None]
    start = reader.read(text)
    answers = [reader.write(start, ids, 6).text for ids in (long, long[:, :7], long, long[:, :7])]
    assert answers[:2] == answers[2:] and start.cache.get_seq_length() == start.length
    fresh = Reader(base, byte_tokenizer(), chunk=32)
    assert fresh.write(fresh.read(text), long[:, :7], 6).text == answers[3]
