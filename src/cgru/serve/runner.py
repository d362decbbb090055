"""Servers around the application: uvicorn for HTTP and WebSockets, grpcio beside it, and an orderly end."""

from __future__ import annotations

import contextlib
import gc
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette

from ..engine.model import Model
from ..errors import CgruError
from .http import application
from .settings import Settings
from .wires import wires

#: Connections beyond the streams: requests, probes, and streams on their way in or out.
_SPARE = 200


@dataclass(frozen=True)
class Address:
    """Where a server listens: loopback unless told otherwise. Port 0 takes any; ``grpc_port`` None means none."""

    host: str = "127.0.0.1"
    port: int = 8080
    grpc_port: int | None = None
    certificate: Path | None = None
    key: Path | None = None


class Server(uvicorn.Server):
    """uvicorn's server that lets its streams end before it closes their connections."""

    def __init__(self, net: Model, settings: Settings, address: Address) -> None:
        if (address.certificate is None) != (address.key is None):
            raise CgruError("TLS takes a certificate and its key; give both, or neither")
        for path in (address.certificate, address.key):
            if path is not None and not path.is_file():
                raise CgruError(f"{path}: no such file; TLS takes a certificate and its key, each as PEM")
        self.app: Starlette = application(net, settings)
        self.address = address
        self.grpc_port: int | None = None
        self._grpc: Any = None
        http, ws = wires(self.app.state.service.door, settings.idle)
        config = uvicorn.Config(
            self.app,
            host=address.host,
            port=address.port,
            http=http,
            ws=ws,
            ws_max_size=settings.message,
            ws_per_message_deflate=False,  # a small message could stand for a large one
            ws_ping_interval=max(1.0, settings.idle / 3),
            ws_ping_timeout=max(1.0, settings.idle / 3),
            limit_concurrency=settings.capacity + _SPARE,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=max(1, int(settings.drain) + 5),
            ssl_certfile=address.certificate,
            ssl_keyfile=address.key,
            log_level="error",  # a client that sends noise writes no log
            access_log=False,
            server_header=False,
        )
        super().__init__(config)
        logging.getLogger("uvicorn.error").addFilter(_no_denials)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM ask for the orderly end, and are not raised again after it: the process ends with 0."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {which: signal.signal(which, self.handle_exit) for which in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for which, handler in before.items():
                signal.signal(which, handler)

    @property
    def ports(self) -> tuple[int, int | None]:
        """The ports that it listens on: HTTP and gRPC."""
        sockets = [found for server in self.servers for found in server.sockets]
        return sockets[0].getsockname()[1], self.grpc_port

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # What the modules hold stays; looking through it, again and again, would stop the streams for 6 ms each time.
        gc.collect()
        gc.freeze()
        address = self.address
        if self.started and address.grpc_port is not None:
            from .v2 import grpc_server

            tls = (address.certificate, address.key) if address.certificate and address.key else None
            self._grpc, self.grpc_port = await grpc_server.start(
                self.app.state.inference, address.host, address.grpc_port, tls
            )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Before the connections are closed: the streams say goodbye over them.
        await self.app.state.service.farewell()
        if self._grpc is not None:
            await self._grpc.stop(self.app.state.service.settings.drain)
        await super().shutdown(sockets)


def _listening(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family, backlog=2048)
    except OSError as error:
        raise CgruError(f"{address.host} port {address.port} cannot be opened: {error.strerror or error}") from error


def _no_denials(record: logging.LogRecord) -> bool:
    """uvicorn takes a handshake that is answered with a status for one that is not answered, and logs an error."""
    return "without completing handshake" not in record.getMessage()


def serve(
    net: Model,
    settings: Settings | None = None,
    address: Address | None = None,
    *,
    started: Callable[[Server], None] | None = None,
) -> None:
    """Serve ``net`` until SIGINT or SIGTERM; ``started`` is called once the ports are open."""
    server = Server(net, settings or Settings(), address or Address())
    if started is not None:
        begin = server.startup

        async def startup(sockets: list[socket.socket] | None = None) -> None:
            await begin(sockets)
            if server.started:
                started(server)

        server.startup = startup  # type: ignore[method-assign]
    server.run(sockets=[_listening(server.address)])
