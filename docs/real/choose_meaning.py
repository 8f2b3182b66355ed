"""How well meaning ranks the evidence of even ids, by the layers that read it, and when it should decide instead of words and
heads: the tables of docs/real/choices.md. Takes half an hour on one core for a model of 0.5B parameters.

Run: python docs/real/choose_meaning.py MODEL DATA    # MODEL: of `sharedllm extend`; DATA: the folder of the question sets
"""

import sys

import numpy as np
import torch
from choose_weights import asked

from sharedllm.cli.loading import load
from sharedllm.scoring.meaning import MeaningIndex
from sharedllm.scoring.rankings import join

QUESTIONS = {"reworded": 64, "nq": 40, "fairytaleqa": 40, "hotpotqa": 30}
DEPTHS, GATES = (2, 3, 4, 5, 6, 7, 8), (0.0, 0.3, 0.4, 0.5, 0.6, 1.01)


def main() -> None:
    model, tokenizer = load(sys.argv[1])
    chosen = model.config.meaning_layers
    for name, count in QUESTIONS.items():
        by_depth: dict[int, list[float]] = {depth: [] for depth in DEPTHS}
        by_gate: dict[float, list[tuple[float, bool]]] = {gate: [] for gate in GATES}
        covers: list[float] = []
        for index, questions in asked(model, tokenizer, name, count, sys.argv[2]):
            meaning = MeaningIndex(model.model, tokenizer, index.ids, index.pieces, max(DEPTHS))
            scores = meaning.by_depth([question.question for question, _, _ in questions], DEPTHS)
            for number, (question, heads, gold) in enumerate(questions):
                covered, free = index.covered(question.question)
                most = 1.0 if covered is None else float(covered[free].max())
                covers.append(most)
                ranks = {depth: rank_of(scores[place, number].numpy(), gold) for place, depth in enumerate(DEPTHS)}
                words = rank_of(join(index.words.scores(question.question), torch.from_numpy(heads)).numpy(), gold)
                for depth in DEPTHS:
                    by_depth[depth] += [1 / rank for rank in ranks[depth]]
                for gate in GATES:
                    by_gate[gate] += [(1 / rank, rank <= 8) for rank in (ranks[chosen] if most < gate else words)]
        print(f"{name}: {len(covers)} questions, most of a question in one piece, by tenths: "
              + ", ".join(f"{q:.2f}" for q in np.quantile(covers, np.linspace(0, 1, 11))), flush=True)  # fmt: skip
        print(f"  {len(by_depth[chosen])} places of evidence, by meaning alone, mean of 1 / rank by layers: "
              + ", ".join(f"{depth}: {np.mean(found):.3f}" for depth, found in by_depth.items()), flush=True)  # fmt: skip
        print("  meaning decides below, mean of 1 / rank, in the best eight: "
              + ", ".join(f"{gate}: {np.mean([f for f, _ in found]):.3f} {100 * np.mean([b for _, b in found]):.1f}"
                          for gate, found in by_gate.items()), flush=True)  # fmt: skip


def rank_of(scores: np.ndarray, gold: list[np.ndarray]) -> list[int]:
    """The best rank, from 1, of the pieces of each place of evidence."""
    rank = np.argsort(np.argsort(-scores, kind="stable"))
    return [1 + int(rank[some].min()) for some in gold if len(some)]


if __name__ == "__main__":
    main()
