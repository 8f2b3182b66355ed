"""`sharedllm bench`: systems side by side, time, memory and operations by length."""

from pathlib import Path
from typing import Annotated

import typer

from ..systems import SYSTEMS
from ..utils.files import write_text
from . import bench_serve
from .common import note, output_option, tokens_of_length
from .naming import NamedCommand, NamedGroup

QUICK = {"shape": "tiny", "lengths": "4K,16K,64K", "repeats": 2, "limit_seconds": 20.0}
FULL = {"shape": "cpu-16x1024", "lengths": "4K,16K,64K", "repeats": 3, "limit_seconds": 600.0}


app = typer.Typer(cls=NamedGroup, invoke_without_command=True, rich_markup_mode=None)
app.command("serve", cls=NamedCommand)(bench_serve.command)


@app.callback()
def command(
    context: typer.Context,
    output: Annotated[
        Path | None,
        output_option("Folder for the results; an interrupted run resumes."),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            help="tiny, small, cpu-16x1024, qwen2.5-0.5b, llama-2-7b or llama-3-8b, random weights. Default: cpu-16x1024."
        ),
    ] = None,
    lengths: Annotated[str | None, typer.Option(help="Tokens before the running text. Default: 4K,16K,64K.")] = None,
    systems: Annotated[
        str, typer.Option("--system", help="Names, separated by commas; × refers to sharedllm.")
    ] = ",".join(name for name, system in SYSTEMS.items() if system.timed),
    dtype: Annotated[str | None, typer.Option(help="bf16 or fp32. Default: bf16 if the hardware supports it.")] = None,
    device: Annotated[str | None, typer.Option(help="Default: cuda if available.")] = None,
    repeats: Annotated[
        int | None, typer.Option(min=0, help="Runs of each, alternating; 0: peak memory alone. Default: 3.")
    ] = None,
    new_tokens: Annotated[
        int, typer.Option(min=0, help="Tokens decoded one by one after the first. 0: the running text has no cache.")
    ] = 32,
    batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="Most tokens run at once. Default: the shape's.")
    ] = None,
    limit_seconds: Annotated[
        float | None, typer.Option(min=0, help="Seconds; cells expected to take longer are skipped. Default: 600.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of weights and tokens.")] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="A run of minutes: shape tiny, two repeats, nothing above 20 seconds.")
    ] = False,
    running: Annotated[
        int | None,
        typer.Option(
            min=1, help="Tokens of running text, such as a question's. Default: as many as fit into the window."
        ),
    ] = None,
    peaks: Annotated[bool, typer.Option(help="Measure peak memory too, on a CPU in a separate run.")] = True,
    plots: Annotated[bool, typer.Option(help="Draw the figures.")] = True,
    contenders: Annotated[str | None, typer.Option("--contenders", hidden=True, help="Old name of --system.")] = None,
) -> None:
    """Measure reading, first token, decoding and peak memory of systems side by side; makes a table and figures."""
    if context.invoked_subcommand is not None:
        return
    if output is None:
        raise typer.BadParameter("name a folder for the results.", param_hint="'-o' / '--output'")
    import torch

    from ..benchmark.measure import Plan, bench
    from ..benchmark.plot import draw
    from ..benchmark.report import markdown, rows
    from ..benchmark.shapes import get_shape
    from ..utils.hardware import default_device
    from .loading import inference_dtype, quiet

    quiet()
    defaults = QUICK if quick else FULL
    where = torch.device(device) if device else default_device()
    chosen = get_shape(shape or defaults["shape"])
    plan = Plan(
        chosen,
        [name.strip() for name in (contenders or systems).split(",") if name.strip()],
        [tokens_of_length(part, chosen.window) for part in (lengths or defaults["lengths"]).split(",")],
        dtype or ("fp32" if inference_dtype(where) == torch.float32 else "bf16"),
        str(where),
        defaults["repeats"] if repeats is None else repeats,
        new_tokens,
        batch_tokens,
        defaults["limit_seconds"] if limit_seconds is None else limit_seconds,
        seed,
        peaks,
        running,
    )
    results = bench(plan, output, note)
    text = markdown(results)
    write_text(output / "report.md", text)
    files = [results.path, output / "report.md"]
    if plots:
        files += draw(rows(results), f"{plan.shape.name}, {plan.dtype}, {plan.device}", output)
    print(text)
    note("wrote " + ", ".join(map(str, files)))
