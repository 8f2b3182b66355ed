"""`sharedllm eval`: tasks over documents, methods side by side; every cell is kept."""

from pathlib import Path
from typing import Annotated

import typer

from ..memory.fingerprint import fingerprint_tensors
from ..utils.errors import UserError
from .common import load, load_any, note, tokens_of_length


def command(
    tasks: Annotated[list[str], typer.Argument(help="loss, loss-other, copy, passkey, needle, keys-4, hops-2, …")],
    data: Annotated[
        list[str], typer.Option("--data", help="[DOMAIN=]PATH: a token folder, files or a glob; may repeat.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the results; goes on where it stopped.")],
    model: Annotated[str, typer.Option("--model", help="Folder, hub id, or name of a bundled model.")] = "tiny",
    base: Annotated[
        str, typer.Option("--base", help="The base that it was extended from, for the other methods.")
    ] = "base",
    rivals: Annotated[
        list[str],
        typer.Option("--rival", help="Folder of a trained rival, for method cepe, beacon or tuned; may repeat."),
    ] = [],  # noqa: B006
    methods: Annotated[str, typer.Option("--method", help="Names, separated by commas.")] = "sharedllm,empty,window",
    lengths: Annotated[
        str, typer.Option(help="Tokens in front of what is scored; 4W is four windows.")
    ] = "0,1W,4W,16W",
    longest: Annotated[
        str | None, typer.Option(help="Places are those that fit this length: for one folder in several runs.")
    ] = None,
    cases: Annotated[int, typer.Option(min=1, help="Places a document (loss), or questions a length.")] = 10,
    seed: Annotated[int, typer.Option(help="Of places, keys and answers.")] = 0,
    batch_tokens: Annotated[int, typer.Option(min=1, help="Most tokens scored together.")] = 16_384,
) -> None:
    """Measure methods on the same texts. `sharedllm report` makes tables and figures of the results."""
    from ..evaluation.corpus import open_documents
    from ..evaluation.methods import OURS, make_method, rival_name
    from ..evaluation.run import Plan, evaluate
    from ..evaluation.tasks import Setting, get_task

    chosen = [get_task(name) for name in tasks]
    shared, tokenizer = load(model)
    window = shared.config.window
    names = [name.strip() for name in methods.split(",") if name.strip()]
    others = [(folder, load_any(folder)[0]) for folder in rivals]
    trained = {rival_name(other): other for _, other in others}
    if len(trained) < len(rivals):
        raise UserError(
            f"--rival {' --rival '.join(rivals)}: two are of one method; measure them into folders of their own."
        )
    plain = None
    if any(not name.startswith((*OURS, *trained)) for name in names):
        plain, _ = load_any(base)
        others.append((base, plain))
    made = [make_method(name, shared, plain, tokenizer, window, trained) for name in names]
    wanted = [tokens_of_length(part, window) for part in lengths.split(",")]
    most = tokens_of_length(longest, window) if longest else max(wanted)
    if most < max(wanted):
        raise UserError(f"--longest {longest} is below the longest of --lengths {lengths}: leave it out or raise it.")
    documents = [open_documents(part, tokenizer) for part in data]
    setting = Setting(tokenizer, window, most, cases, seed, batch_tokens)
    models = {}
    for folder, loaded in [(model, shared), *others]:
        role = "model" if loaded is shared else "base" if loaded is plain else rival_name(loaded)
        models[role] = {"name": folder, "sha256": fingerprint_tensors(sorted(loaded.state_dict().items()), {})}
    plan = Plan(chosen, documents, made, wanted, setting)
    for part in documents:
        fits, short = part.long_enough(setting.longest + window // 4)
        if short:
            shown = ", ".join(short[:3]) + (", …" if len(short) > 3 else "")
            note(f"{part.domain}: {len(fits)} documents; {len(short)} are too short: {shown}")
    evaluate(plan, output, {"models": models}, note)
    note(f"wrote {output}: `sharedllm report {output}` makes tables and figures")
