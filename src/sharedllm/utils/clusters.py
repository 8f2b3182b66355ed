"""Connecting to a Ray cluster, or starting one here for a command. Ray's dashboard and its reports to its makers stay off."""

import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from .errors import UserError
from .extras import missing

# Only plans and small results pass through Ray's own store of objects.
_STORE_MB = 200


def connect(address: str, processors: int, store_mb: int = _STORE_MB) -> tuple[Any, bool]:
    """Ray, and whether it was connected here.

    Args:
        address: of a running cluster, "auto" for the one that this machine belongs to; "" starts one here, which ends with
            this process and can be reached from this machine alone.
        processors: that a cluster which is started here offers to its workers. store_mb: size of its store of objects.

    Raises:
        UserError: Ray is not installed, or there is no cluster at the address.
    """
    # Ray reports its use to its makers unless it is told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    # Ray Data sets the level of its own log when it is imported, which is later.
    os.environ.setdefault("RAY_DATA_LOG_LEVEL", "ERROR")
    # What goes wrong in its processes Ray prints on stdout, whatever it is told about logging: leave out every line. Their
    # logs have it, and what matters here is an error of ours.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^")
    if not address:
        # Despite its name, on every system: Ray's processes listen on 127.0.0.1 alone.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
    except ImportError:
        raise missing("ray", "ray") from None
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if ray.is_initialized():
        return ray, False
    _check_reachable(address)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address:
        options |= {"address": address}
    else:
        options |= {
            # Without an address Ray takes that of RAY_ADDRESS, or of a cluster that was started here.
            "address": "local",
            "num_cpus": processors,
            "object_store_memory": store_mb * 2**20,
            "include_dashboard": False,
        }
    try:
        ray.init(**options)
    except Exception as error:  # Ray raises bare ones, too, as on a machine where its processes start too slowly
        where = f"at {address}" if address else "on this machine"
        # Ray says of a wrong token only that it can't connect.
        fix = "; if it asks for a token, set RAY_AUTH_TOKEN" if address else ""
        said = " ".join(str(error).split())[:300].rstrip(".")
        raise UserError(f"no Ray cluster {where}: {said}{fix}.") from None
    return ray, True


@contextmanager
def without_core() -> Iterator[None]:
    """Leave out what Ray's core, which is not Python, writes on this process's stderr; the logs in /tmp/ray have it.

    It prints an error for every pool of workers of Ray Data, which no setting leaves out:
    https://github.com/ray-project/ray/issues/57733.
    """
    sys.stderr.flush()
    shown = os.fdopen(os.dup(2), "w", buffering=1, encoding=sys.stderr.encoding, errors=sys.stderr.errors)
    with shown, Path(os.devnull).open("w", encoding="utf-8") as nothing, redirect_stderr(shown):
        os.dup2(nothing.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(shown.fileno(), 2)


def _check_reachable(address: str) -> None:
    """Refuse HOST:PORT where nothing listens; Ray itself would try for minutes.

    Raises:
        UserError: nothing listens there.
    """
    host, _, port = address.rpartition(":")
    if "://" in address or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        said = getattr(error, "strerror", None) or error
        raise UserError(
            f"no Ray cluster at {address}: {said}; start one with `ray start`, or leave out cluster={address!r}."
        ) from None
