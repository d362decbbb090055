"""Clients of ``cgru serve`` that misbehave, in a process of their own (started by ``serve_traffic.py``).

    python tests/soak/serve_nuisances.py PORT FOLDER TURN CLIENTS SEED [KIND …]

They come while it storms: every second turn of ``TURN`` seconds of the monotonic clock, which all processes share.
FOLDER holds ``x.npy`` (N, T, I), sequences that a whole-sequence request sends, and ``y.npy``, what it must answer.
Prints "ready", and ends on SIGTERM with one line of JSON: how many of each kind there were.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

#: Methods of :class:`Nuisances`, and how often each comes. A whole sequence is no nuisance but honest work.
KINDS = {
    "vanishes": 10, "deaf": 10, "noisy": 10, "oversized": 10, "halved": 10, "words": 10, "http": 10, "sequences": 1,
}  # fmt: skip


def storms(turn: float) -> bool:
    """Whether it storms now."""
    return int(time.monotonic() / turn) % 2 == 1


class Nuisances:
    def __init__(
        self, port: int, xs: np.ndarray, ys: np.ndarray, turn: float, seed: int, kinds: Sequence[str] = tuple(KINDS)
    ) -> None:
        self.port, self.xs, self.ys, self.turn, self.kinds = port, xs, ys, turn, kinds
        self.bodies = [json.dumps({"x": x.tolist()}).encode() for x in xs]
        self.rng = random.Random(seed)
        self.count: Counter[str] = Counter()

    async def nuisance(self) -> None:
        while True:
            await asyncio.sleep(self.rng.random() * 0.2)
            if storms(self.turn):
                kind = self.rng.choices(self.kinds, [KINDS[kind] for kind in self.kinds])[0]
                self.count[kind] += 1
                with contextlib.suppress(WebSocketException, InvalidStatus, OSError, TimeoutError, EOFError):
                    async with asyncio.timeout(8):
                        await getattr(self, kind)()

    def connect(self) -> Any:
        url = f"ws://127.0.0.1:{self.port}/v1/stream"
        return connect(url, compression=None, open_timeout=60, ping_interval=None, close_timeout=1)

    async def vanishes(self) -> None:
        """Sends fifty frames and drops the connection."""
        async with self.connect() as ws:
            await ws.send(self.xs[0][:50].tobytes())
            ws.transport.abort()

    async def deaf(self) -> None:
        """Sends as fast as it is read, and reads nothing."""
        _, writer = await self.raw()
        flood = b"\x82\xff" + self.xs[0].nbytes.to_bytes(8, "big") + bytes(4) + self.xs[0].tobytes()
        try:
            while storms(self.turn):
                writer.write(flood)
                await writer.drain()
        finally:
            writer.transport.abort()

    async def noisy(self) -> None:
        async with self.connect() as ws:
            await ws.recv()
            await ws.send(self.rng.randbytes(self.rng.randrange(1, 5000)))
            await self.end(ws)

    async def words(self) -> None:
        async with self.connect() as ws:
            await ws.recv()
            await ws.send(self.rng.choice(["", "{", '{"op": "x"}', "[" * 3000, "\u2603" * 100]))
            await self.end(ws)

    async def oversized(self) -> None:
        async with self.connect() as ws:
            await ws.send(bytes(3 << 20))
            await self.end(ws)

    async def end(self, ws: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await ws.recv()

    async def halved(self) -> None:
        """Half of a frame, a byte at a time, and then nothing."""
        _, writer = await self.raw()
        for byte in b"\x82\xfe\x10\x00\0\0\0\0half of it":
            writer.write(bytes([byte]))
            await asyncio.sleep(0.05)
        writer.transport.abort()

    async def raw(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A WebSocket of which only the handshake is kept."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 10)
        writer.write(b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n")  # fmt: skip
        await reader.readuntil(b"\r\n\r\n")
        return reader, writer

    async def http(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(self.rng.choice([b"\0" * 5000, b"GET / HTTP/7\r\n\r\n", b"POST /v1/run HTTP/1.1\r\nHost: x\r\n"
                                      b"Content-Length: 100000\r\n\r\n{", self.rng.randbytes(2000)]))  # fmt: skip
        await asyncio.wait([asyncio.create_task(reader.read(100))], timeout=2)
        writer.transport.abort()

    async def sequences(self) -> None:
        """A whole sequence beside the streams: no misbehaviour, but work of another size."""
        which = self.rng.randrange(len(self.xs))
        body = self.bodies[which]
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"POST /v1/run HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
                     b"Content-Length: %d\r\n\r\n" % len(body) + body)  # fmt: skip
        answer = await reader.read(-1)
        writer.close()
        y = np.array(json.loads(answer.partition(b"\r\n\r\n")[2])["y"], np.float32)
        assert y.tobytes() == self.ys[which].tobytes(), "a whole sequence came back with other numbers"


async def run(
    port: int, folder: Path, turn: float, clients: int, seed: int, kinds: Sequence[str] = tuple(KINDS)
) -> dict[str, int]:
    traffic = Nuisances(port, np.load(folder / "x.npy"), np.load(folder / "y.npy"), turn, seed, kinds)
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    print("ready", flush=True)
    tasks = [asyncio.create_task(traffic.nuisance()) for _ in range(clients)]
    ended = asyncio.create_task(over.wait())
    waited: list[asyncio.Task[Any]] = [ended, *tasks]
    done, _ = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    for task in done:
        task.result()
    return dict(traffic.count)


if __name__ == "__main__":
    os.nice(19)  # they stand for other machines: what they compute must not delay the clients that measure
    port, folder, turn, clients, seed, *kinds = sys.argv[1:]
    told = asyncio.run(run(int(port), Path(folder), float(turn), int(clients), int(seed), kinds or tuple(KINDS)))
    print(json.dumps(told), flush=True)
