"""`sharedllm recall`: recall of facts in long texts, by policy and budget; every text is read once."""

from typing import Annotated

import typer

from ..evaluation.recall.forms import FORMS
from ..scoring import SCORES
from ..utils.errors import UserError
from .common import BatchTokensOption, ModelOption, ResultsOption, check_model, note, tokens_of_length


def command(
    data: Annotated[str, typer.Option("--data", help="[DOMAIN=]PATH: a token folder, files or a glob.")],
    output: ResultsOption,
    model: ModelOption = "tiny",
    base: Annotated[
        str,
        typer.Option(
            "--base",
            callback=lambda name: name if name == "none" else check_model(name),
            help="The base, for BM25 into its window; none: skip this.",
        ),
    ] = "base",
    lengths: Annotated[str, typer.Option(help="Tokens of a text: 8K,64K,1M.")] = "8K,64K",
    budgets: Annotated[str, typer.Option(help="Most tokens of the memory that a question reads.")] = "1024,4096",
    scores: Annotated[
        str, typer.Option(help=f"Policies: {SCORES.names}, oracle, or tree (the paper's cut).")
    ] = "focus,bm25,attention,hybrid,oracle,tree",
    cases: Annotated[int, typer.Option(min=1, help="Questions of each kind and length.")] = 100,
    asked: Annotated[str, typer.Option(help=f"How: {', '.join(FORMS)}.")] = "lead",
    per_text: Annotated[int, typer.Option(min=1, help="Questions of each kind about one text.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Seed of texts, facts and places.")] = 0,
    batch_tokens: BatchTokensOption = None,
) -> None:
    """Hide facts in long texts, read each once, and ask about every fact with each policy and budget."""
    from ..evaluation.corpus import open_documents
    from ..evaluation.recall.ask import Asker
    from ..evaluation.recall.report import write_report
    from ..evaluation.recall.run import RecallPlan, measure
    from ..memory.fingerprint import model_identity
    from .loading import check_named_base, load, load_any

    names = [name.strip() for name in scores.split(",") if name.strip()]
    for name in names:
        if name not in (*SCORES, "oracle", "tree"):
            raise UserError(f"--scores: {name!r} is not known: use {SCORES.names}, oracle or tree.")
    if asked not in FORMS:
        raise UserError(f"--asked {asked!r} is not known: use one of {', '.join(FORMS)}.")
    if base != "none":
        check_named_base(base)
    loaded, tokenizer = load(model)
    plain = load_any(base)[0] if base != "none" else None
    window = loaded.config.window
    sizes = [tokens_of_length(part, window, "--budgets") for part in budgets.split(",")]
    if min(sizes) < 1:
        raise UserError(f"--budgets {budgets} has one that keeps nothing: give at least 1 token.")
    plan = RecallPlan(
        open_documents(data, tokenizer), [tokens_of_length(part, window) for part in lengths.split(",")],
        cases, per_text, seed, asked,
    )  # fmt: skip
    named = {"model": loaded} | ({"base": plain} if plain is not None else {})
    models = {role: model_identity(m) for role, m in named.items()}
    about = {"models": models, "selection_heads": loaded.config.selection_heads}
    asker = Asker(loaded, plain, tokenizer, names, sizes, batch_tokens)
    measure(plan, asker, output, about, note)
    for path in write_report(output):
        note(f"wrote {path}")
