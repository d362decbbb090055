"""Real-time clients of ``cgru serve`` beside clients that misbehave, for as long as you like.

    PYTHONPATH=tests python tests/soak/serve_traffic.py --seconds 1800 --streams 110
    PYTHONPATH=tests python tests/soak/serve_traffic.py --seconds 60 --streams 20 --network small

The server runs in a process of its own on one core; the clients in this process, and those that misbehave in a third
(``serve_nuisances.py``), share the others. Well-behaved clients send a frame every 10 ms, in sessions of a few hundred
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
import gc
import heapq
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from networks import Kind, build, noise
from serve_nuisances import KINDS as KINDS_OF_NUISANCE
from serve_nuisances import storms
from websocket_client import Lean, message

KINDS = {
    "small": (Kind(32, 96, layers=2, head=32), "float32"),
    "denoiser": (Kind(161, 400, layers=2, head=161), "int8"),
}
FRAME, FRAMES, INPUTS = 0.010, 400, 16
TURN = 5.0  # seconds of calm, and of storm
NUISANCES = Path(__file__).with_name("serve_nuisances.py")
#: How long a session may take to begin, and its last output to come.
PATIENCE = 30.0


class Session:
    """One stream of a well-behaved client, from where the server is to the frame ``until``."""

    def __init__(self, traffic: Traffic, which: int, got: bytes, until: int) -> None:
        self.traffic, self.which, self.until = traffic, which, until
        self.parts, self.steps = [got] if got else [], len(got) // traffic.size
        self.hello: dict[str, Any] = {}
        self.due: deque[tuple[int, float, bool]] = deque()
        self.next = 0
        self.done = asyncio.get_running_loop().create_future()

    @property
    def got(self) -> bytes:
        """The outputs so far, those of the sessions before it included."""
        return b"".join(self.parts)

    async def run(self, query: str) -> None:
        self.connection = Lean(f"/v1/stream{query}", self.heard)
        await self.connection.open(self.traffic.port)
        try:
            await asyncio.wait_for(self.done, PATIENCE + (self.until + 1) * FRAME)
        except TimeoutError:
            raise AssertionError(f"{self.steps} of {self.until} outputs came; {self.connection.lost}") from None
        if self.until < FRAMES:
            self.connection.abort()  # with some steps on their way
        else:
            self.connection.close()
        self.connection.heard = None  # a circle that only the garbage collector would find

    def heard(self, kind: int, payload: bytes) -> None:
        now = time.perf_counter()
        if kind == 1:
            self.begin(json.loads(payload), now)
            return
        size = self.traffic.size
        self.parts.append(payload)
        for _ in range(len(payload) // size):
            if self.due and self.due[0][0] == self.steps:
                _, at, storm = self.due.popleft()
                self.traffic.latencies[storm].append(now - at)
            self.steps += 1
        self.traffic.count["steps"] += len(payload) // size
        enough = self.until if self.until == FRAMES else self.until - 5
        if self.steps >= enough and not self.done.done():
            self.done.set_result(None)

    def begin(self, hello: dict[str, Any], now: float) -> None:
        if hello["op"] != "open":
            raise AssertionError(hello)
        self.hello, self.next = hello, hello["steps"]
        assert self.next - hello["replayed"] <= self.steps, "outputs that were lost are gone"
        self.traffic.later(now, self)

    def send(self, at: float) -> None:
        """The next frame, which was due at ``at``."""
        if self.done.done():
            return
        storm = storms(self.traffic.turn)
        self.due.append((self.next, at, storm))
        self.traffic.late[storm].append(time.perf_counter() - at)
        self.connection.transport.write(self.traffic.messages[self.which][self.next])
        self.next += 1
        if self.next < self.until:
            self.traffic.later(at + FRAME, self)


class Traffic:
    """The well-behaved clients, and what they have seen."""

    def __init__(self, port: int, net: Any, turn: float, seed: int) -> None:
        self.port, self.turn, self.rng = port, turn, random.Random(seed)
        self.xs = np.stack([noise((FRAMES, net.input_size), k) for k in range(INPUTS)])
        self.whole = np.stack([net.stream().feed(x) for x in self.xs])
        self.ys = [y.tobytes() for y in self.whole]
        self.messages = [[message(2, frame.tobytes()) for frame in x] for x in self.xs]
        self.size = 4 * net.output_size
        self.over = False
        self.latencies: dict[bool, list[float]] = {False: [], True: []}
        #: How much later than they were due frames were sent: what the latencies owe to the clients.
        self.late: dict[bool, list[float]] = {False: [], True: []}
        self.count: Counter[str] = Counter()
        self._queue: list[tuple[float, int, Session]] = []
        self._number = 0

    def later(self, at: float, session: Session) -> None:
        """Let ``session`` send at ``at``."""
        self._number += 1
        heapq.heappush(self._queue, (at, self._number, session))

    async def sends(self) -> None:
        """Send what is due, of all sessions in one loop: a timer for each would cost more than its frame."""
        while True:
            now = time.perf_counter()
            while self._queue and self._queue[0][0] <= now:
                at, _, session = heapq.heappop(self._queue)
                session.send(at)
            await asyncio.sleep(0.001)

    async def client(self) -> None:
        await asyncio.sleep(self.rng.random() * FRAMES * FRAME)  # sessions that began together would end together
        while not self.over:
            which = self.rng.randrange(INPUTS)
            breaks = self.rng.randrange(FRAMES // 8, FRAMES * 7 // 8) if self.rng.random() < 0.1 else FRAMES
            session = Session(self, which, b"", breaks)
            await session.run("")
            if breaks < FRAMES:
                token, got = session.hello["token"], session.got
                session = Session(self, which, got, FRAMES)
                await session.run(f"?resume={token}&have={session.steps}")
                self.count["resumed"] += 1
            got = session.got
            assert got == self.ys[which], f"other outputs: {len(got)} bytes of {len(self.ys[which])}"
            self.count["sessions"] += 1


def resident(pid: int) -> float:
    """Megabytes."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else float("nan")


async def run(
    port: int,
    pid: int,
    net: Any,
    streams: int,
    seconds: float,
    *,
    seed: int = 0,
    turn: float = TURN,
    nuisances: Sequence[str] = (),
) -> dict[str, Any]:
    """The figures. Raises where anything of the well-behaved is lost, doubled or other than it would be alone."""
    traffic = Traffic(port, net, turn, seed)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "x.npy", traffic.xs)
        np.save(Path(folder) / "y.npy", traffic.whole)
        command = [sys.executable, NUISANCES, port, folder, turn, max(4, streams // 5), seed, *nuisances]
        others = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, text=True)
        try:
            assert others.stdout is not None
            begun = await asyncio.to_thread(others.stdout.readline)
            assert begun == "ready\n", "those that misbehave did not start"
            memory = await _watched(traffic, pid, others, streams, seconds)
        finally:
            others.terminate()
            told, _ = others.communicate(timeout=60)
    assert others.returncode == 0, f"those that misbehave ended with {others.returncode}"
    quarter = max(1, len(memory) // 4)
    return {"counts": dict(traffic.count), "others": json.loads(told),
            "calm": _percentiles(traffic.latencies[False]), "storm": _percentiles(traffic.latencies[True]),
            "late": {"calm": _percentiles(traffic.late[False]), "storm": _percentiles(traffic.late[True])},
            "memory": [float(np.median(memory[:quarter])), float(np.median(memory[-quarter:]))]}  # fmt: skip


def _percentiles(seconds: list[float]) -> list[float]:
    """The 50th, 99th and 99.9th, and the largest, in milliseconds."""
    found: list[float] = (1e3 * np.percentile(seconds or [np.nan], [50, 99, 99.9, 100])).tolist()
    return found


async def _watched(traffic: Traffic, pid: int, others: Any, streams: int, seconds: float) -> list[float]:
    """Run the clients until the time is over; the server's memory now and then."""
    sending = asyncio.create_task(traffic.sends())
    clients = [asyncio.create_task(traffic.client()) for _ in range(streams)]
    memory, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        done, _ = await asyncio.wait([sending, *clients], timeout=traffic.turn, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
        assert others.poll() is None, "those that misbehave are gone: an answer was wrong"
        memory.append(resident(pid))
    traffic.over = True
    await asyncio.gather(*clients)
    sending.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await sending
    return memory


def pin(pid: int, cores: set[int]) -> None:
    """All threads of a process."""
    for task in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(task), cores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--streams", type=int, default=110)
    parser.add_argument("--network", choices=sorted(KINDS), default="denoiser")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pin", action="store_true")
    parser.add_argument("--nuisances", nargs="+", choices=KINDS_OF_NUISANCE, default=[], help="only these kinds")
    args = parser.parse_args()
    kind, precision = KINDS[args.network]
    net = build(kind, 1, "packed")
    if precision != "float32":
        net = net.quantize(precision)
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "net.safetensors")
        net.save(path)
        command = [sys.executable, "-m", "cgru", "serve", path, "--port", "0", "--idle", "20", "--keep", "5"]
        apart = args.pin and len(cores) > 1
        if apart:
            pin(os.getpid(), {cores[-1]})  # the server begins on its core, and knows that it is one
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            if apart:
                pin(os.getpid(), set(cores[:-1]))
            assert server.stdout is not None
            found = re.search(r"127\.0\.0\.1:(\d+)", server.stdout.readline())
            assert found is not None, "the server did not start"
            # Their own pauses are no latency of the server's: what is here stays, and sessions leave no circles behind.
            gc.collect()
            gc.freeze()
            gc.set_threshold(50_000, 20, 100)
            told = _loop(run(int(found[1]), server.pid, net, args.streams, args.seconds, seed=args.seed,
                             nuisances=args.nuisances))  # fmt: skip
        finally:
            server.terminate()
            status = server.wait(30)
    counts = told["counts"]
    print(f"{counts.pop('steps', 0):,} steps in {counts.pop('sessions', 0):,} sessions, all with the bits they have "
          f"alone, {counts.pop('resumed', 0)} resumed; beside them {told['others']}")  # fmt: skip
    for name in ("calm", "storm"):
        p50, p99, p999, most = told[name]
        print(f"{name:5}: p50 {p50:.2f}  p99 {p99:.2f}  p99.9 {p999:.2f}  most {most:.1f} ms; the clients themselves "
              f"sent late by p99 {told['late'][name][1]:.2f}, at most {told['late'][name][3]:.1f} ms")  # fmt: skip
    begin, end = told["memory"]
    print(f"p99 in storm over calm {told['storm'][1] / told['calm'][1]:.2f}; memory {begin:.1f} → {end:.1f} MB; "
          f"the server ended with {status}")  # fmt: skip
    assert status == 0, f"the server ended with {status}"


def _loop(work: Any) -> Any:
    """Run on uvloop where it is, as the server does: the clients share the machine with it."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return asyncio.run(work)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(work)


if __name__ == "__main__":
    main()
