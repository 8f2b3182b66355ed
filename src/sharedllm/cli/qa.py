"""`sharedllm qa`: questions about long texts, answered by a memory and by the strongest simple alternatives."""

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


def command(
    model: Annotated[
        str, typer.Argument(callback=check_model, help="A SharedLLM, or an ordinary model, which is then the base.")
    ],
    data: DataOption,
    output: ResultsOption,
    sets: SetOption = "nq",
    length: LengthOption = "32K",
    system: Annotated[
        str,
        typer.Option(help=f"Names, separated by commas: {', '.join(n for n, s in SYSTEMS.items() if s.asked)}."),
    ] = "closed,wrong,oracle-text,bm25-text",
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
    limit_s: Annotated[float, typer.Option(help="Longest time for full attention to read a text, in seconds.")] = 3600,
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
    from ..evaluation.qa.systems import Harness, Resources
    from ..memory.fingerprint import fingerprint_tensors
    from .loading import load_any

    loaded, tokenizer = load_any(model)
    shared = loaded if isinstance(loaded, SharedLLMForCausalLM) else None
    if shared is not None and base is None:
        raise UserError("--base is missing: name the model that the SharedLLM was made from, for the other systems.")
    plain = loaded if base is None else load_any(base)[0]
    meter = Meter(tokenizer)
    harness = Harness(Reader(plain, tokenizer), meter)
    names = [part.strip() for part in system.split(",") if part.strip()]
    sizes = [tokens_of_length(part, harness.reader.window, "--budgets") for part in budgets.split(",")]
    models = {role: fingerprint_tensors(sorted(m.state_dict().items()), {}) for role, m in
              (("base", plain), ("sharedllm", shared)) if m is not None}  # fmt: skip

    def memory(name: str):
        from ..evaluation.qa.memory import Memory

        assert shared is not None
        return Memory(shared, tokenizer, meter, name.partition(":")[2])

    spec = text_spec(data, length, half, per_text, seed)
    plans = [Plan(SETS.find(one.strip()), spec, names, sizes, questions, quoted) for one in sets.split(",")]
    if prompts is not None:
        for plan in plans:
            path = prompts / f"{plan.label}.jsonl"
            write_prompts(path, plan, plan.texts(meter), harness.reader)
            note(f"wrote {path}")
        return
    for plan in plans:
        texts = plan.texts(meter)
        resources = Resources(harness, texts, embeddings, limit_s, seed, None if shared is None else memory)
        measure(plan, texts, resources, output, models, about, note, progress_bar)
    note(f"wrote {write_report(output)}")
    for path in draw(output) if plot else []:
        note(f"wrote {path}")


def text_spec(data: Path, length: str, half: str, per_text: int, seed: int):
    """The texts that the options ask for.

    Raises:
        UserError: --half is not known.
    """
    from ..evaluation.qa.sets import TextSpec

    if half not in ("even", "odd", "all"):
        raise UserError(f"--half {half!r} is not known: use even, odd or all.")
    return TextSpec(data, tokens_of_length(length, 1, "--length"), half, per_text, seed)
