"""The application on a Ray cluster: Ray Serve starts its replicas, watches them, and chooses one for each request."""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import Any

from starlette.types import Message

from ...utils.clusters import connect
from ...utils.errors import UserError
from ...utils.extras import missing
from ..errors import ServingError
from .asking import Gone, Whole
from .plan import Plan
from .played import Asked

# A replica takes some requests more than it answers at once, so that none of its rows waits for the next one.
_SPARE = 4
# Seconds: between two looks at a replica's health, for the answer to one, and for answers to end before a replica is replaced.
# After three looks without an answer in a row Ray Serve replaces it.
_LOOK, _ANSWER, _ENDING = 5, 30, 60
# Seconds of less load after which a replica is ended.
_CALM = 600


@dataclass(frozen=True)
class Size:
    """How many replicas: as many as the load needs, between two numbers. threads, gpus: of each."""

    least: int
    most: int
    threads: int = 1
    gpus: float = 0


class Cluster:
    """A served application; see `asking.Replicas`."""

    def __init__(self, plan: Plan, size: Size, address: str, port: int):
        """
        Args:
            address: of a Ray cluster; see `utils.clusters.connect`. port: of the server, which tells its application from others'.

        Raises:
            UserError: Ray Serve is not installed, or there is no cluster at the address.
        """
        # Ray Serve says what it does on stderr, where there is only what a user needs.
        os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")
        if not address:
            # Ray's workers let others pass, as long computations should; a server should not.
            os.environ.setdefault("RAY_worker_niceness", "0")
        self._plan, self._size = replace(plan, local=not address), size
        self._name = f"sharedllm-{socket.gethostname()}-{port}" if address else "sharedllm"
        self._own = not address
        self._ray, self._connected = connect(address, size.most * size.threads)
        try:
            from ray import serve
            from ray.serve.exceptions import RayServeException
        except ImportError:
            raise missing("ray", "ray[serve]") from None
        logging.getLogger("ray.serve").setLevel(logging.CRITICAL)
        self._handle: Any = None
        self._serve, self._errors = serve, (RayServeException, self._ray.exceptions.RayError)
        # Clients reach this process; a replica that dies then takes no connection with it.
        serve.start(http_options={"location": "NoServer"}, logging_config={"log_level": "ERROR"})
        logging.getLogger("ray.serve").setLevel(logging.CRITICAL)

    def lacking(self) -> str:
        """What the cluster has too few of for the fewest replicas; "" for nothing. Ray would wait for it without a word."""
        there, least = self._ray.cluster_resources(), self._size.least
        needed = {"CPU": least * self._size.threads, "GPU": least * self._size.gpus}
        few = [(name, wanted, there.get(name, 0)) for name, wanted in needed.items() if wanted > there.get(name, 0)]
        return ", ".join(f"{wanted:g} {name}s where there are {known:g}" for name, wanted, known in few)

    def deploy(self) -> None:
        """Start the replicas; or replace them, one after the other, by new ones that load everything again.

        Raises:
            UserError: they can't be started.
        """
        from .replica import Replica

        size, plan = self._size, self._plan
        number: dict[str, Any] = {"num_replicas": size.least}
        if size.most > size.least:
            scaling: dict[str, Any] = {"min_replicas": size.least, "max_replicas": size.most}
            scaling |= {"target_ongoing_requests": plan.batch, "downscale_delay_s": _CALM}
            number = {"autoscaling_config": scaling}
        deployment = self._serve.deployment(
            Replica,
            name="answers",
            max_ongoing_requests=plan.batch + _SPARE,
            health_check_period_s=_LOOK,
            health_check_timeout_s=_ANSWER,
            graceful_shutdown_wait_loop_s=0.2,
            graceful_shutdown_timeout_s=_ENDING,
            ray_actor_options={"num_cpus": size.threads, "num_gpus": size.gpus},
            logging_config={"log_level": "ERROR", "enable_access_log": False},
            **number,
        )
        try:
            handle = self._serve.run(deployment.bind(plan), name=self._name, route_prefix=None)
            self._handle = self._handle or handle  # the first one learns of new replicas
        except (RuntimeError, *self._errors) as error:
            raise UserError(f"the replicas can't be started: {_reason(str(error))}") from None

    def stop(self) -> None:
        """End the replicas, and a cluster that was started here. What others serve on another cluster stays."""
        with contextlib.suppress(*self._errors):
            self._serve.delete(self._name)
        if self._connected and self._own:
            self._serve.shutdown()
        if self._connected:
            self._ray.shutdown()

    async def ask(self, asked: Asked, memory: str) -> AsyncGenerator[list[Message], None]:
        exceptions = self._ray.exceptions
        response = self._handle.options(method_name="ask", stream=True, multiplexed_model_id=memory).remote(asked)
        ended = False
        try:
            async for messages in response:
                yield messages
            ended = True
        except exceptions.RayTaskError:
            ended = True
            raise
        except self._serve.exceptions.DeploymentUnavailableError:
            raise ServingError(503, "no replica can be started: the log of Ray Serve says why.") from None
        except self._errors as error:
            ended = True
            raise Gone(str(error)[:300]) from None
        finally:
            if not ended:
                response.cancel()

    async def every(self, asked: Asked, seconds: float) -> list[Whole]:
        try:
            said = await self._handle.broadcast("whole", asked).results_async(timeout_s=seconds, return_exceptions=True)
        except (TimeoutError, *self._errors):
            return []
        return [whole for whole in said if isinstance(whole, Whole)]

    async def running(self) -> int:
        try:
            status = await asyncio.to_thread(self._serve.status)
        except self._errors:
            return 0
        application = status.applications.get(self._name)
        states = application.deployments["answers"].replica_states if application is not None else {}
        return states.get("RUNNING", 0)


def _reason(said: str) -> str:
    """The last line of an error that came from a replica."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return (lines[-1] if lines else "their log says why")[:500]
