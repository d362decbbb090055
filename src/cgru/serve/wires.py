"""uvicorn's connections, at a pace: newcomers at the door, and of anybody's bytes no more at once than others can bear.

A parser in Python takes microseconds a byte where the bytes are tiny messages: one read of 256 kB of pings, fragments
or pipelined requests would stop every stream for half a second. Here a connection's bytes pass in pieces, and after a
millisecond of them it is the others' turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState
from websockets.frames import Frame
from websockets.http11 import Request

from .conversation import STRAIGHT
from .load import Door

#: Bytes that a parser gets at once, and seconds of them until it is the others' turn.
PIECE, TURN = 2048, 0.001
#: About what a connection costs from its acceptance to the end of its first request's headers or its handshake.
NEWCOMER = 0.0005
#: Bytes that the line and the headers of a request may have.
HEAD = 65_536


class Gate:
    """A transport of which the protocol's pausing of the reading takes effect when more comes than it is ready for.

    A client that sends a frame now and then is never paused at all, which saves two calls of the system a frame.
    """

    def __init__(self, transport: Any, protocol: Paced) -> None:
        self._transport = transport
        #: Who reads; nobody once the connection is over, so that reference counts free both.
        self.protocol: Paced | None = protocol
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.paused = False
        self._stopped = False
        self._rest = memoryview(b"")
        self._going: asyncio.Handle | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False
        self._next()

    def take(self, data: bytes) -> None:
        """Bytes that the protocol cannot have at once."""
        self._rest = memoryview(bytes(self._rest) + data if self._rest else data)
        if not self._stopped:
            self._stopped = True
            self._transport.pause_reading()
        self._next()

    def drop(self) -> None:
        """The connection is over."""
        self._rest, self.protocol = memoryview(b""), None
        if self._going is not None:
            self._going.cancel()

    @property
    def waiting(self) -> bool:
        return bool(self._rest)

    def _next(self) -> None:
        if self.paused:
            return
        if self._rest:
            if self._going is None:
                self._going = asyncio.get_running_loop().call_soon(self._go)
        elif self._stopped and not self._transport.is_closing():
            self._stopped = False
            self._transport.resume_reading()

    def _go(self) -> None:
        self._going = None
        protocol, end = self.protocol, time.perf_counter() + TURN
        while protocol is not None and self._rest and not self.paused:
            piece, self._rest = self._rest[:PIECE], self._rest[PIECE:]
            protocol.parse(bytes(piece))
            # What comes behind a handshake that is not answered yet, or behind the end, is nobody's.
            if self.protocol is not protocol or self._transport.is_closing():
                self._rest = memoryview(b"")
            if time.perf_counter() > end:
                break
        self._next()


class Paced:
    """What both protocols have in common; mixed in before one of uvicorn's."""

    gate: Gate

    def parse(self, data: bytes) -> None:
        """Give the parser a piece."""
        super().data_received(data)  # type: ignore[misc]

    def data_received(self, data: bytes) -> None:
        gate = self.gate
        if len(data) <= PIECE and not gate.paused and not gate.waiting:
            self.parse(data)
        else:
            gate.take(data)

    def handed_over(self) -> None:
        """Another protocol has the gate from now on."""

    def connection_lost(self, error: Exception | None) -> None:
        self.gate.drop()
        super().connection_lost(error)  # type: ignore[misc]
        self.parted()

    def parted(self) -> None:
        """Cut what would keep this after its end until the garbage collector comes, which stops everybody."""


class HttpWire(Paced, AutoHTTPProtocol):
    """HTTP, and the beginning of a WebSocket: read once the door lets it in."""

    door: Door
    #: Seconds in which the first request must have begun.
    patience: float

    def connection_made(self, transport: Any) -> None:
        self.gate = Gate(transport, self)
        #: Bytes of the line and the headers that now come; None while none do.
        self._head: int | None = None
        super().connection_made(self.gate)
        self.gate.pause_reading()
        self.door.enter(NEWCOMER, self.gate.resume_reading)
        loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = loop.call_later(self.patience, self._late)

    def handed_over(self) -> None:
        """The connection is a WebSocket's from now on.

        Kept by its timer for as long as the patience is, the wires of a storm of connections made each look of the
        garbage collector through what lives 90 to 260 ms long.
        """
        self.parted()

    def parted(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.parser = self.cycle = None  # each knows this wire

    def _late(self) -> None:
        if self.gate.protocol is self and self.cycle is None:
            self.gate.abort()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if getattr(self, "pipeline", None):  # uvicorn reads on after each answer, however many requests it holds
            self.flow.pause_reading()

    def parse(self, data: bytes) -> None:
        super().parse(data)
        if self._head is not None:
            self._head += len(data)
            if self._head > HEAD and not self.gate.is_closing():
                self.send_400_response("the request's line and headers are too long")

    def on_message_begin(self) -> None:
        self._head = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head = None
        super().on_headers_complete()


class StreamWire(Paced, WebSocketsSansIOProtocol):
    """A WebSocket, on the gate of the connection that it was before.

    Binary messages may pass straight, without ASGI's queue and the tasks at both of its ends, which take longer than a
    small network's step: in by ``taker``, out by :meth:`give`. Whatever cannot goes by ASGI, in its order.
    """

    #: Takes a binary message before which nothing waits, or is False.
    taker: Callable[[bytes], bool] | None = None

    def connection_made(self, transport: Any) -> None:
        self.gate = transport
        if self.gate.protocol is not None:
            self.gate.protocol.handed_over()
        self.gate.protocol = self
        super().connection_made(transport)

    def parted(self) -> None:
        self.conn.parser.close()
        self.conn.parser_exc = None
        if self.handshake_initiated and hasattr(self, "scope"):
            self.scope["extensions"].pop(STRAIGHT, None)

    def data_received(self, data: bytes) -> None:
        if self.handshake_initiated:
            super().data_received(data)
        else:
            self.parse(data)  # the request once more, whose size HttpWire has bounded

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            self.scope["extensions"][STRAIGHT] = self

    def handle_bytes(self, event: Frame) -> None:
        taker = self.taker
        if taker is None or not event.fin or self.close_sent or not self.queue.empty() or not taker(bytes(event.data)):
            super().handle_bytes(event)

    @property
    def free(self) -> bool:
        """Whether a message may be given now."""
        ours = self.gate.protocol is self and not self.gate.is_closing()
        return ours and self.writable.is_set() and not self.close_sent

    def give(self, data: bytes) -> None:
        """Send a binary message; one to a client that is leaving is lost, and fails nobody else."""
        with contextlib.suppress(InvalidState, RuntimeError):
            self.conn.send_binary(data)
            self.gate.write(b"".join(self.conn.data_to_send()))


def wires(door: Door, patience: float) -> tuple[type[asyncio.Protocol], type[asyncio.Protocol]]:
    """The classes of one server's connections, for uvicorn: HTTP and WebSocket."""
    return type("HttpWire", (HttpWire,), {"door": door, "patience": patience}), StreamWire
