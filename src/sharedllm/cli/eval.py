"""`sharedllm eval`: tasks over documents, systems side by side; every cell is saved."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..evaluation.tasks import TASKS
from ..systems import SYSTEMS
from ..utils.errors import UserError, first_of
from .common import ModelOption, ResultsOption, check_model, note, tokens_of_length


def _evaluated() -> str:
    return ", ".join(system.variants.partition(": ")[0] or name for name, system in SYSTEMS.items() if system.evaluated)


def _needing(needs: str) -> str:
    return ", ".join(name for name, system in SYSTEMS.items() if system.evaluated and system.needs == needs)


def command(
    tasks: Annotated[list[str], typer.Argument(help=f"{TASKS.names}.")],
    data: Annotated[
        list[str], typer.Option("--data", help="[DOMAIN=]PATH: a token folder, files or a glob; repeatable.")
    ],
    output: ResultsOption,
    model: ModelOption = "tiny",
    base: Annotated[
        str, typer.Option("--base", callback=check_model, help="The base of the model, for systems that need it.")
    ] = "base",
    trained: Annotated[
        list[str], typer.Option("--trained", help=f"Folder of a trained system: {_needing('trained')}; repeatable.")
    ] = [],  # noqa: B006
    systems: Annotated[
        str, typer.Option("--system", help=f"Names, separated by commas: {_evaluated()}.")
    ] = "sharedllm,empty,window",
    lengths: Annotated[str, typer.Option(help="Tokens before the scored text; 4W is four windows.")] = "0,1W,4W,16W",
    longest: Annotated[
        str | None, typer.Option(help="Use the places that fit this length, to fill one folder in several runs.")
    ] = None,
    cases: Annotated[int, typer.Option(min=1, help="Places per document (loss), or questions per length.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Seed of places, keys and answers.")] = 0,
    batch_tokens: Annotated[int, typer.Option(min=1, help="Most tokens scored together.")] = 16_384,
    method: Annotated[str | None, typer.Option("--method", hidden=True, help="Old name of --system.")] = None,
    rival: Annotated[list[str], typer.Option("--rival", hidden=True, help="Old name of --trained.")] = [],  # noqa: B006
) -> None:
    """Measure systems on the same texts. `sharedllm report` makes tables and figures of the results."""
    if files := [name for name in tasks if name not in TASKS and Path(name).exists()]:
        raise UserError(f"{files[0]} is a file, not a task: give each file a --data of its own, or a glob in quotes.")
    from ..evaluation.corpus import open_documents
    from ..evaluation.run import Plan, evaluate
    from ..evaluation.tasks.base import Setting
    from ..memory.fingerprint import model_identity
    from ..systems.evaluated import make_evaluated, name_of_trained, parsed
    from .loading import check_named_base, load, load_any

    chosen = [TASKS.find(name) for name in tasks]
    names = [name.strip() for name in (method or systems).split(",") if name.strip()]
    needs = {parsed(name)[0].needs for name in names}
    if "base" in needs:
        check_named_base(base)
    shared, tokenizer = load(model)
    window = shared.config.window
    others = _loaded([*trained, *rival])
    by_name = {name_of_trained(other): other for _, other in others}
    plain = None
    if "base" in needs:
        plain, _ = load_any(base)
        others.append((base, plain))
    made = [make_evaluated(name, shared, plain, tokenizer, window, by_name) for name in names]
    wanted = [tokens_of_length(part, window) for part in lengths.split(",")]
    most = tokens_of_length(longest, window) if longest else max(wanted)
    if most < max(wanted):
        raise UserError(f"--longest {longest} is below the longest of --lengths {lengths}: leave it out or raise it.")
    documents = [open_documents(part, tokenizer) for part in data]
    if twice := [part.domain for part in documents if [other.domain for other in documents].count(part.domain) > 1]:
        raise UserError(f"--data names two domains {twice[0]!r}: name each, as --data one=PATH --data two=PATH.")
    setting = Setting(tokenizer, window, most, cases, seed, batch_tokens)
    models = {}
    for folder, loaded in [(model, shared), *others]:
        role = "model" if loaded is shared else "base" if loaded is plain else name_of_trained(loaded)
        models[role] = {"name": folder} | model_identity(loaded)
    plan = Plan(chosen, documents, made, wanted, setting)
    for part in documents:
        fits, short = part.long_enough(setting.longest + window // 4)
        if short:
            note(f"{part.domain}: {len(fits)} documents; {len(short)} are too short: {first_of(short, 3)}")
    evaluate(plan, output, {"models": models}, note)
    note(f"wrote {output}: `sharedllm report {output}` makes tables and figures")


def _loaded(folders: list[str]) -> list[tuple[str, Any]]:
    """Trained systems, each with its folder.

    Raises:
        UserError: two are of one system; or one can't be loaded.
    """
    from ..systems.evaluated import name_of_trained
    from ..systems.trained import import_models
    from .loading import load_any

    if folders:
        import_models()
    models = [(folder, load_any(folder)[0]) for folder in folders]
    if len({name_of_trained(model) for _, model in models}) < len(models):
        raise UserError(
            f"--trained {' --trained '.join(folders)}: two of them are of one system; measure them into separate folders."
        )
    return models
