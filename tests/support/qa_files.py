"""Small made-up question sets in the format of the real files, one folder for all."""

import json
import random
import uuid
from pathlib import Path

WORDS = (
    "harbour lantern winter captain orchard silver candle meadow thunder basket violin glacier pepper copper saddle "
    "window marble ribbon forest anchor feather kettle ladder mirror needle oyster pillow quarry rocket tunnel"
).split()


def write_sets(folder: Path, seed: int = 0) -> Path:
    """Write files of every set to `folder`, and a corpus of code next to it; returns the folder."""
    rng = random.Random(seed)

    def sentence(*extra: str) -> str:
        return " ".join([*rng.choices(WORDS, k=7), *extra]).capitalize() + "."

    def write(name: str, rows: list[dict], place: Path = folder) -> None:
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    write("nq-dev", [
        {"id": f"nq-{i}", "question": f"who keeps thing number {i}", "answers": [f"Keeper {i}"], "title": f"Thing {i}",
         "passage": f"{sentence()} Thing number {i} is kept by Keeper {i}. {sentence()}"}
        for i in range(40)
    ])  # fmt: skip
    write("hotpotqa-dev", [
        {"id": f"{i:06x}", "question": f"Where was the brother of person {i} born?", "answer": f"Town {i}", "type": "bridge",
         "paragraphs": [
             {"title": f"Person {i}", "text": f"Person {i} has a brother, Brother {i}.", "gold": True},
             {"title": f"Brother {i}", "text": f"Brother {i} was born in Town {i}.", "gold": True},
             *({"title": f"Other {i} {j}", "text": sentence(), "gold": False} for j in range(4)),
         ]}
        for i in range(8)
    ])  # fmt: skip
    write("fairytaleqa-dev", [
        {"story": f"tale-{i}", "sections": [" ".join(sentence(f"tale{i}") for _ in range(3)) for _ in range(4)],
         "questions": [] if i >= 6 else [
             {"question": f"What happens in part {j} of tale {i}?", "answers": ["nothing", "very little"], "scope": "local",
              "explicit": j % 2 == 0, "about": "action", "evidence": [j]} for j in range(3)]}
        for i in range(9)
    ])  # fmt: skip
    book = "\n\n".join(" ".join(sentence() for _ in range(6)) for _ in range(60))
    write("narrativeqa-dev", [
        {"document_id": f"{i:04x}", "title": f"Book {i}", "author": "A", "in_train_corpus": False,
         "text": f"Book {i}.\n\n\n\n{book[i * 100:]}",
         "questions": [{"question": f"Who is hero {j} of it?", "answers": ["Hero"], "verbatim": j == 0} for j in range(2)]}
        for i in range(4)
    ])  # fmt: skip
    write("qmsum-dev", [
        {"meeting": f"m{i}", "text": book[:1500],
         "questions": [{"question": "What was said?", "answers": ["Much was said."], "general": True}]} for i in range(2)
    ])  # fmt: skip
    write("squality-dev", [
        {"passage_id": str(i), "text": book[:1500],
         "questions": [{"question": "What is the plot?", "answers": ["A plot.", "Another plot."]}]} for i in range(2)
    ])  # fmt: skip

    def identity() -> str:
        return str(uuid.UUID(int=rng.getrandbits(128)))

    for size in (75, 140):
        rows = []
        for i in range(4):
            records = [[identity(), identity()] for _ in range(6)]
            key, value = records[i]
            rows.append({"id": f"kv{size}-{i}", "records": records, "key": key, "value": value})
        write(f"kv{size}-dev", rows)
    write("clinc150-dev", [
        {"text": f"{sentence()[:-1].lower()} {i}", "label": f"label_{i % 24:02d}", "split": "train"} for i in range(24 * 12)
    ])  # fmt: skip
    code = "def far_away(x):\n    return x\n\n" + "".join(f"value_{i} = {i}\n" for i in range(400))
    start, target = len(code), "result = far_away(value_3)"
    write("code-test-000", [{"id": "code-1", "text": code + target + "\n"}], folder.parent / "corpus")
    row = {"doc_id": "code-1", "source": "a/b", "license": "MIT", "shard": "code-test-000", "line_start": start,
           "line_end": start + len(target), "name": "far_away", "gap_chars": start, "bucket": "4-16K", "target": target}  # fmt: skip
    write("codelong-dev", [row, row])
    return folder
