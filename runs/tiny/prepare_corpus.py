"""Train the tiny model's tokenizer and turn the corpus into token arrays.

Reads the `{domain}-{split}-*.jsonl.zst` shards of a corpus folder (one document per line, field `text`) and writes

    OUT/tokenizer/            byte-level BPE, 4,096 entries, every digit its own token
    OUT/{domain}-{split}.npy  all tokens of the split, uint16, documents one after the other
    OUT/{domain}-{split}.json document ids, titles and token offsets

Run: python runs/tiny/prepare_corpus.py --corpus DIR --out build/tiny
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import zstandard
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

DOMAINS = ("books", "code", "proofs")
VOCAB_SIZE = 4096
SPECIAL = ["<|bos|>", "<|eos|>", "<|pad|>"]
SAMPLE_CHARS = {"books": 30_000_000, "code": 15_000_000, "proofs": 8_000_000}


def read_documents(corpus: Path, domain: str, split: str) -> Iterator[dict]:
    for shard in sorted(corpus.glob(f"{domain}-{split}-*.jsonl.zst")):
        with zstandard.open(shard, "rt", encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)


def sample_pieces(corpus: Path) -> Iterator[str]:
    """Pieces of 100,000 characters spread evenly over every training document, so no single source dominates."""
    for domain in DOMAINS:
        documents = [d["text"] for d in read_documents(corpus, domain, "train")]
        share = SAMPLE_CHARS[domain] // len(documents)
        for text in documents:
            start = max(0, (len(text) - share) // 2)
            yield text[start : start + share]


def train_tokenizer(corpus: Path) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    bpe.train_from_iterator(sample_pieces(corpus), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=SPECIAL[0], eos_token=SPECIAL[1], pad_token=SPECIAL[2], padding_side="left"
    )


def encode_split(tokenizer: PreTrainedTokenizerFast, corpus: Path, domain: str, split: str, out: Path) -> None:
    arrays, entries, offset = [], [], 0
    for document in read_documents(corpus, domain, split):
        # Encoding piece by piece, cut at line ends, keeps the tokenizer's working set small.
        lines = document["text"].splitlines(keepends=True)
        pieces = ["".join(lines[i : i + 2000]) for i in range(0, len(lines), 2000)]
        ids = np.concatenate(
            [np.asarray(e.ids, dtype=np.uint16) for e in tokenizer.backend_tokenizer.encode_batch(pieces)]
        )
        entries.append({"id": document["id"], "title": document["title"], "start": offset, "end": offset + len(ids)})
        arrays.append(ids)
        offset += len(ids)
    np.save(out / f"{domain}-{split}.npy", np.concatenate(arrays))
    (out / f"{domain}-{split}.json").write_text(json.dumps(entries))
    print(f"{domain}-{split}: {len(entries)} documents, {offset:,} tokens", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("build/tiny"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(args.corpus)
    tokenizer.save_pretrained(args.out / "tokenizer")
    for split in ("validation", "train"):
        for domain in DOMAINS:
            encode_split(tokenizer, args.corpus, domain, split, args.out)


if __name__ == "__main__":
    main()
