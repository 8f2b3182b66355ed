"""`sharedllm qa`: questions about long texts, answered by a memory and by the strongest simple alternatives."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ..systems import SYSTEMS
from ..utils.errors import UserError
from .common import ResultsOption, check_model, note, progress_bar, tokens_of_length

DataOption = Annotated[Path, typer.Option("--data", help="Folder with the sets, NAME-dev.jsonl.zst or NAME.jsonl.")]
SetOption = Annotated[str, typer.Option("--set", help="Set of questions: nq, hotpotqa, fairytaleqa, keys-4, … .")]
LengthOption = Annotated[str, typer.Option("--length", help="Tokens of a text: 8K, 128K, 1M; 0: single documents.")]
HalfOption = Annotated[str, typer.Option("--half", help="even (to choose settings), odd (to report) or all ids.")]
QuotedOption = Annotated[bool, typer.Option("--quoted", help="Quote every question in the text, away from its answer.")]
PerTextOption = Annotated[int, typer.Option(min=1, help="Most questions about one text.")]
QuestionsOption = Annotated[int, typer.Option("-n", "--questions", min=1, help="Number of questions over all texts.")]
EmbeddingsOption = Annotated[str, typer.Option(help="Sentence encoder for minilm: a folder or hub id.")]
# What answers where no system is named. A SharedLLM is measured beside its own pieces as text, which follow it.
TEXT_SYSTEMS = "closed,wrong,oracle-text,bm25-text"
OWN_SYSTEMS = "sharedllm,same-pieces-text"


def command(
    model: Annotated[
        str, typer.Argument(callback=check_model, help="A SharedLLM, or an ordinary model, which is then the base.")
    ],
    data: DataOption,
    output: ResultsOption,
    sets: SetOption = "nq",
    length: LengthOption = "32K",
    system: Annotated[
        str | None,
        typer.Option(
            help=f"Names, separated by commas: {', '.join(n for n, s in SYSTEMS.items() if s.asked)}. "
            f"Default: {TEXT_SYSTEMS}, and for a SharedLLM {OWN_SYSTEMS} before them."
        ),
    ] = None,
    budgets: Annotated[str, typer.Option(help="Tokens of the text shown for a question.")] = "512",
    base: Annotated[
        str | None,
        typer.Option(callback=check_model, help="The base of a SharedLLM, for systems that answer from text."),
    ] = None,
    embeddings: EmbeddingsOption = "",
    questions: QuestionsOption = 50,
    per_text: PerTextOption = 50,
    half: HalfOption = "odd",
    quoted: QuotedOption = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of texts and their order.")] = 0,
    limit_s: Annotated[
        float, typer.Option(min=0, help="Longest time for full attention to read a text, in seconds; inf: no limit.")
    ] = 3600,
    plot: Annotated[
        bool, typer.Option("--plot", help="Draw scores by length, and time by number of questions.")
    ] = False,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="Ask nothing, but write texts and questions as token ids in this folder, for a system outside the package. "
            "Its replies are scored by --system replies:FILE."
        ),
    ] = None,
    about: Annotated[str, typer.Option(help="Description of the model, shown next to the figures.")] = "",
) -> None:
    """Ask many questions about packed texts and report scores, intervals and cost of each system."""
    from ..causal_lm import SharedLLMForCausalLM
    from ..evaluation.qa.meter import Meter
    from ..evaluation.qa.outside import write_prompts
    from ..evaluation.qa.plot import draw
    from ..evaluation.qa.reader import Reader
    from ..evaluation.qa.report import write_report
    from ..evaluation.qa.run import Plan, measure
    from ..evaluation.qa.sets import SETS
    from ..evaluation.qa.systems import Harness, Resources, listed
    from ..memory.fingerprint import model_identity
    from .loading import check_named_base, load_any

    names = None if system is None else listed(system)
    asked = [SETS.find(one.strip()) for one in sets.split(",")]
    spec = text_spec(data, length, half, per_text, seed)
    _check_budgets(budgets)
    if base is not None:
        check_named_base(base)
    loaded, tokenizer = load_any(model)
    shared = loaded if isinstance(loaded, SharedLLMForCausalLM) else None
    if shared is not None and base is None:
        raise UserError("--base is missing: name the model that the SharedLLM was made from, for the other systems.")
    names = names or listed(TEXT_SYSTEMS if shared is None else f"{OWN_SYSTEMS},{TEXT_SYSTEMS}")
    meter = Meter(tokenizer)
    plans = [Plan(one, spec, names, (), questions, quoted) for one in asked]
    texts = [plan.texts(meter) for plan in plans]
    plain = loaded if base is None else load_any(base)[0]
    harness = Harness(Reader(plain, tokenizer), meter)
    sizes = [tokens_of_length(part, harness.reader.window, "--budgets") for part in budgets.split(",")]
    models = {role: model_identity(m) for role, m in (("base", plain), ("sharedllm", shared)) if m is not None}

    def memory(name: str):
        from ..evaluation.qa.memory import Memory

        assert shared is not None
        return Memory(shared, tokenizer, meter, name.partition(":")[2])

    if prompts is not None:
        for plan, some in zip(plans, texts, strict=True):
            path = prompts / f"{plan.label}.jsonl"
            write_prompts(path, plan, some, harness.reader)
            note(f"wrote {path}")
        return
    for plan, some in zip(plans, texts, strict=True):
        resources = Resources(harness, some, embeddings, limit_s, seed, None if shared is None else memory)
        measure(replace(plan, budgets=sizes), some, resources, output, models, about, note, progress_bar)
    note(f"wrote {write_report(output)}")
    for path in draw(output) if plot else []:
        note(f"wrote {path}")


def _check_budgets(budgets: str) -> None:
    """
    Raises:
        UserError: one is no number of tokens, or 0.
    """
    if any(tokens_of_length(part, 1, "--budgets") == 0 for part in budgets.split(",")):
        raise UserError(
            f"--budgets {budgets}: with no token of the text there is nothing to compare; --system closed is that."
        )


def text_spec(data: Path, length: str, half: str, per_text: int, seed: int):
    """The texts that the options ask for.

    Raises:
        UserError: --data is no folder, or --half is not known.
    """
    from ..evaluation.qa.sets import TextSpec

    if not data.is_dir():
        raise UserError(f"--data {data} is not a folder: name the one with the question sets.")
    if half not in ("even", "odd", "all"):
        raise UserError(f"--half {half!r} is not known: use even, odd or all.")
    return TextSpec(data, tokens_of_length(length, 1, "--length"), half, per_text, seed)
