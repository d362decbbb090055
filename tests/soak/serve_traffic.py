"""Real-time clients of ``cgru serve`` beside clients that misbehave, for as long as you like.

    PYTHONPATH=tests python tests/soak/serve_traffic.py --seconds 1800 --streams 60

The server runs in a process of its own. Well-behaved clients send a frame every 10 ms, in sessions of a few hundred
frames; every tenth session breaks its connection in the middle and resumes. Calm and storm take turns: in a storm
others connect who vanish in the middle of a message, never read, send noise, messages that are too large, half of a
message and then nothing, broken HTTP, and requests for whole sequences. What is checked all the time: every output of
the well-behaved, to the bit, none missing and none twice; that the server goes on; that its memory does not grow. Ends
with a line of figures: latencies of the well-behaved in calm and in storm, and memory.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from networks import Kind, build, noise
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

KIND = Kind(32, 96, layers=2, head=32)
FRAME, FRAMES, INPUTS = 0.010, 400, 16
TURN = 5.0  # seconds of calm, and of storm


class Traffic:
    """The clients, and what they have seen."""

    def __init__(self, port: int, seed: int) -> None:
        self.port, self.rng = port, random.Random(seed)
        net = build(KIND, 1, "packed")
        self.xs = [noise((FRAMES, KIND.inputs), k) for k in range(INPUTS)]
        self.ys = [net.stream().feed(x).tobytes() for x in self.xs]
        self.storm, self.over = False, False
        self.latencies: dict[bool, list[float]] = {False: [], True: []}
        self.count: Counter[str] = Counter()

    def connect(self, query: str = "", **options: Any) -> Any:
        url = f"ws://127.0.0.1:{self.port}/v1/stream{query}"
        return connect(url, compression=None, open_timeout=60, ping_interval=None, close_timeout=1, **options)

    # ---- the well-behaved ---------------------------------------------------------------------------------------

    async def client(self) -> None:
        while not self.over:
            which = self.rng.randrange(INPUTS)
            breaks = self.rng.randrange(50, FRAMES - 50) if self.rng.random() < 0.1 else FRAMES
            got, token = await self.session(which, b"", "", breaks)
            if breaks < FRAMES:
                got, _ = await self.session(which, got, token, FRAMES)
                self.count["resumed"] += 1
            assert got == self.ys[which], f"other outputs: {len(got)} bytes of {len(self.ys[which])}"
            self.count["sessions"] += 1

    async def session(self, which: int, got: bytes, token: str, until: int) -> tuple[bytes, str]:
        """Frames in real time from where the server is, until ``until`` of them are sent: what has come by then."""
        size, x = 4 * KIND.head, self.xs[which]  # type: ignore[operator]
        query = f"?resume={token}&have={len(got) // size}" if token else ""
        ws = await self.connect(query)
        hello = json.loads(await ws.recv())
        begin = hello["steps"]
        assert begin - hello["replayed"] <= len(got) // size, "outputs that were lost are gone"
        due: dict[int, tuple[float, bool]] = {}

        async def send() -> None:
            start = time.perf_counter()
            for k in range(begin, until):
                at = start + (k - begin) * FRAME
                await asyncio.sleep(max(0.0, at - time.perf_counter()))
                due[k] = max(at, time.perf_counter() - FRAME), self.storm
                await ws.send(x[k].tobytes())

        sending = asyncio.create_task(send())
        while len(got) < size * until:
            message = await ws.recv()
            assert isinstance(message, bytes), message
            now = time.perf_counter()
            for k in range(len(got) // size, (len(got) + len(message)) // size):
                if k in due:
                    at, storm = due.pop(k)
                    self.latencies[storm].append(now - at)
            got += message
            self.count["steps"] += len(message) // size
            if until < FRAMES and len(got) >= size * (until - 5):
                sending.cancel()
                ws.transport.abort()  # with some steps on their way
                return got, hello["token"]
        await sending
        await ws.close()
        return got, hello["token"]

    # ---- the others ---------------------------------------------------------------------------------------------

    async def nuisance(self) -> None:
        kinds = [self.vanishes, self.deaf, self.noisy, self.oversized]
        kinds += [self.halved, self.words, self.http, self.sequences]
        while not self.over:
            await asyncio.sleep(self.rng.random() * 0.2)
            if self.storm:
                kind = self.rng.choice(kinds)
                self.count[kind.__name__] += 1
                with contextlib.suppress(WebSocketException, InvalidStatus, OSError, TimeoutError, EOFError):
                    async with asyncio.timeout(8):
                        await kind()

    async def vanishes(self) -> None:
        async with self.connect() as ws:
            await ws.send(self.xs[0][:50].tobytes())
            ws.transport.abort()

    async def deaf(self) -> None:
        """Sends as fast as it is read, and reads nothing."""
        _, writer = await self.raw()
        flood = b"\x82\xff" + self.xs[0].nbytes.to_bytes(8, "big") + bytes(4) + self.xs[0].tobytes()
        try:
            while self.storm:
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
        """A whole sequence beside the streams."""
        which = self.rng.randrange(INPUTS)
        body = json.dumps({"x": self.xs[which].tolist()}).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"POST /v1/run HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
                     b"Content-Length: %d\r\n\r\n" % len(body) + body)  # fmt: skip
        answer = await reader.read(-1)
        writer.close()
        y = np.array(json.loads(answer.partition(b"\r\n\r\n")[2])["y"], np.float32)
        assert y.tobytes() == self.ys[which]


def resident(pid: int) -> float:
    """Megabytes."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else float("nan")


async def run(port: int, pid: int, streams: int, seconds: float, seed: int = 0, turn: float = TURN) -> dict[str, Any]:
    """The figures. Raises where anything of the well-behaved is lost, doubled or other than it would be alone."""
    traffic = Traffic(port, seed)
    clients = [asyncio.create_task(traffic.client()) for _ in range(streams)]
    others = [asyncio.create_task(traffic.nuisance()) for _ in range(max(4, streams // 5))]
    memory, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        done, _ = await asyncio.wait([*clients, *others], timeout=turn, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
        traffic.storm = not traffic.storm
        memory.append(resident(pid))
    traffic.over, traffic.storm = True, False
    await asyncio.gather(*clients, *others)
    quarter = max(1, len(memory) // 4)
    calm, storm = (1e3 * np.percentile(traffic.latencies[k] or [np.nan], [50, 99, 99.9]) for k in (False, True))
    return {"counts": dict(traffic.count), "calm": calm.tolist(), "storm": storm.tolist(),
            "memory": [float(np.median(memory[:quarter])), float(np.median(memory[-quarter:]))]}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--streams", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "net.safetensors")
        build(KIND, 1, "packed").save(path)
        command = [sys.executable, "-m", "cgru", "serve", path, "--port", "0", "--idle", "20", "--keep", "5"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            found = re.search(r"127\.0\.0\.1:(\d+)", server.stdout.readline())
            assert found is not None, "the server did not start"
            told = asyncio.run(run(int(found[1]), server.pid, args.streams, args.seconds, args.seed))
        finally:
            server.terminate()
            status = server.wait(30)
    counts = told["counts"]
    print(f"{counts.pop('steps', 0):,} steps in {counts.pop('sessions', 0):,} sessions, all with the bits they have "
          f"alone, {counts.pop('resumed', 0)} resumed; beside them {counts}")  # fmt: skip
    for name in ("calm", "storm"):
        p50, p99, p999 = told[name]
        print(f"{name:5}: p50 {p50:.2f}  p99 {p99:.2f}  p99.9 {p999:.2f} ms")
    begin, end = told["memory"]
    print(f"p99 in storm over calm {told['storm'][1] / told['calm'][1]:.2f}; memory {begin:.1f} → {end:.1f} MB; "
          f"the server ended with {status}")  # fmt: skip
    assert status == 0, f"the server ended with {status}"


if __name__ == "__main__":
    main()
