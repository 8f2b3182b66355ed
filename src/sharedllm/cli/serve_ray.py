"""What `sharedllm serve` does with --ray: replicas on a Ray cluster, and this process in front of them."""

import re
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..utils.errors import UserError
from ..utils.extras import absent, missing
from ..utils.files import is_uri
from .common import note


@dataclass(frozen=True)
class Options:
    """replicas: how many, "2", or "1-4" as the load needs. open_memories: of each replica. Others: as in `read-corpus`."""

    replicas: str = "1"
    threads: int = 1
    gpus: float = 0
    cluster: str = ""
    open_memories: int = 8

    @property
    def range(self) -> tuple[int, int]:
        """
        Raises:
            UserError: not a number of at least 1, nor two of them.
        """
        found = re.fullmatch(r"([1-9]\d{0,3})(?:-([1-9]\d{0,3}))?", self.replicas.strip())
        least, most = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if most < least:
            raise UserError(
                f"--replicas {self.replicas} is neither a number nor a range: write 2, or 1-4 for as many as the load needs."
            )
        return least, most


def checked(ray: bool, given: dict[str, Any]) -> Options | None:
    """The options of --ray; None without it.

    Args:
        given: their values by name; None for those that were not given.

    Raises:
        UserError: one of them without --ray; or Ray is not installed.
    """
    named = {name: value for name, value in given.items() if value is not None}
    if not ray:
        if named:
            raise UserError(f"--{next(iter(named)).replace('_', '-')} needs --ray.")
        return None
    options = Options(**named)
    _ = options.range
    if absent("ray"):
        raise missing("ray", "ray")
    return options


def planned(
    options: Options,
    model: str,
    name: str,
    memories: list[str],
    folder: Path | None,
    batch: int,
    limits: dict[str, Any],
) -> Any:
    """The `replicas.plan.Plan` of what was checked here. Paths are absolute, because replicas may run elsewhere."""
    from ..serving.replicas.plan import Plan

    model = str(Path(model).expanduser().resolve()) if Path(model).expanduser().is_dir() else model
    paths = tuple(path if is_uri(path) else str(Path(path).resolve()) for path in memories)
    kept = str(folder.resolve()) if folder is not None else None
    return Plan(model, name, paths, kept, batch=batch, threads=options.threads, open=options.open_memories, **limits)


def serve(
    options: Options,
    plan: Any,
    bound: socket.socket,
    front: dict[str, Any],
    max_waiting: int,
    begun: Callable[[str], None],
) -> None:
    """Start the replicas and serve until Ctrl-C or SIGTERM; SIGHUP replaces the replicas one after the other.

    Args:
        plan: see `planned`. front: key and hosts, see `replicas.front.front_application`. begun: called once clients can be answered, with
            what there is to say of the replicas.

    Raises:
        UserError: there is no cluster, or the replicas can't be started.
    """
    from ..serving.replicas.cluster import Cluster, Size
    from ..serving.replicas.front import Front, front_application
    from ..serving.server import run

    least, most = options.range
    note(f"starting {options.replicas} replica{'s' if most > 1 else ''} on Ray")
    cluster = Cluster(plan, Size(least, most, options.threads, options.gpus), options.cluster, bound.getsockname()[1])
    # Ray's own handler ends the process without stopping what was started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    stopping = threading.Event()
    try:
        if lacking := cluster.lacking():
            if not options.cluster:
                raise UserError(f"the replicas need {lacking}: ask for fewer --replicas or --gpus.")
            note(f"the replicas need {lacking}: waiting for machines that join the cluster", style="yellow")
        cluster.deploy()
        asked = Front(
            cluster, plan.name, seconds=plan.seconds, most=most * plan.batch + max_waiting, most_waiting=max_waiting
        )
        _renewing(cluster, stopping)
        begun(f" by {options.replicas} replica{'s' if most > 1 else ''}")
        run(front_application(asked, most_upload=plan.most_upload, **front), asked, bound)
    finally:
        stopping.set()
        cluster.stop()


def _renewing(cluster: Any, stopping: threading.Event) -> None:
    """On SIGHUP, which Windows doesn't have, replace the replicas. What fails because the server is stopping is not told."""
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is None:
        return
    busy = threading.Lock()

    def renew() -> None:
        if not busy.acquire(blocking=False):
            return
        try:
            note("new replicas take the place of the old ones, one after the other")
            cluster.deploy()
            note("all replicas are new")
        except UserError as error:
            if not stopping.is_set():
                note(f"error: {error}", style="yellow")
        finally:
            busy.release()

    signal.signal(hangup, lambda *_: threading.Thread(target=renew, daemon=True).start())
