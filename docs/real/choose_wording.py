"""How to put a question to a chat model: the base's answers to even ids from pieces chosen by words, as text in its window, by
the wording: the table of docs/real/choices.md. Takes half an hour on one core for a base of 0.5B parameters.

Run: python docs/real/choose_wording.py MODEL BASE DATA [SET[:QUESTIONS],…] [WORDING,…] [INSTRUCTION]    # MODEL: of `sharedllm extend`; DATA: the folder of the question sets;
     INSTRUCTION: instead of the one of each set; answers then have as much room as `ask` gives, instead of as much as the set asks for
"""

import sys

import numpy as np
import torch
from choose_links import RULES, Make, asked
from choosing import Asker, Chosen, table

from sharedllm.answering.asked import ANSWER_TOKENS
from sharedllm.cli.loading import load_any
from sharedllm.evaluation.qa.sets import SETS

CELLS = {"nq": 60, "hotpotqa": 40, "fairytaleqa": 60, "keys-4": 24, "kv75-line": 19}
# What precedes the text, what follows it, and what the answer begins with. {how} is the instruction of the set.
WORDINGS = {
    "instruction last": ("", "{question}\n{how}", ""),
    "question marked": ("", "Question: {question}\n{how}", ""),
    "answer begun": ("", "{question}\n{how}", "Answer:"),
    "instruction first": ("", "{how}\n{question}", ""),
    "first and question marked": ("", "{how}\nQuestion: {question}", ""),
    "first and both marked (chosen)": ("", "{how}\nQuestion: {question}\nAnswer:", ""),
    "first and answer begun": ("", "{how}\n{question}", "Answer:"),
    "first and only words of the text": ("", "Answer with as few words as possible, and only with words from the text.\n{question}", ""),
    "question before the text too": ("{question}\n\n", "{question}\n{how}", ""),
}  # fmt: skip


def main() -> None:
    make, base = Make(sys.argv[1]), load_any(sys.argv[2])[0]
    asker = Asker(base, make.tokenizer)
    reader = asker.reader
    sets, names = (
        given.split(",") if given else list(every)
        for given, every in zip((sys.argv[4:6] + ["", ""])[:2], (CELLS, WORDINGS), strict=True)
    )
    table("Hit, f1.", ("set, even ids", "n"), names)
    for asked_for in sets:
        name, _, count = asked_for.partition(":")
        questions, cells = SETS.find(name), []
        how = sys.argv[6] if sys.argv[6:] else questions.instruction
        # Records of UUIDs are texts as they are.
        length = 0 if name.startswith("kv") else 32_768
        picks = [
            (question, "".join(text.texts[piece] for piece in text.chosen(question, RULES[1]).tolist()))
            for text, question in asked(name, int(count or CELLS[name]), length, sys.argv[3], make)
        ]
        for wording in names:
            rows = []
            for question, shown in picks:
                before, after, lead = (part.format(question=question.question, how=how) for part in WORDINGS[wording])
                said = reader.form.question(after, after_context=True, lead=lead)
                prompt = torch.cat([asker.head, reader.ids(before + shown), said], 1)
                rows.append(Chosen(0, prompt, tuple(question.answers)))
            asker.answer(rows, ANSWER_TOKENS if sys.argv[6:] else questions.new_tokens)
            cells.append("{:.1f}, {:.1f}".format(*100 * np.mean([row.scores for row in rows], 0)))
        print(f"| {name} | {len(picks)} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
