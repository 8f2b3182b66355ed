"""What the training of recipes/real-band.yaml did: a memory of the layers 8 … 17, and text in the window, before and after.

    python docs/training/band.py measure RUN CHECKPOINT >> docs/training/real/band.jsonl   # also for the control
    python docs/training/band.py lengths RUN CHECKPOINT >> docs/training/real/band.jsonl   # by the length of the memory
    python docs/training/band.py base RUN BASE OUT                          # the trained weights as an ordinary checkpoint
    python docs/training/band.py asked RUN FOLDER… >> docs/training/real/band.jsonl   # what `sharedllm qa` asked a model of it
    python docs/training/band.py tables                                                    # fills in the tables of real.md

Texts and targets of `measure` are those of depths.py, so before the training its results stand in depths.jsonl.
"""

import json
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from statistics import fmean

import torch
from depths import BAND, ROWS, STRIDES, minus
from depths import cells as untrained
from real import KEPT, PAGE, SHORT, TOKENS_A_STEP, WINDOWS, filled, load, loss_of, read, recipe_of, selected, targets_of
from safetensors.torch import load_file, save_file

from sharedllm.evaluation.qa import report as qa
from sharedllm.model.targets import IGNORE
from sharedllm.training.setup import make_tokenizer

# Windows of the recipe before the same targets, and the texts of each kind. Few documents are long enough for the last.
LENGTHS = (((1, 3, 7), ROWS), ((3, 15), ROWS // 2))
SEEDS = (0, 1)
# Most tokens of text in the window beside them.
MOST = 768
ASKED = {
    "closed": "closed book",
    "sharedllm": "a memory of {} tokens",
    "same-pieces-text": "the same pieces of {} tokens as text",
}
WAYS = {
    "own": "the memory of its own 6,144 tokens",
    "other": "the memory of another text",
    "last": "the last 768 as text",
    "last, memory": "the last 768 as text, the memory of the rest",
    "selected": "768 that BM25 finds, as text",
    "selected, memory": "768 that BM25 finds, as text, and the memory",
}


@torch.no_grad()
def measured(run: Path, checkpoint: str) -> Iterator[dict]:
    recipe = recipe_of(run)
    losses, tokenizer = load(recipe, run / "checkpoints" / checkpoint), make_tokenizer(recipe)
    context = max(WINDOWS) * recipe.model["window"]
    for domain in recipe.data.sources:
        running, before, labels = targets_of(recipe, domain, SHORT, context, ROWS)
        nothing = before[0, :0]
        for row in range(ROWS):
            kept, own = context // KEPT, before[row]
            found = selected(tokenizer, own, running[row, : SHORT // 2], kept)
            # Text in the window, and the memory beside it. The other text is that of the row beside it.
            cases = {"none": (nothing, nothing), "last": (own[-kept:], nothing), "selected": (found, nothing)}
            if not losses.empty:
                cases |= {"own": (nothing, own), "other": (nothing, before[row ^ 1])}
                cases |= {"last, memory": (own[-kept:], own[:-kept]), "selected, memory": (found, own)}
            for way, (text, memory) in cases.items():
                ids = torch.cat([text, running[row]])[None]
                wanted = torch.cat([torch.full_like(text, IGNORE), labels[row]])[None]
                about = {"run": run.name, "seed": recipe.seed, "checkpoint": checkpoint, "domain": domain, "row": row}
                yield about | {"text": way, "loss": loss_of(losses, recipe, ids, wanted, memory[None])}


@torch.no_grad()
def by_length(run: Path, checkpoint: str) -> Iterator[dict]:
    """The same targets after more and more of the text before them: as a memory, and what BM25 finds in it as text in the window."""
    recipe = recipe_of(run)
    losses, tokenizer = load(recipe, run / "checkpoints" / checkpoint), make_tokenizer(recipe)
    window = recipe.model["window"]
    for lengths, rows in LENGTHS:
        longest = max(lengths) * window
        for domain in recipe.data.sources:
            running, before, labels = targets_of(recipe, domain, SHORT, longest, rows)
            for row, length in product(range(rows), (0, *(n * window for n in lengths))):
                context = before[row, longest - length :]
                nothing = context[:0]
                # The control reads no memory, so without text its loss is the same for all lengths.
                shown = {} if length and losses.empty else {"": nothing}
                if length:
                    most = min(length // KEPT, MOST)
                    shown["selected"] = selected(tokenizer, context, running[row, : SHORT // 2], most)
                for beside, text in shown.items():
                    ids = torch.cat([text, running[row]])[None]
                    wanted = torch.cat([torch.full_like(text, IGNORE), labels[row]])[None]
                    loss = loss_of(losses, recipe, ids, wanted, (nothing if losses.empty else context)[None])
                    about = {"run": run.name, "checkpoint": checkpoint, "domain": domain, "row": row}
                    yield about | {"longest": longest, "length": length, "beside": beside, "loss": loss}


def export(run: Path, base: Path, out: Path) -> None:
    """Write the weights that a run trained as a checkpoint of the base's own kind, for `sharedllm extend`."""
    trained, plain = (load_file(folder / "model.safetensors") for folder in (run / "model", base))
    weights = {name: trained.get(name, trained.get(name.replace("model.", "model.upper.", 1))) for name in plain}
    assert all(weights[name].shape == tensor.shape for name, tensor in plain.items())
    shutil.copytree(base, out, ignore=shutil.ignore_patterns("*.gguf", "*.safetensors"))
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})


def asked(run: Path, folders: list[Path]) -> Iterator[dict]:
    """The answers in folders of `sharedllm qa`, by set, length and system."""
    for cell in (cell for folder in folders for cell in qa.load(folder)):
        for c in cell.contenders:
            rows = {key: [row["group"], row["scores"][cell.about["metrics"][0]]] for key, row in c.rows.items()}
            yield {
                "run": run.name,
                "set": cell.about["set"],
                "length": cell.about["length"],
                "system": c.system,
                "rows": rows,
            }


def kept() -> str:
    """Whether what the base knew and could do before the training is lost by it: answers to the same questions."""
    found: dict[tuple, dict[str, qa.Contender]] = defaultdict(dict)
    for r in read("band.jsonl"):
        if "set" in r:
            rows = {
                key: {"question": key, "group": group, "scores": {"": score}}
                for key, (group, score) in r["rows"].items()
            }
            found[r["set"], r["length"], r["system"]][r["run"]] = qa.Contender(r["system"], None, rows, [])
    lines = [
        "| | n | before | ours | the control | ours, difference | the control, difference |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for (name, length, system), runs in found.items():
        before, *after = (runs[run] for run in ("base", "real-band", "band-control"))
        shown = [f"{100 * qa.estimate(list(c.rows.values()), '').mean:.1f}" for c in (before, *after)]
        changed = [c for c in (qa.difference(c, before, "") for c in after) if c]
        what = f"{name}, {ASKED[system].format(f'{length // 1024}K')}"
        lines.append(
            f"| {what} | {len(before.rows)} | {' | '.join(shown)} | {' | '.join(qa.shown(c, True) for c in changed)} |"
        )
    return "\n".join(lines)


def cells(*names: str, seed: int = 0) -> dict[tuple, dict[tuple, float]]:
    """Losses by domain and row of one seed, by run, steps of training and the values of fields."""
    found: dict[tuple, dict[tuple, float]] = defaultdict(dict)
    for r in read("band.jsonl"):
        if all(name in r for name in names) and r.get("seed", 0) == seed:
            run = "control" if "control" in r["run"] else "ours"
            step = int(r["checkpoint"].removeprefix("step-"))
            found[run, step, *(r[name] for name in names)][r["domain"], r["row"]] = r["loss"]
    return found


def tokens(step: int) -> str:
    """How many tokens were trained on after so many steps."""
    return f"{step * TOKENS_A_STEP / 1e6:.2f}M"


def by_way() -> str:
    before, every = untrained(), cells("text")
    last = max(step for _, step, _ in every)
    after = {(run, way): found for (run, step, way), found in every.items() if step == last}
    lines = [
        "| after | untrained, minus without | trained, minus without | minus the control without | minus the control with the "
        "same text | minus itself with that text alone |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for way, what in WAYS.items():
        old = before[(), (), way] or before[BAND, STRIDES[0], way]
        new, text = after["ours", way], way.removesuffix(", memory")
        against = [(old, before["none"]), (new, after["ours", "none"]), (new, after["control", "none"])]
        against += [(new, after.get(("control", text), {})), (new, after["ours", text] if text != way else {})]
        lines.append(f"| {what} | {' | '.join(minus(one, two) if two else '' for one, two in against)} |")
    return "\n".join(lines)


# What the memory gives: a run and what it is shown, minus another.
GAINS = {
    "the memory, minus the control without": ("ours", "own", "control", "none"),
    "the memory, minus another text's": ("ours", "own", "ours", "other"),
    "the last 768 as text and the memory, minus the control with that text": ("ours", "last, memory", "control", "last"),
    "768 that BM25 finds and the memory, minus the control with that text":
        ("ours", "selected, memory", "control", "selected"),
    "no context, minus the control": ("ours", "none", "control", "none"),
}  # fmt: skip


def gains(columns: dict[str, dict[tuple, dict[tuple, float]]]) -> str:
    """A column for each training, by its title: losses by text, by run and what it is shown."""
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'--:|' * len(columns)}"]
    for what, (one, way, two, other) in GAINS.items():
        shown = (minus(found[one, way], found[two, other]) for found in columns.values())
        lines.append(f"| {what} | {' | '.join(shown)} |")
    return "\n".join(lines)


def growth() -> str:
    """What the memory gives after more and more training."""
    every = cells("text")
    steps = sorted({step for _, step, _ in every})
    return gains({
        f"{tokens(step)} tokens": {(run, way): found for (run, at, way), found in every.items() if at == step}
        for step in steps
    })  # fmt: skip


def seeds() -> str:
    """What it gives after the first of these trainings, by seed, and by the mean of each text's losses over the seeds."""
    by_seed = [cells("text", seed=seed) for seed in SEEDS]
    first = min(step for _, step, _ in by_seed[0])
    found = [{(run, way): cell for (run, step, way), cell in every.items() if step == first} for every in by_seed]
    mean = {key: {text: fmean(one[key][text] for one in found) for text in cell} for key, cell in found[0].items()}
    return gains({f"seed {seed}": one for seed, one in zip(SEEDS, found, strict=True)} | {"mean of both": mean})


def lengths() -> str:
    every = cells("longest", "length", "beside")
    last = max(step for _, step, *_ in every)
    found = {(run, *place): cell for (run, step, *place), cell in every.items() if step == last}
    lines = [
        "| targets with | n | tokens in the memory | minus without | minus the row above | minus the control without | "
        "what BM25 finds as text: the control, minus without | with the memory, minus the control with that text |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    above = 0
    for run, longest, length, beside in sorted(found):
        if run != "ours" or beside:
            continue
        if length:
            cell, nothing = found[run, longest, length, ""], found["control", longest, 0, ""]
            text, both = found["control", longest, length, "selected"], found[run, longest, length, "selected"]
            more = minus(cell, found[run, longest, above, ""]) if above else ""
            against = (minus(cell, nothing), minus(text, nothing), minus(both, text))
            shown = f"{length:,} | {minus(cell, found[run, longest, 0, ''])} | {more} | {' | '.join(against)}"
            lines.append(f"| {longest:,} tokens before them | {len(cell)} | {shown} |")
        above = length
    return "\n".join(lines)


def by_step(seed: int) -> tuple[dict[int, float], dict[int, float]]:
    """Losses of each step's sample before the step, of text that neither model has read: ours, and the control's."""
    ours, control = (
        {r["step"]: r["loss"]["text"] for r in read(f"band-{run}{f'-{seed}' if seed else ''}.jsonl") if "loss" in r}
        for run in ("ours", "control")
    )
    return ours, control


def steps() -> str:
    """By eighths of the training, and the shorter ones of the other seeds whole."""
    lines = ["| seed | tokens read | ours minus control |", "|--:|---|--:|"]
    for seed in SEEDS:
        ours, control = by_step(seed)
        both = sorted(ours.keys() & control.keys())
        size = -(-len(both) // 8)
        parts = [] if seed else [both[i : i + size] for i in range(0, len(both), size)]
        for part in (*parts, both):
            read_by_then = " … ".join(tokens(n) for n in (part[0], part[-1] + 1))
            lines.append(f"| {seed} | {read_by_then} | {minus({n: ours[n] for n in part}, control)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1] == "tables":
        page = PAGE.read_text(encoding="utf-8")
        for name, table in (
            ("band", by_way()),
            ("band-growth", growth()),
            ("band-seeds", seeds()),
            ("band-lengths", lengths()),
            ("band-steps", steps()),
            ("band-kept", kept()),
        ):
            page = filled(page, name, table)
        PAGE.write_text(page, encoding="utf-8")
    elif sys.argv[1] == "base":
        export(*map(Path, sys.argv[2:5]))
    else:
        run, rest = Path(sys.argv[2]), sys.argv[3:]
        ways = {
            "measure": lambda: measured(run, *rest),
            "lengths": lambda: by_length(run, *rest),
            "asked": lambda: asked(run, [Path(folder) for folder in rest]),
        }
        for record in ways[sys.argv[1]]():
            print(json.dumps(record), flush=True)
