"""`sharedllm serve`: an OpenAI-compatible server over a model and memories."""

import os
import socket
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ..scoring import BUDGET
from ..utils.errors import UserError
from ..utils.files import check_writable
from .common import ModelOption, ScoreOption, check_source, note
from .serve_ray import checked, planned, serve


def command(
    memories: Annotated[
        list[str] | None,
        typer.Argument(
            help="Memories made with --keep-all, and corpora or their URIs; requests name them: notes.memory is notes."
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Serve every memory in this folder too, and let clients make new ones in it; made if it is missing."
        ),
    ] = None,
    model: ModelOption = "tiny",
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 accepts other machines.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    budget: Annotated[
        int | None,
        typer.Option(
            min=1, help=f"Tokens of a memory read for a request that does not set a budget. Default: {BUDGET}."
        ),
    ] = None,
    score: ScoreOption = None,
    max_waiting: Annotated[int, typer.Option(min=0, help="Most requests that may wait; further ones get a 429.")] = 32,
    batch: Annotated[
        int, typer.Option(min=1, max=256, help="Most answers written at once, as one batch; further ones wait.")
    ] = 8,
    timeout: Annotated[
        float, typer.Option(min=1, help="Longest time of a request in seconds, including waiting.")
    ] = 600,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Name by which clients address this server, besides localhost and --host; repeatable; * for any."
        ),
    ] = None,
    max_characters: Annotated[int, typer.Option(min=1, help="Most characters of a prompt; more get a 413.")] = 2**21,
    max_upload: Annotated[int, typer.Option(min=1, help="Most megabytes of an uploaded file; more get a 413.")] = 64,
    api_key_env: Annotated[
        str | None, typer.Option(help="Environment variable with the key that clients must send.")
    ] = None,
    ray: Annotated[
        bool,
        typer.Option("--ray", help="Answer by replicas of the model on a Ray cluster; the next options are for it."),
    ] = False,
    replicas: Annotated[
        str | None, typer.Option(help="How many replicas: a number, or 1-4 for as many as the load needs. Default: 1.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of the processor for each replica. Default: 1.")
    ] = None,
    gpus: Annotated[
        float | None, typer.Option(min=0, help="GPUs for each replica; 0.5 lets two share one. Default: none.")
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(help="Address of a Ray cluster; auto for this machine's. Default: one is started here."),
    ] = None,
    open_memories: Annotated[
        int | None, typer.Option(min=1, help="Most memories that a replica holds open. Default: 8.")
    ] = None,
) -> None:
    """Serve a model and memories over HTTP: a page to ask in, and an OpenAI-compatible API."""
    for memory in memories or []:
        check_source(memory)
    if folder is not None:
        check_writable(folder, "--folder")
    given = {"replicas": replicas, "threads": threads, "gpus": gpus, "cluster": cluster, "open_memories": open_memories}
    on_ray = checked(ray, given)
    from ..answering.ask import checked_score
    from ..scoring.defaults import default_budget
    from .loading import config_of, load, open_own

    try:
        from ..serving.app import Service, application
        from ..serving.guard import Hosts
        from ..serving.memories import Memories
        from ..serving.server import bind, run
        from ..serving.worker import Worker
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("sharedllm"):
            raise
        raise UserError(f"{error.name} is not installed: pip install 'sharedllm[serve]'.") from None
    key = None if api_key_env is None else _key(api_key_env)
    config = config_of(model)
    score = checked_score(config, score)
    if folder is not None and config.encoding != "chunk":
        raise UserError(f"--folder {folder}: {model} can't keep every token, so no memory of it can be served.")
    with bind(host, port) as bound:
        loaded, tokenizer = load(model, memories[0] if memories and on_ray is None else "")
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        opens = partial(open_own, loaded, tokenizer)
        opened = Memories(memories or [], opens, folder=folder, left_out=partial(note, style="yellow"))
        name = Path(model).expanduser().resolve().name if Path(model).is_dir() else model
        budget = default_budget(loaded.config) if budget is None else budget
        host_names = Hosts(host, allow_host or [])
        limits = {
            "budget": budget,
            "score": score,
            "seconds": timeout,
            "most_characters": max_characters,
            "most_upload": max_upload * 2**20,
        }
        served = ", ".join(m["id"] for m in opened.listed()) or "none"
        begun = partial(_listen, bound, host, name, served, key is not None)
        if on_ray is None:
            service = Service(
                loaded, tokenizer, name, opened, Worker(max_waiting, batch), key=key, hosts=host_names, **limits
            )
            begun()
            run(application(service), service.worker, bound)
            return
        plan = planned(on_ray, model, name, memories or [], folder, batch, limits)
        # Replicas have their own.
        del loaded, tokenizer, opens, opened
        serve(on_ray, plan, bound, {"key": key, "hosts": host_names}, max_waiting, begun)


def _listen(bound: socket.socket, host: str, name: str, memories: str, keyed: bool, more: str = "") -> None:
    """Let clients connect to a server, who wait until it starts, and say where it is.

    Args:
        name: of the model. keyed: it asks for a key. more: what there is to say of its replicas.
    """
    from ..serving.server import is_local

    if not is_local(host):
        note(f"warning: other machines can reach {host}" + ("." if keyed else ", and no key is asked for."))
    bound.listen()
    address = f"[{host}]" if ":" in host else host
    url = f"http://{address}:{bound.getsockname()[1]}"
    note(f"{name} at {url}/v1{more}; memories: {memories}. A page to ask in: {url}/. Ctrl-C stops.")


def _key(variable: str) -> str:
    """The key in an environment variable, without the line end of the file that it may come from.

    Raises:
        UserError: it is not set, empty, or no header can hold it.
    """
    key = os.environ.get(variable)
    if key is None or not key.strip():
        state = "not set" if key is None else "empty"
        raise UserError(f"--api-key-env {variable}: that variable is {state}; export it with the key.")
    key = key.strip()
    if any(ord(character) < 32 or ord(character) == 127 for character in key):
        raise UserError(
            f"--api-key-env {variable}: the key has a line end or a control character inside, which no client can send; "
            "export a key of one line."
        )
    return key
