"""Answers to questions of whose words a text has few, by the weight of a sentence encoder beside words, from the pieces as text in the base's
window: a table of docs/real/choices.md. A question that all weights give the same pieces is not asked. Takes two hours on one core for 700 questions.

Run: python docs/real/choose_few.py MODEL BASE DATA ENCODER [SET:QUESTIONS:LENGTH,… [HALF]]    # MODEL: of `sharedllm extend`
"""

import sys

from choosing import Asker, Chosen, Unread, cells_of, holding, read, share_of, spans_of, table, texts, with_evidence

from sharedllm.cli.loading import load_any
from sharedllm.evaluation.qa.meter import Meter
from sharedllm.evaluation.qa.sets import SETS
from sharedllm.model.config import SharedLLMConfig
from sharedllm.scoring import rankings
from sharedllm.scoring.encoder import SentenceEncoder
from sharedllm.scoring.found import share_said
from sharedllm.utils.checkpoints import load_tokenizer

CELLS = "nq:600:32K,reworded:64:32K"
WEIGHTS = (0.0, 0.5, 0.75, 0.85, 0.9, 1.0)
# Below which share of a question's words in one piece questions are told apart.
SHARES = (0.3, 0.35, 0.4, rankings.HARDLY_SAID)


def main() -> None:
    config, tokenizer = SharedLLMConfig.from_pretrained(sys.argv[1]), load_tokenizer(sys.argv[1])
    asker, encoder = Asker(load_any(sys.argv[2])[0], tokenizer), SentenceEncoder.load(sys.argv[4])
    half = sys.argv[6] if sys.argv[6:] else "even"
    assert half in ("even", "odd", "all")
    table(f"{half} ids: evidence, tokens, hit, f1", ("set", "share", "n", "asked"), [str(weight) for weight in WEIGHTS])
    for name, count, length, size in cells_of(sys.argv[5] if sys.argv[5:] else CELLS):
        questions, asked, seen = SETS.find(name), {share: [] for share in SHARES}, dict.fromkeys(SHARES, 0)
        for text in texts(name, count, sys.argv[3], Meter(tokenizer), size, half):
            index = Unread(text.text, tokenizer, config)
            spans, sentences = spans_of(index.pieces, text.text, Meter(tokenizer)), None
            for question in text.questions:
                covered, free = index.covered(question.question)
                words, gold = index.words.scores(question.question), holding(spans, question)
                few = rankings.by_meaning(covered, free, words, index.texts, question.question)
                if covered is None or not (few and gold):
                    continue
                below = min(share for share in SHARES if share_said(covered, free) < share)
                seen[below] += 1
                sentences = sentences or index.sentences(encoder, index.segments)
                near = sentences.scores(question.question)[0]
                rows: list[Chosen] = []
                for weight in WEIGHTS:
                    scores = rankings.with_encoded(words, near, free, weight)
                    best = read(index, question.question, scores, surely=True)
                    rows.append(asker.chosen(index, best, question, questions.instruction))
                    rows[-1].evidence = share_of(gold, best)
                if len({tuple(row.prompt[0].tolist()) for row in rows}) > 1:
                    asker.answer(rows, questions.new_tokens)
                    asked[below].append(rows)
        for share, found in asked.items():
            cells = [with_evidence(column) for column in zip(*found, strict=True)] or ["–"] * len(WEIGHTS)
            about = f"{name}, {length} | below {share} | {seen[share]} | {len(found)}"
            print(f"| {about} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
