"""`sharedllm read-corpus`: read many documents with many workers into a folder or an object store."""

import contextlib
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from ..utils.errors import UserError
from ..utils.files import is_uri
from .common import JsonOption, ModelOption, check_output, filled, note, print_json, progress_bar, stderr
from .read import SHOWN


def command(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Folders, globs, files, or URIs of such. Records of .jsonl, .jsonl.zst and .parquet are documents."
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "-o",
            "--output",
            parser=filled,
            metavar="<str>",
            help="Where the corpus goes: a folder, s3://BUCKET/NAME, gs://….",
        ),
    ],
    model: ModelOption = "tiny",
    workers: Annotated[
        int, typer.Option(min=0, help="Readers, each with the model; 0 reads in this process, without Ray.")
    ] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the processor for each reader.")] = 1,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs for each reader; 0.5 lets two share one.")] = 0,
    cluster: Annotated[
        str, typer.Option(help="Address of a Ray cluster; auto for this machine's. Default: one is started here.")
    ] = "",
    replace: Annotated[
        bool, typer.Option("--replace", help="Drop documents of the corpus that are not in these sources.")
    ] = False,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="Pattern, as in .gitignore, of what to leave out of folders; any number of times."),
    ] = None,
    storage: Annotated[
        Literal["model", "int8"], typer.Option(help="Format of keys and values: unchanged, or int8 (half the size).")
    ] = "model",
    batch_tokens: Annotated[
        int, typer.Option(min=1, help="Most tokens read at once. Fixed, because results depend on it in the last bits.")
    ] = 8192,
    shard_bytes: Annotated[
        int, typer.Option(min=1, help="Small documents are read and committed together, up to so many bytes of files.")
    ] = 2**18,
    json: JsonOption = False,
) -> None:
    """Read many documents into a corpus that ask, chat and serve take. Every token is kept.

    Each shard is committed once it is whole. The same command, run again, reads what is missing or has changed; documents that can't
    be read are listed. To add documents, name the sources of all.
    """
    from ..corpus.objects import check_uri

    for name in (output, *sources):
        check_uri(name)
    if not is_uri(output):
        check_output(Path(output))
    if gpus and not workers:
        raise UserError("--gpus needs --workers of at least 1: this process takes the GPU that --device names.")
    from ..corpus.engines import OneProcess, Workers
    from ..corpus.run import read_corpus
    from ..utils.clusters import without_core
    from .loading import quiet

    quiet()
    engine = Workers(workers, threads, gpus, cluster) if workers else OneProcess(threads)
    # Ray writes notices to stdout, where nothing but the answer belongs.
    with (
        contextlib.redirect_stdout(sys.stderr),
        without_core() if workers else contextlib.nullcontext(),
        progress_bar("reading shards", None) as advance,
    ):

        def show(outcome: Any, total: int) -> None:
            advance(0 if outcome is None else 1, total=total)

        options: dict[str, Any] = {"storage": storage, "batch_tokens": batch_tokens, "shard_bytes": shard_bytes}
        options |= {"exclude": exclude or [], "replace": replace}
        report = read_corpus(sources, output, model, engine, progress=show, **options)
    if json:
        print_json(corpus=output, workers=workers, **report.values())
        return
    if report.unreadable:
        note(f"{len(report.unreadable):,} could not be read:", style="yellow")
        for name, reason in report.unreadable[:SHOWN]:
            note(f"  {reason if name in reason else f'{name}: {reason}'}")
        if len(report.unreadable) > SHOWN:
            note(f"  and {len(report.unreadable) - SHOWN:,} more; --json names all")
    table = Table(show_header=False)
    table.add_column(justify="left")
    table.add_column(justify="right")
    rows = {
        "documents": f"{report.documents:,}",
        "could not be read": f"{len(report.unreadable):,}",
        "shards read now": f"{report.shards_read:,}",
        "shards that were there": f"{report.shards_known:,}",
        "tokens read now": f"{report.tokens_read:,}",
        "tokens in all": f"{report.tokens:,}",
        "seconds": f"{report.seconds:,.1f}",
        "tokens a second": f"{report.rate:,.0f}",
        "seconds of processors": f"{report.processor_seconds:,.1f}",
        "MB of memories": f"{report.nbytes / 1e6:,.1f}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    stderr.print(table)
    note(f"{output}: ask it with `sharedllm ask {output} QUESTION --model {model}`")
