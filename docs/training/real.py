"""What the training of recipes/real-cpu.yaml did to the loss of validation text.

    python docs/training/real.py loss RUN CHECKPOINT    # prints lines for real-loss.jsonl; RUN: a run's folder, CHECKPOINT: a
                                                        # folder in RUN/checkpoints, or 0 for the model before training
    python docs/training/real.py tables                 # fills in the tables of real.md from the files in real/, and draws real/loss.png

Targets are those of the recipe's validation: the last half of running text, after no context, its own, or as much of another
document of the same kind.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import mean, stdev

import torch
from safetensors.torch import load_file

from sharedllm.data.shards import TokenStore
from sharedllm.model.targets import IGNORE
from sharedllm.training.losses import RowLosses, autocast
from sharedllm.training.parts import add_lora, frozen_in, learning_rates
from sharedllm.training.recipe import Recipe
from sharedllm.training.recipe_file import build_recipe
from sharedllm.training.setup import make_model, make_tokenizer
from sharedllm.training.validate import choose_targets
from sharedllm.utils.drawing import pyplot

HERE = Path(__file__).parent / "real"
PAGE = HERE.parent / "real.md"
ROWS, WINDOWS = 8, (1, 3)
AVERAGED = 20


def load(run: Path, checkpoint: str) -> tuple[Recipe, RowLosses]:
    """The model of a checkpoint as it trains: its adapters are not added to the weights, which would round them."""
    keys = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
    # JSON has no numbers as keys.
    recipe = build_recipe(keys | {"distractors": {int(n): share for n, share in keys["distractors"].items()}})
    model = make_model(recipe, make_tokenizer(recipe))
    assert recipe.lora is not None
    losses = RowLosses(add_lora(model, recipe.lora, recipe.train), empty=recipe.control == "empty")
    trained = learning_rates(losses, recipe.train, model.config)
    frozen_in(losses, torch.bfloat16)
    if checkpoint != "0":
        weights = load_file(run / "checkpoints" / checkpoint / "weights.safetensors")
        assert weights.keys() == trained.keys()
        losses.load_state_dict(weights, strict=False)
    return recipe, losses.eval()


@torch.no_grad()
def measure(run: Path, checkpoint: str) -> Iterator[dict]:
    recipe, losses = load(run, checkpoint)
    window = recipe.model["window"]
    about = {"run": run.name, "step": int(checkpoint.rpartition("-")[2])}
    for domain in recipe.data.sources:
        store = TokenStore(Path(recipe.data.folder) / f"{domain}-validation", "train")
        targets = choose_targets(store, recipe.running, max(WINDOWS) * window, ROWS, 1)
        running, before = torch.from_numpy(targets.running), torch.from_numpy(targets.before)
        labels = running.clone()
        labels[:, : running.shape[1] // 2] = IGNORE
        cases = [("none", 0)] + [(text, n * window) for n in WINDOWS for text in ("own", "other")]
        for row in range(ROWS):
            for text, length in cases if not losses.empty else cases[:1]:
                # The other text is the next row's, which is of another document.
                ids = before[[(row + (text == "other")) % ROWS], -length:] if length else before[[row], :0]
                one = running[[row]]
                with autocast(one.device, recipe.precision):
                    loss = losses(one, torch.ones_like(one).bool(), labels[[row]], ids, torch.ones_like(ids).bool())
                yield about | {"domain": domain, "row": row, "text": text, "context": length, "loss": float(loss.loss)}


def interval(differences: Iterable[float]) -> str:
    """Mean ± standard error."""
    values = list(differences)
    return f"{mean(values):+.4f} ± {stdev(values) / len(values) ** 0.5:.4f}" if len(values) > 1 else "–"


def read(name: str) -> list[dict]:
    return [json.loads(line) for line in (HERE / name).read_text(encoding="utf-8").splitlines()]


def training() -> list[tuple[int, float, float]]:
    """Step, and the losses of its sample in ours and in the control, before the step: of text that neither has read."""
    ours, control = (
        {r["step"]: r["loss"]["text"] for r in read(name) if "loss" in r} for name in ("ours.jsonl", "control.jsonl")
    )
    return [(step, ours[step], control[step]) for step in sorted(ours.keys() & control.keys())]


def loss_table() -> str:
    """Differences are paired by text: to the same model without a memory, to the control, and to another text's memory."""
    cells: dict[tuple, dict[tuple, float]] = defaultdict(dict)
    for r in read("loss.jsonl"):
        model = "before training" if not r["step"] else "control" if r["run"] == "control" else "ours"
        cells[model, r["text"], r["context"]][r["domain"], r["row"]] = r["loss"]
    lines = [
        "| model | context | loss | minus without a memory | minus the control | minus another text's memory |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for (model, text, context), cell in cells.items():
        what = "none" if text == "none" else f"{context:,} tokens of its {text} text".replace("its other", "another")
        against = (model, "none", 0), ("control", "none", 0), (model, "other", context)
        wanted = text != "none", model == "ours", text == "own"
        changes = [
            interval(cell[key] - cells[other][key] for key in cell) if want else ""
            for other, want in zip(against, wanted, strict=True)
        ]
        lines.append(f"| {model} | {what} | {mean(cell.values()):.3f} | {' | '.join(changes)} |")
    return "\n".join(lines)


def step_table() -> str:
    steps = training()
    size = max(1, -(-len(steps) // 4))
    lines = ["| steps | ours | control | ours minus control |", "|---|--:|--:|--:|"]
    for part in (*(steps[i : i + size] for i in range(0, len(steps), size)), steps):
        ours, control = mean(o for _, o, _ in part), mean(c for _, _, c in part)
        lines.append(
            f"| {part[0][0]} … {part[-1][0]} | {ours:.3f} | {control:.3f} | {interval(o - c for _, o, c in part)} |"
        )
    return "\n".join(lines)


def draw() -> None:
    plt, steps = pyplot(), training()
    changes = [ours - control for _, ours, control in steps]
    figure, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
    ax.axhline(0, color="black", lw=0.8)
    ax.plot([step for step, _, _ in steps], changes, "o", ms=3, label="one sample")
    last = range(AVERAGED - 1, len(steps))
    means = [mean(changes[i + 1 - AVERAGED : i + 1]) for i in last]
    ax.plot([steps[i][0] for i in last], means, label=f"mean of the last {AVERAGED}")
    ax.set(
        title="loss of each step's sample, before the step: ours minus control", xlabel="step", ylabel="nats a token"
    )
    ax.legend(frameon=False)
    ax.grid(alpha=0.3)
    figure.savefig(HERE / "loss.png", dpi=100)


def tables() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name, table in (("validation", loss_table()), ("steps", step_table())):
        before, start, rest = page.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        assert start and end, name
        page = f"{before}{start}{table}\n{end}{after}"
    PAGE.write_text(page, encoding="utf-8")
    draw()


if __name__ == "__main__":
    if sys.argv[1] == "tables":
        tables()
    else:
        for record in measure(Path(sys.argv[2]), sys.argv[3]):
            print(json.dumps(record), flush=True)
