"""A service that holds many clients' streams in one pool and steps together whichever have input.

    python examples/stream_service.py model.pt --port 7000

A client connects over TCP and is told the features of a step in and out: two little-endian 32-bit numbers (0 and 0:
no place is free). From then on it sends steps, I float32 each, and receives O float32 for each, in order. It may send
as many as it likes before it reads.

One task a client waits for a whole step of input, hands it to the next tick, and sends the result before it reads on:
who does not read is not read from, so a slow client fills its own socket and nothing else. One task ticks: it takes
what is waiting, at most one step of each client, and advances all in one call. The pool is one task's at a time, since
the call runs in a thread of its own while the loop serves the sockets.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import struct
import sys
from typing import Self

import numpy as np

import cgru

HELLO = struct.Struct("<II")
TICK = 0.001  # seconds to wait for company once somebody has input


class Service:
    """The network's pool behind a TCP port: ``async with Service(net, capacity=1000) as service: …``."""

    def __init__(self, net: cgru.Model, capacity: int, host: str = "127.0.0.1", port: int = 0) -> None:
        self.net, self.pool = net, net.pool(capacity)
        self.address = host, port
        self.waiting: dict[int, tuple[np.ndarray, asyncio.Future[np.ndarray]]] = {}
        self.something = asyncio.Event()
        self.turn = asyncio.Lock()
        self.clients: set[asyncio.Task[None]] = set()
        self.ticks = self.steps = 0

    async def __aenter__(self) -> Self:
        self.server = await asyncio.start_server(self.client, *self.address)
        self.address = self.server.sockets[0].getsockname()[:2]
        self.ticker = asyncio.create_task(self.tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        for task in (*self.clients, self.ticker):
            task.cancel()
        await asyncio.gather(*self.clients, self.ticker, return_exceptions=True)

    async def client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client from its first byte to its last."""
        task = asyncio.current_task()
        assert task is not None
        self.clients.add(task)
        sid = None
        try:
            async with self.turn:
                if len(self.pool) < self.pool.capacity:
                    sid = self.pool.open()
            sizes = (0, 0) if sid is None else (self.net.input_size, self.net.output_size)
            writer.write(HELLO.pack(*sizes))
            await writer.drain()
            while sid is not None:
                x = np.frombuffer(await reader.readexactly(4 * self.net.input_size), "<f4")
                writer.write((await self.stepped(sid, x)).astype("<f4", copy=False).tobytes())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone, perhaps in the middle of a step
        except Exception as error:
            print(f"client dropped: {error}", file=sys.stderr)
        finally:
            if sid is not None:
                self.waiting.pop(sid, None)
                async with self.turn:
                    self.pool.close(sid)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            self.clients.discard(task)

    async def stepped(self, sid: int, x: np.ndarray) -> np.ndarray:
        """The stream's output for one step, from the next tick."""
        future: asyncio.Future[np.ndarray] = asyncio.get_running_loop().create_future()
        self.waiting[sid] = x, future
        self.something.set()
        return await future

    async def tick(self) -> None:
        """Step whoever waits, again and again."""
        while True:
            await self.something.wait()
            await asyncio.sleep(TICK)
            async with self.turn:
                self.something.clear()
                batch, self.waiting = self.waiting, {}
                if not batch:
                    continue
                x = np.stack([x for x, _ in batch.values()])
                try:
                    results: list[np.ndarray] | Exception = list(
                        await asyncio.to_thread(self.pool.step, list(batch), x)
                    )
                except Exception as error:  # no memory, say: these clients are let go, the service goes on
                    results = error
                self.ticks, self.steps = self.ticks + 1, self.steps + len(batch)
            for i, (_, future) in enumerate(batch.values()):
                if future.done():  # its client has gone meanwhile
                    continue
                if isinstance(results, Exception):
                    future.set_exception(results)
                else:
                    future.set_result(results[i])


async def ask(host: str, port: int, xs: np.ndarray) -> np.ndarray:
    """A client: sends all steps xs (T, I) while it reads, and returns the outputs (T, O)."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        inputs, outputs = HELLO.unpack(await reader.readexactly(HELLO.size))
        if not inputs:
            raise ConnectionRefusedError("every place is taken")

        async def send() -> None:
            for x in xs:
                writer.write(np.asarray(x, "<f4").tobytes())
                await writer.drain()

        sending = asyncio.create_task(send())
        ys = [np.frombuffer(await reader.readexactly(4 * outputs), "<f4") for _ in xs]
        await sending
        return np.stack(ys) if ys else np.empty((0, outputs), np.float32)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def serve(path: str, capacity: int, host: str, port: int) -> None:
    async with Service(cgru.load(path), capacity, host, port) as service:
        print(f"{service.net!r}: {capacity} places on {service.address[0]} port {service.address[1]}")
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--capacity", type=int, default=1000)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7000)
    args = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(args.model, args.capacity, args.host, args.port))


if __name__ == "__main__":
    main()
