"""The actor of a replica, as Ray Serve starts it."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress

from ray import serve
from starlette.types import Message

from ...utils.errors import UserError
from ..app import application
from ..errors import ServingError
from .asking import Whole
from .leases import Lease, Leases
from .plan import Plan
from .played import Asked, played


def _listen_here() -> None:
    """Keep a port of this replica, by which Ray Serve's deployments can call each other, from other machines: whoever reaches it can
    run code here. Ray 2.60 has no setting for its address."""
    from ray.serve._private import replica

    names = replica.__dict__
    opens = names["add_port_to_grpc_server"]
    names["add_port_to_grpc_server"] = lambda server, address: opens(server, address.replace("[::]", "127.0.0.1"))


class Replica:
    """The model, its memories, and the server's application over them."""

    def __init__(self, plan: Plan):
        """
        Raises:
            UserError: see `Plan.service`.
        """
        if plan.local:
            _listen_here()
        self.service = plan.service()
        self.app = application(self.service)
        self._leases = Leases(self.service.memories)

        async def opens(name: str) -> Lease:
            return await asyncio.to_thread(self._leases.take, name)

        self._opened: Callable[[str], Awaitable[Lease]] = serve.multiplexed(max_num_models_per_replica=plan.open)(opens)  # pyright: ignore[reportAttributeAccessIssue]

    async def ask(self, asked: Asked) -> AsyncGenerator[list[Message], None]:
        """Yield the messages of the application's answer; see `played`."""
        memory = serve.get_multiplexed_model_id()
        await self._ready(memory)
        try:
            async with aclosing(played(self.app, asked)) as said:
                async for messages in said:
                    yield messages
        finally:
            self._leases.asked(memory)

    async def whole(self, asked: Asked) -> Whole:
        """The application's answer."""
        start, body = {"status": 500, "headers": []}, b""
        async for messages in played(self.app, asked):
            for message in messages:
                if message["type"] == "http.response.start":
                    start = message
                body += message.get("body", b"")
        name = serve.get_replica_context().replica_id.unique_id
        return Whole(name, start["status"], start["headers"], body)

    async def check_health(self) -> None:
        """Called by Ray Serve, which replaces this replica if it raises."""
        if not self.service.worker.alive:
            raise RuntimeError("the model's thread has ended")

    async def _ready(self, memory: str) -> None:
        """Open the memory that is asked for, which another replica may have made."""
        memories = self.service.memories
        await asyncio.to_thread(memories.scan)
        if memory in memories.names:
            with suppress(UserError, ServingError):  # the application says so, in its own form
                await self._opened(memory)
