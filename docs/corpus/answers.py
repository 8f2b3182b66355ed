"""Questions to a corpus beside its strongest simple rivals: passages of Natural Questions as documents, more and more of them.

    python docs/corpus/answers.py nq-dev.jsonl.zst MODEL BASE WORK    results go into `figures.json`; goes on where it was stopped

Of each question: whether its passage is among the best documents of stage one, and of BM25 over whole documents; and whether the
answer is right from the corpus, from the same pieces as text in the base's window, and from BM25's pieces as text.
"""

import argparse
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import torch

from sharedllm.answering.ask import Answer, ask
from sharedllm.answering.asked import prompt_of
from sharedllm.answering.nearest import narrowed
from sharedllm.corpus.corpus import DOCUMENTS, Corpus
from sharedllm.corpus.engines import OneProcess
from sharedllm.corpus.opening import open_corpus
from sharedllm.corpus.reader import load_for_reading
from sharedllm.corpus.run import read_corpus
from sharedllm.corpus.sources import Span, lines_of
from sharedllm.evaluation.qa.meter import Meter
from sharedllm.evaluation.qa.metrics import hit
from sharedllm.evaluation.qa.pieces import Piece, cut, joined, within
from sharedllm.evaluation.qa.rankings import ranked, ranking_of
from sharedllm.evaluation.qa.reader import Reader
from sharedllm.evaluation.qa.sets import PackedText, Question
from sharedllm.memory.segments import segments_of
from sharedllm.prompts import FEW_WORDS, NOTHING, PromptForm, own_words
from sharedllm.store import MemoryStore
from sharedllm.utils.checkpoints import load_model
from sharedllm.utils.hardware import default_device, environment, inference_dtype

RESULTS = Path(__file__).parent / "figures.json"
BATCH, SHARD, FILE, NEW, SEED = 2048, 100_000, 100, 20, 1


def records_of(source: Path, questions: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """All passages in a random order that begins with those of the questions, and these: of odd ids."""
    found = [json.loads(line) for line in lines_of(Span("", str(source), "lines"))]
    random.Random(SEED).shuffle(found)
    asked = [one for one in found if int(one["id"].rpartition("-")[2]) % 2][:questions]
    first = {one["id"] for one in asked}
    return asked + [one for one in found if one["id"] not in first], asked


def files(records: list[dict[str, Any]], folder: Path) -> list[Path]:
    """The passages as records of files of 100, so that a larger corpus has all documents of a smaller one."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for start in range(0, len(records), FILE):
        made.append(folder / f"{start:05}.jsonl")
        rows = [{"title": r["title"], "text": text_of(r)} for r in records[start : start + FILE]]
        made[-1].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return made


def text_of(record: dict[str, Any]) -> str:
    return f"{record['title']}\n{record['passage']}"


def sentence(query: str) -> str:
    """A search query as a sentence."""
    return query[:1].upper() + query[1:] + ("" if query.endswith("?") else "?")


def packed(records: list[dict[str, Any]], meter: Meter) -> PackedText:
    text, parts = "", []
    for record in records:
        begin = len(text)
        text += text_of(record) + "\n\n"
        parts.append((begin, len(text) - 2))
    return PackedText("corpus", text, (), tuple(parts), (), meter.count(text))


class Watched(Corpus):
    """A corpus that keeps the scores of its documents, and the documents, of the last question."""

    scored: dict[str, torch.Tensor]
    opened: MemoryStore

    def nearest(self, model: Any, question: str, asked: Any, own: Any) -> MemoryStore:
        self.scored = {
            "stage_one": self.scores(model, question, asked, own),
            "words": self.index.words.scores(question),
        }
        if self.index.keys is not None:
            self.scored["keys"] = self.index.keys.scores(model, asked, own)
        self.opened = super().nearest(model, question, asked, own)
        return self.opened

    def shown(self, answer: Answer, tokenizer: Any) -> str:
        """The tokens that were selected for an answer, as text, with a blank line where some are left out."""
        ids, pieces, last = {}, [], -2
        for segment in segments_of(self.opened):
            ids |= dict(enumerate(segment.token_ids[0].tolist(), segment.start))
        for slot in answer.memory.position[0][answer.memory.mask[0]].tolist():
            if slot != last + 1 or slot % self.chunk_size == 0:
                pieces.append([])
            pieces[-1].append(ids[slot])
            last = slot
        return "\n\n".join(tokenizer.decode(piece).strip() for piece in pieces)


class Rivals:
    """All that answers about the first so many passages."""

    def __init__(self, records: list[dict[str, Any]], corpus: Watched, model: Any, base: Any, tokenizer: Any):
        self.corpus, self.model, self.tokenizer = corpus, model, tokenizer
        self.reader, self.bm25 = Reader(base, tokenizer), ranking_of("bm25")
        meter = Meter(tokenizer)
        self.text = packed(records, meter)
        self.pieces = cut(self.text, meter)
        self.index = self.bm25.index(self.text, self.pieces)
        self.whole = self.bm25.index(self.text, [Piece(start, end, 0) for start, end in self.text.parts])

    def ranks(self, number: int, question: str) -> dict[str, int]:
        """The place of a question's document, from 0: by stage one, by its two parts, and by BM25 over whole documents."""
        prompt = prompt_of(self.model, self.tokenizer, question, NEW)
        nothing = PromptForm.of(self.tokenizer).question(f"{NOTHING}\n{FEW_WORDS}", after_context=True)
        narrowed(self.model, self.tokenizer, self.corpus, prompt, own_words(prompt, nothing))
        scored = dict(self.corpus.scored)
        scored["bm25"] = torch.from_numpy(self.bm25.scores(self.whole, asked_of(question)))
        return {name: int((scores > scores[number]).sum()) for name, scores in scored.items()}

    def answers(self, question: str, budget: int) -> dict[str, tuple[str, float]]:
        """The reply of each, and its seconds."""
        begun, found = time.perf_counter(), {}
        options: dict[str, Any] = {"budget": budget, "max_new_tokens": NEW, "instruction": FEW_WORDS}
        ours = ask(self.model, self.tokenizer, self.corpus, question, **options)
        found["corpus"] = ours.text, time.perf_counter() - begun
        order = ranked(self.bm25.scores(self.index, asked_of(question)))
        best = sorted(within(self.pieces, order, budget))
        shown = {
            "same": self.corpus.shown(ours, self.tokenizer),
            "bm25": joined(self.text.text, [(self.pieces[i].start, self.pieces[i].end) for i in best]),
        }
        for name, text in shown.items():
            begun = time.perf_counter()
            prompt = self.reader.prompt(text, f"{question}\n{FEW_WORDS}", True)
            found[name] = self.reader.write(self.reader.head(), prompt, NEW).text, time.perf_counter() - begun
        return found


def asked_of(question: str) -> Question:
    return Question("", question, (), (), "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("model")
    parser.add_argument("base")
    parser.add_argument("work", type=Path, help="folder for the passages and the corpus")
    parser.add_argument("--documents", type=int, nargs="+", default=[300, 1000, 1336])
    parser.add_argument("--answered", type=int, nargs="*", help="sizes at which answers are written too; default: all")
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--budget", type=int, default=512)
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    records, asked = records_of(options.source, options.questions)
    figures = json.loads(RESULTS.read_text(encoding="utf-8"))
    held: dict[str, Any] = figures.setdefault("answers", {"reading": [], "records": []})
    held["settings"] = {"environment": environment(), "model": Path(options.model).name, "budget": options.budget}
    held["settings"] |= {"questions": options.questions, "best": DOCUMENTS, "seed": SEED}

    def keep() -> None:
        RESULTS.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    (model, tokenizer), device = load_for_reading(options.model), default_device()
    base = load_model(options.base, device, dtype=inference_dtype(device)).eval()
    for size in options.documents:
        uri, names = options.work / "corpus", files(records[:size], options.work / "documents")
        done = {(one["documents"], one["id"]): one for one in held["records"]}
        said = read_corpus(
            [str(n) for n in names], str(uri), options.model, OneProcess(), batch_tokens=BATCH, shard_bytes=SHARD,
            replace=True,  # a run that goes on begins with the fewest documents again
        )  # fmt: skip
        if said.tokens_read:
            held["reading"].append({"documents": size, "tokens": said.tokens_read, "seconds": round(said.seconds, 1)})
        opened = open_corpus(str(uri))
        rivals = Rivals(records[:size], Watched(opened.place, opened.manifest, opened.index), model, base, tokenizer)
        for number, record in enumerate(asked):
            found = done.get((size, record["id"]))
            question = sentence(record["question"])
            if found is None:
                found = {"documents": size, "id": record["id"], "ranks": rivals.ranks(number, question)}
                held["records"].append(found)
            if "hit" not in found and (options.answered is None or size in options.answered):
                replies = rivals.answers(question, options.budget)
                found["hit"] = {name: hit(text, record["answers"]) for name, (text, _) in replies.items()}
                found["seconds"] = {name: round(seconds, 2) for name, (_, seconds) in replies.items()}
                found["replies"] = {name: text for name, (text, _) in replies.items()}
            keep()
        print(size, said.tokens, round(said.seconds), file=sys.stderr)


if __name__ == "__main__":
    main()
