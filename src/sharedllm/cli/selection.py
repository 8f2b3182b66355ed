"""`sharedllm selection`: how well words, embeddings and a memory's scores find the evidence in long texts."""

from pathlib import Path
from typing import Annotated

import typer

from ..utils.errors import UserError
from .common import check_model, note, output_option
from .qa import (
    DataOption,
    EmbeddingsOption,
    HalfOption,
    LengthOption,
    PerTextOption,
    QuestionsOption,
    QuotedOption,
    SetOption,
    text_spec,
)


def command(
    model: Annotated[
        str, typer.Argument(callback=check_model, help="Model whose tokens are counted; a SharedLLM can also rank.")
    ],
    data: DataOption,
    output: Annotated[Path, output_option("Folder for the results.")],
    sets: SetOption = "nq",
    length: LengthOption = "32K",
    rankings: Annotated[
        str,
        typer.Option(
            help="bm25, words (ours), minilm, minilm-sentences, both (words and minilm-sentences), oracle (shown the evidence), memory:SCORE[~mean], and sums of reciprocal ranks such as bm25+minilm."
        ),
    ] = "bm25",
    embeddings: EmbeddingsOption = "",
    questions: QuestionsOption = 200,
    per_text: PerTextOption = 50,
    half: HalfOption = "odd",
    quoted: QuotedOption = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of texts and their order.")] = 0,
) -> None:
    """Report the share of the evidence among the best 1, 4, 8 and 16 pieces of a text, by ranking."""
    from ..causal_lm import SharedLLMForCausalLM
    from ..evaluation.qa.meter import Meter
    from ..evaluation.qa.rankings import ranking_of
    from ..evaluation.qa.run import Plan
    from ..evaluation.qa.selection import measure_selection, write_selection
    from ..evaluation.qa.sets import SETS
    from ..utils.checkpoints import load_tokenizer
    from .loading import load_any

    wanted = [name.strip() for name in rankings.split(",") if name.strip()]
    if not wanted:
        raise UserError(f"--rankings {rankings!r} names no ranking: give at least one, such as bm25.")
    single = list(dict.fromkeys(part for name in wanted for part in name.split("+")))
    if any(name.startswith("memory:") for name in single):
        loaded, tokenizer = load_any(model)
    else:
        loaded, tokenizer = None, load_tokenizer(model)
    meter = Meter(tokenizer)

    def ranking(name: str):
        if not name.startswith("memory:"):
            return ranking_of(name, embeddings)
        from ..evaluation.qa.memory import MemoryRanking

        if not isinstance(loaded, SharedLLMForCausalLM):
            raise UserError(f"--rankings {name} needs a SharedLLM: make one from {model} with `sharedllm extend`.")
        return MemoryRanking(loaded, tokenizer, meter, name)

    ready = [ranking(name) for name in single]
    hybrids = [name.split("+") for name in wanted if "+" in name]
    for one in sets.split(","):
        plan = Plan(SETS.find(one.strip()), text_spec(data, length, half, per_text, seed), (), (), questions, quoted)
        rows = measure_selection(plan.texts(meter), ready, hybrids, meter, note)
        if not rows:
            raise UserError(f"--set {one} does not say where its answers are: use another set.")
        note(f"wrote {write_selection(output, plan.label, plan.about(), rows)}")
