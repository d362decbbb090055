"""Clients of one pool on an event loop: each opens a stream, has it stepped, and drops it, in any order, for as long as
wanted. One task steps the pool in a worker thread for whoever has asked; meanwhile the others open, close, reset, fork,
dump and restore in the loop. Every output is compared, to the bit, with a stream of the client's own.

    PYTHONPATH=tests python tests/soak/asyncio_clients.py --seconds 60
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from networks import Kind, build

import cgru

KIND = Kind(24, 128, layers=2, head=5)


@dataclass
class Service:
    """A pool, and the steps that clients have asked for."""

    net: cgru.Model
    capacity: int
    threads: int = 1
    count: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.pool = self.net.pool(self.capacity)
        self.asked: asyncio.Queue[tuple[int, np.ndarray, asyncio.Future[np.ndarray]]] = asyncio.Queue()
        self.awaited: set[int] = set()  # streams whose step is asked for or under way
        self.left: set[int] = set()  # and those of them whose client has gone

    async def run(self) -> None:
        """Step for everybody who has asked, and once more for those who asked meanwhile."""
        while True:
            batch = [await self.asked.get()]
            while not self.asked.empty():
                batch.append(self.asked.get_nowait())
            sids, x, futures = zip(*batch, strict=True)
            try:
                y = await asyncio.to_thread(self.pool.step, list(sids), np.stack(x), threads=self.threads)
            except Exception as error:
                for future in futures:
                    if not future.cancelled():
                        future.set_exception(error)
                continue
            self.count["batches"] += 1
            self.awaited.difference_update(sids)
            for sid, future, row in zip(sids, futures, y, strict=True):
                if not future.cancelled():
                    future.set_result(row)
                if sid in self.left:
                    self.left.remove(sid)
                    self.pool.close(sid)

    def ask(self, sid: int, x: np.ndarray) -> asyncio.Future[np.ndarray]:
        future: asyncio.Future[np.ndarray] = asyncio.get_running_loop().create_future()
        self.asked.put_nowait((sid, x, future))
        self.awaited.add(sid)
        return future

    def leave(self, sid: int) -> None:
        """Close a stream: at once, or after the step that was asked for, which could not name it any more."""
        if sid in self.awaited:
            self.left.add(sid)
        else:
            self.pool.close(sid)


async def client(service: Service, seed: int, until: float) -> None:
    """Visits one after the other, each with a stream; AssertionError where an answer is not what one alone gives."""
    rng, count, pool, net = np.random.default_rng(seed), service.count, service.pool, service.net

    async def step(sid: int, own: cgru.Stream) -> None:
        x = rng.standard_normal(net.input_size).astype(np.float32)
        y = await service.ask(sid, x)
        want = own.step(x)
        assert np.array_equal(y, want), f"client {seed}: {y} for {want}"
        count["steps"] += 1

    while time.monotonic() < until:
        own = net.stream()
        begun = net.state({"gru.h": rng.standard_normal((1, 128))}) if rng.random() < 0.2 else None
        if begun is not None:
            own = net.stream(state=begun)
        sid = pool.open(begun)
        count["opened"] += 1
        for _ in range(rng.integers(1, 12)):
            await step(sid, own)
            what = rng.random()
            if what < 0.05:
                pool.reset(sid)
                own.reset()
                count["reset"] += 1
            elif what < 0.1:
                twin, mine = pool.fork(sid), own.copy()
                await step(twin, mine)
                pool.close(twin)
                count["forked"] += 1
            elif what < 0.15:
                blob = pool.dump(sid)
                assert blob == own.dump(), f"client {seed}: a dump differs"
                pool.close(sid)
                sid = pool.restore(blob)
                count["restored"] += 1
            elif what < 0.3:
                await asyncio.sleep(rng.random() * 0.01)
        if rng.random() < 0.1:
            service.ask(sid, np.ones(net.input_size, np.float32)).cancel()
            count["left without waiting"] += 1
        service.leave(sid)
        count["closed"] += 1


async def serve(clients: int, capacity: int, seconds: float, seed: int, threads: int = 1) -> Counter[str]:
    """So many clients for so long; what they did, by name. Whatever fails anywhere is raised."""
    service = Service(build(KIND, 1, "packed"), capacity, threads)
    runner = asyncio.create_task(service.run())
    until = time.monotonic() + seconds
    try:
        async with asyncio.TaskGroup() as group:
            for i in range(clients):
                group.create_task(client(service, seed * clients + i, until))
        while service.awaited:
            await asyncio.sleep(0.001)
    finally:
        runner.cancel()
    assert len(service.pool) == 0, f"{len(service.pool)} streams were left open"
    return service.count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--capacity", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    count = asyncio.run(serve(given.clients, given.capacity, given.seconds, given.seed, given.threads))
    print(", ".join(f"{number:,} {name}" for name, number in sorted(count.items())), "and no failed call")


if __name__ == "__main__":
    main()
