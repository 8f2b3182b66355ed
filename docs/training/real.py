"""What the training of recipes/real-cpu.yaml did to the loss of validation text.

    python docs/training/real.py loss RUN CHECKPOINT    # prints lines for real/loss.jsonl; RUN: a run's folder, CHECKPOINT: a
                                                        # folder in RUN/checkpoints, or 0 for the model before training
    python docs/training/real.py text RUN CHECKPOINT    # the same with the context as text in the window, without a memory
    python docs/training/real.py untrained RUN          # prints lines for real/untrained.jsonl: RUN's model before training, by setting
    python docs/training/real.py tables                 # fills in the tables of real.md from the files in real/, and draws real/loss.png

Targets are those of the recipe's validation: the last half of running text. Before them come the first half, and before that no
context, its own, or as much of another document of the same kind, each as a memory; or its own as text in the window: all of it,
its end, or the pieces that BM25 finds by the first half. The last two have as many tokens as the memory keeps.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import mean, stdev

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sharedllm.context.pieces import choose_pieces, cut_pieces
from sharedllm.context.stops import stops
from sharedllm.data.shards import TokenStore
from sharedllm.model.targets import IGNORE
from sharedllm.scoring.words import WordIndex
from sharedllm.training.losses import RowLosses, autocast
from sharedllm.training.parts import add_lora, frozen_in, learning_rates
from sharedllm.training.recipe import Recipe
from sharedllm.training.recipe_file import build_recipe
from sharedllm.training.setup import make_model, make_tokenizer
from sharedllm.training.validate import choose_targets
from sharedllm.utils.drawing import pyplot
from sharedllm.utils.text import decode

HERE = Path(__file__).parent / "real"
PAGE = HERE.parent / "real.md"
ROWS, WINDOWS = 8, (1, 3)
# Tokens of the context for each that the memory keeps.
KEPT = 8
TOKENS_A_STEP = 8192
AVERAGED = 20
# Settings whose effect on an untrained memory is measured, with shorter targets after the longest context.
UNTRAINED = {
    "without `anchor`": {"anchor": False},
    **{f"… read by layer {n} alone": {"anchor": False, "injection_map": [[n, n]]} for n in (0, 2)},
    "**`anchor`: the first token does not see the memory**": {},
    "… strides 32/16/8": {"strides": [32, 16, 8]},
}
FEW_ROWS, SHORT = 2, 512


def recipe_of(run: Path, settings: dict | None = None) -> Recipe:
    """The recipe of a run. settings: of the model, in place of the recipe's."""
    keys = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
    keys["model"] |= settings or {}
    # JSON has no numbers as keys.
    return build_recipe(keys | {"distractors": {int(n): share for n, share in keys["distractors"].items()}})


def load(recipe: Recipe, checkpoint: Path | None) -> RowLosses:
    """The model of a checkpoint as it trains: its adapters are not added to the weights, which would round them."""
    model = make_model(recipe, make_tokenizer(recipe))
    assert recipe.lora is not None
    losses = RowLosses(add_lora(model, recipe.lora, recipe.train), empty=recipe.control == "empty")
    trained = learning_rates(losses, recipe.train, model.config)
    frozen_in(losses, torch.bfloat16)
    if checkpoint is not None:
        weights = load_file(checkpoint / "weights.safetensors")
        assert weights.keys() == trained.keys()
        losses.load_state_dict(weights, strict=False)
    return losses.eval()


def selected(tokenizer: PreTrainedTokenizerBase, context: Tensor, asked: Tensor, budget: int) -> Tensor:
    """The pieces of a context (C,) that BM25 finds by other text (A,), in the context's order: (at most `budget`,)."""
    start, end = torch.tensor([0]), torch.tensor([len(context)])
    pieces = cut_pieces(stops(tokenizer, context), start, end)
    spans = zip(pieces.start.tolist(), pieces.end.tolist(), strict=True)
    index = WordIndex(tokenizer.batch_decode([context[start:end].tolist() for start, end in spans]))
    chosen = choose_pieces(index.scores(decode(tokenizer, asked.tolist())), pieces, budget)
    return context[pieces[chosen].slots()]


@torch.no_grad()
def measure(run: Path, checkpoint: str, as_text: bool) -> Iterator[dict]:
    recipe = recipe_of(run)
    window, tokenizer = recipe.model["window"], make_tokenizer(recipe)
    # Text has to fit into the window, or its beginning becomes a memory.
    settings = {"window": 2 * (max(WINDOWS) + 1) * window} if as_text else None
    losses = load(recipe_of(run, settings), run / "checkpoints" / checkpoint if checkpoint != "0" else None)
    about = {"run": run.name, "step": int(checkpoint.rpartition("-")[2])}
    for domain in recipe.data.sources:
        running, before, labels = targets_of(recipe, domain, recipe.running, max(WINDOWS) * window, ROWS)
        ways = ("full", "last", "selected") if as_text else ("own", "other") if not losses.empty else ()
        cases = [("none", 0)] * (not as_text) + [(way, n * window) for n in WINDOWS for way in ways]
        for row in range(ROWS):
            for way, length in cases:
                # The other text is the next row's, which is of another document.
                context = before[(row + (way == "other")) % ROWS, before.shape[1] - length :]
                if way == "last":
                    context = context[-(length // KEPT) :]
                elif way == "selected":
                    context = selected(tokenizer, context, running[row, : running.shape[1] // 2], length // KEPT)
                ids, one, wanted = context[None], running[[row]], labels[[row]]
                if as_text:
                    one, wanted = torch.cat([ids, one], 1), torch.cat([torch.full_like(ids, IGNORE), wanted], 1)
                    ids = ids[:, :0]
                loss = loss_of(losses, recipe, one, wanted, ids)
                yield about | {"domain": domain, "row": row, "text": way, "context": length, "loss": loss}


@torch.no_grad()
def untrained(run: Path) -> Iterator[dict]:
    for setting, settings in UNTRAINED.items():
        recipe = recipe_of(run, settings)
        losses = load(recipe, None)
        for domain in recipe.data.sources:
            context = max(WINDOWS) * recipe.model["window"]
            running, before, labels = targets_of(recipe, domain, SHORT, context, FEW_ROWS)
            for row in range(FEW_ROWS):
                contexts = {"none": before[[row], :0], "own": before[[row]], "other": before[[(row + 1) % FEW_ROWS]]}
                for text, ids in contexts.items():
                    loss = loss_of(losses, recipe, running[[row]], labels[[row]], ids)
                    yield {"setting": setting, "domain": domain, "row": row, "text": text, "loss": loss}


def targets_of(recipe: Recipe, domain: str, running: int, context: int, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Running text (rows, running), the text before it (rows, context), and labels of the running text's second half."""
    store = TokenStore(Path(recipe.data.folder) / f"{domain}-validation", "train")
    targets = choose_targets(store, running, context, rows, 1)
    text, before = torch.from_numpy(targets.running), torch.from_numpy(targets.before)
    labels = text.clone()
    labels[:, : running // 2] = IGNORE
    return text, before, labels


def loss_of(losses: RowLosses, recipe: Recipe, running: Tensor, labels: Tensor, context: Tensor) -> float:
    """Of one row, in nats a token, after a context (1, C) that is read into a memory; of no tokens: without one."""
    with autocast(running.device, recipe.precision):
        found = losses(running, torch.ones_like(running).bool(), labels, context, torch.ones_like(context).bool())
    return float(found.loss)


def untrained_table() -> str:
    cells: dict[tuple[str, str], list[float]] = defaultdict(list)
    for r in read("untrained.jsonl"):
        cells[r["setting"], r["text"]].append(r["loss"])
    lines = ["| memory | own text | another text |", "|---|--:|--:|"]
    for setting in UNTRAINED:
        alone = cells[setting, "none"]
        own, other = (
            interval(a - b for a, b in zip(cells[setting, text], alone, strict=True)) for text in ("own", "other")
        )
        lines.append(f"| {setting} | {own} | {other} |")
    return "\n".join(lines)


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


CONTEXTS = {
    "none": "none",
    "own": "{n:,} tokens of its own text, as a memory",
    "other": "{n:,} tokens of another text, as a memory",
    "full": "{n:,} tokens of its own text, as text",
    "last": "the last {kept:,} of them, as text",
    "selected": "{kept:,} of them that BM25 finds, as text",
}


def loss_table() -> str:
    """Differences are paired by text: to the same model without a context, to the control of as many tokens, without one
    too, and to another text's memory."""
    cells: dict[tuple, dict[tuple, float]] = defaultdict(dict)
    for r in read("loss.jsonl"):
        name = "before training" if not r["step"] else "control" if r["run"] == "control" else "ours"
        cells[name, r["step"], r["text"], r["context"]][r["domain"], r["row"]] = r["loss"]
    lines = [
        "| model | context | n | loss | minus without a context | minus the control | minus another text's memory |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    order = ["before training", "control", "ours"]
    for name, step, text, n in sorted(cells, key=lambda c: (c[1], order.index(c[0]), c[3], list(CONTEXTS).index(c[2]))):
        cell = cells[name, step, text, n]
        against = (name, step, "none", 0), ("control", step, "none", 0), (name, step, "other", n)
        wanted = text != "none", name == "ours", text == "own"
        changes = [
            interval(cell[key] - cells[other][key] for key in cell) if want else ""
            for other, want in zip(against, wanted, strict=True)
        ]
        model = name if not step else f"{name}, {step * TOKENS_A_STEP / 1e6:.0f}M tokens"
        what = CONTEXTS[text].format(n=n, kept=n // KEPT)
        lines.append(f"| {model} | {what} | {len(cell)} | {mean(cell.values()):.3f} | {' | '.join(changes)} |")
    return "\n".join(lines)


def domain_table() -> str:
    """What the memory gives the model that was trained the longest, by kind of text."""
    rows = [r for r in read("loss.jsonl") if r["run"] != "control" and r["text"] in ("none", "own", "other")]
    last = max(r["step"] for r in rows)
    cells: dict[tuple, dict[int, float]] = defaultdict(dict)
    for r in rows:
        if r["step"] == last:
            cells[r["domain"], r["text"], r["context"]][r["row"]] = r["loss"]
    lines = ["| kind | context | n | minus without a context | minus another text's memory |", "|---|--:|--:|--:|--:|"]
    for domain, n in sorted((domain, n) for domain, text, n in cells if text == "own"):
        own, none, other = (cells[domain, text, m] for text, m in (("own", n), ("none", 0), ("other", n)))
        changes = [interval(own[row] - than[row] for row in own) for than in (none, other)]
        lines.append(f"| {domain} | {n:,} | {len(own)} | {' | '.join(changes)} |")
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


def filled(page: str, name: str, table: str) -> str:
    """The page with a table between its marks."""
    before, start, rest = page.partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition("<!-- end -->")
    assert start and end, name
    return f"{before}{start}{table}\n{end}{after}"


def tables() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name, table in (
        ("untrained", untrained_table()),
        ("validation", loss_table()),
        ("domains", domain_table()),
        ("steps", step_table()),
    ):
        page = filled(page, name, table)
    PAGE.write_text(page, encoding="utf-8")
    draw()


if __name__ == "__main__":
    if sys.argv[1] == "tables":
        tables()
    else:
        run = Path(sys.argv[2])
        records = untrained(run) if sys.argv[1] == "untrained" else measure(run, sys.argv[3], sys.argv[1] == "text")
        for record in records:
            print(json.dumps(record), flush=True)
