"""The model card of a trained model: a README.md in the form of the Hugging Face hub, from the recipe and the log."""

from pathlib import Path

import yaml
from transformers import PreTrainedConfig

from ..model.config import SharedLLMConfig
from .log import read_log
from .recipe import Recipe

USE = {
    "base": """from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained("FOLDER"), AutoTokenizer.from_pretrained("FOLDER")
""",
    "extended": """import sharedllm  # registers the model's class with transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained("FOLDER"), AutoTokenizer.from_pretrained("FOLDER")
ids = tokenizer(open("book.txt").read(), return_tensors="pt").input_ids
model.generate(ids, max_new_tokens=50)   # text beyond the window is read into a memory
""",
    "adapter": """sharedllm extend BASE --adapter FOLDER -o MODEL
""",
}


def model_card(recipe: Recipe, config: PreTrainedConfig, parameters: int, log: Path) -> str:
    """The card's text.

    Args:
        config: of the trained model. parameters: how many it has. log: the run's log.jsonl.
    """
    extended = isinstance(config, SharedLLMConfig)
    use = f"```python\n{USE['extended' if extended else 'base']}```"
    return _card(recipe, config, f"{parameters:,} parameters", use, log)


def adapter_card(recipe: Recipe, config: PreTrainedConfig, parameters: int, log: Path) -> str:
    """The card of an adapter of so many parameters; otherwise as `model_card`."""
    about = f"An adapter of {parameters:,} parameters for a base that it does not hold"
    return _card(recipe, config, about, f"```sh\n{USE['adapter']}```", log)


def _card(recipe: Recipe, config: PreTrainedConfig, what: str, use: str, log: Path) -> str:
    extended = isinstance(config, SharedLLMConfig)
    tags = [] if recipe.stage == "base" else [recipe.system, "long-context", "arxiv:2603.04759"][: 3 if extended else 1]
    about = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        # Local folders mean nothing to others.
        **({"base_model": recipe.base} if _on_hub(recipe.base) else {}),
        "tags": tags,
    }
    source = f", from `{recipe.base}`" if recipe.base else ", from random weights"
    shares = ", ".join(f"{name} {share:.0%}" for name, share in recipe.domain_weights().items())
    kinds = [", ".join(f"{kind} {weight:g}" for kind, weight in phase.kinds.items()) for phase in recipe.phases()]
    lines = [
        f"---\n{yaml.safe_dump(about, sort_keys=False)}---",
        f"# {Path(recipe.output).name}",
        f"{what}, stage `{recipe.stage}`, system `{recipe.system}`{source}.",
    ]
    if extended:
        lines.append(_settings(config))
    lines += [
        "## Use",
        use,
        "## Training",
        f"{recipe.steps:,} steps of {recipe.batch_tokens:,} tokens ({recipe.steps * recipe.batch_tokens:,}), "
        f"{recipe.context} of context and {recipe.running} of running text per sample unless a phase says otherwise; "
        f"{recipe.optimizer}, learning rates {recipe.train}, {recipe.decay}, {recipe.precision}, seed {recipe.seed}.",
        f"Data: {shares}. Kinds of samples, phase by phase: {'; '.join(dict.fromkeys(kinds))}.",
        "The whole recipe is in `recipe.json`, every step in `log.jsonl` of the run.",
        *_results(log),
        "## Limits",
        "The trainer wrote this card. Whoever releases the model has to add what the data contain and leave out, and the "
        "licences of data and weights.",
    ]
    return "\n\n".join(lines) + "\n"


def extended_card(name: str, base: str, config: SharedLLMConfig, parameters: int) -> str:
    """The card of a base that is extended and not trained."""
    about = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        **({"base_model": base} if _on_hub(base) else {}),
        "tags": ["sharedllm", "long-context", "arxiv:2603.04759"],
    }
    untrained = (
        "Its cross-attention adds nothing until it is trained."
        if config.injection == "cross"
        else "Nothing was trained: the weights are the base's."
    )
    lines = [
        f"---\n{yaml.safe_dump(about, sort_keys=False)}---",
        f"# {name}",
        f"{parameters:,} parameters, made from `{Path(base).name if not _on_hub(base) else base}` with `sharedllm extend`. "
        f"{untrained}",
        _settings(config),
        "## Use",
        f"```python\n{USE['extended']}```",
        "## Limits",
        "`sharedllm extend` wrote this card. The base's own card and licence apply to its weights.",
    ]
    return "\n\n".join(lines) + "\n"


def _settings(config: SharedLLMConfig) -> str:
    return (
        f"Window {config.window}; chunks of {config.chunk_size}, overlap {config.overlap}; strides "
        f"{', '.join(map(str, config.strides))}; {config.lower_layers} lower layers, weights `{config.lower_weights}`; "
        f"encoding `{config.encoding}`, injection `{config.injection}`, layers {config.injection_map}."
    )


def _on_hub(base: str | None) -> bool:
    return base is not None and base.count("/") == 1 and not Path(base).exists()


def _results(log: Path) -> list[str]:
    """The last validation as a table: loss in nats by domain and context length, and recall."""
    records = read_log(log)
    found = [record["validation"] for record in records if "validation" in record]
    if not found:
        return []
    domains = {name: losses for name, losses in found[-1].items() if name != "recall"}
    lengths = sorted({length for losses in domains.values() for length in losses}, key=int)
    lines = ["| loss, nats per token | " + " | ".join(f"after {int(n):,}" for n in lengths) + " |"]
    lines.append("|---|" + "--:|" * len(lengths))
    for name, losses in domains.items():
        lines.append(f"| {name} | " + " | ".join(f"{losses[n]:.3f}" if n in losses else "–" for n in lengths) + " |")
    parts = ["## Validation at the end", "\n".join(lines)] if lengths else []
    before = next((record["before"] for record in records if "before" in record), {})
    if kept := [
        f"{name} {before[name]:.3f} → {domains[name]['0']:.3f}" for name in before if "0" in domains.get(name, {})
    ]:
        parts.append(f"Inside the window, without a context, before training → now: {', '.join(kept)}.")
    if recalled := found[-1].get("recall"):
        parts.append(
            "Samples recalled whole: " + ", ".join(f"{kind} {share:.0%}" for kind, share in recalled.items()) + "."
        )
    return parts
