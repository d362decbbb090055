"""A server in a thread of its own, for the tests: any ports of the loopback interface, and an end in every case."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import cgru

for needed in ("starlette", "uvicorn", "websockets", "prometheus_client", "grpc"):
    pytest.importorskip(needed, reason=f"{needed} is not installed (cgru[serve])")

from websockets.sync.client import ClientConnection, connect  # noqa: E402

from cgru.serve import Address, Server, Settings  # noqa: E402
from cgru.serve.service import Service  # noqa: E402


class Served:
    """A running server, and what a client says to it."""

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
        self.server, self.loop, self.thread = server, loop, thread
        self.port, self.grpc_port = server.ports
        self.service: Service = server.app.state.service

    def stream(self, query: str = "", **options: Any) -> ClientConnection:
        options = {"open_timeout": 30, "close_timeout": 2, "compression": None, **options}
        scheme = "wss" if options.pop("secure", False) else "ws"
        return connect(f"{scheme}://127.0.0.1:{self.port}/v1/stream{query}", **options)

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, json.dumps(body) if isinstance(body, dict | list) else body, headers or {})
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def socket(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def until(self, true: Callable[[], bool]) -> None:
        """Wait until the server's own thread finds it true."""
        for _ in range(3000):
            if asyncio.run_coroutine_threadsafe(_value(true), self.loop).result(30):
                return
            threading.Event().wait(0.01)
        raise AssertionError("it never became true")

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(60)
        assert not self.thread.is_alive(), "the server did not end"


async def _value(true: Callable[[], bool]) -> bool:
    return true()


@contextlib.contextmanager
def served(net: cgru.Model, *, address: Address | None = None, **limits: Any) -> Iterator[Served]:
    """``net`` behind a server with these limits."""
    started: list[Any] = []
    up = threading.Event()

    def run() -> None:
        async def main() -> None:
            server = Server(net, Settings(**limits), address or Address(port=0, grpc_port=0))
            begin = server.startup

            async def startup(sockets: Any = None) -> None:
                await begin(sockets)
                started.extend([server, asyncio.get_running_loop()])
                up.set()

            server.startup = startup  # type: ignore[method-assign]
            await server.serve()

        try:
            asyncio.run(main())
        finally:
            up.set()

    thread = threading.Thread(target=run, name="server")
    thread.start()
    assert up.wait(60)
    assert started, "the server did not start"
    running = Served(started[0], started[1], thread)
    try:
        yield running
    finally:
        running.stop()


def hello(ws: ClientConnection) -> dict[str, Any]:
    """The server's first message."""
    return said(ws)


def said(ws: ClientConnection) -> dict[str, Any]:
    """The next message, which must be text."""
    message = ws.recv(30)
    assert isinstance(message, str), "bytes where words were expected"
    found: dict[str, Any] = json.loads(message)
    return found


def outputs(ws: ClientConnection, steps: int, width: int) -> np.ndarray:
    """The outputs (T, O) of so many steps."""
    got = b""
    while len(got) < 4 * steps * width:
        message = ws.recv(30)
        assert isinstance(message, bytes), message
        got += message
    return np.frombuffer(got, "<f4").reshape(steps, width)
