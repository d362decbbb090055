"""A WebSocket client as lean as asyncio allows (RFC 6455), so that hundreds of real-time streams fit one core.

It knows what ``cgru serve`` needs and no more: a handshake, whole binary and text messages in either direction, close.
Messages go out with mask 0, which leaves their payload as it is.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Callable
from typing import Any


class Lean(asyncio.Protocol):
    """One connection. ``heard(kind, payload)``, if any, is told of every text (1) and binary (2) message."""

    def __init__(self, path: str, heard: Callable[[int, bytes], None]) -> None:
        self._request = (
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        ).encode()
        self.heard: Callable[[int, bytes], None] | None = heard
        self._open = False
        self._buffer = b""
        #: Why the connection is over; None while it is not.
        self.lost: str | None = None

    async def open(self, port: int) -> None:
        """Connect to a server on this machine."""
        await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", port)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(self._request)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = self.lost or f"connection lost ({error})"

    def data_received(self, data: bytes) -> None:
        self._buffer = buffer = self._buffer + data if self._buffer else data
        if not self._open:
            head, found, rest = buffer.partition(b"\r\n\r\n")
            if not found:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self.lost = f"refused: {head[:80]!r} {rest[:200]!r}"
                self.transport.abort()
                return
            self._open, buffer = True, rest
        while len(buffer) >= 2:
            kind, size, at = buffer[0] & 15, buffer[1], 2
            if size > 125:
                at = 4 if size == 126 else 10
                size = int.from_bytes(buffer[2:at], "big")
            if len(buffer) < at + size:
                break
            payload, buffer = buffer[at : at + size], buffer[at + size :]
            if kind in (1, 2):
                if self.heard is not None:
                    self.heard(kind, payload)
            elif kind == 8:
                self.lost = f"closed by the server: {payload[2:]!r}"
            elif kind == 9:
                self.transport.write(message(10, payload))
        self._buffer = buffer

    def close(self) -> None:
        """Say goodbye with status 1000, then close."""
        self.transport.write(message(8, (1000).to_bytes(2, "big")))
        self.transport.close()

    def abort(self) -> None:
        self.transport.abort()


def message(kind: int, payload: bytes) -> bytes:
    """One unfragmented message: 1 text, 2 binary, 8 close, 10 pong."""
    size = len(payload)
    if size < 126:
        told = bytes([128 | size])
    else:
        told = b"\xfe" + size.to_bytes(2, "big") if size < 1 << 16 else b"\xff" + size.to_bytes(8, "big")
    return bytes([128 | kind]) + told + bytes(4) + payload
