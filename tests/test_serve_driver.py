"""The scheduler on an event loop: clients beside one another, slow, deaf, leaving, and steps that fail."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from networks import Kind, build, noise

import cgru
from cgru.serve.driver import Driver
from cgru.serve.ticks import Channel, Ticks

KIND = Kind(6, 20, layers=2, head=3)
FLOAT = np.dtype("<f4")


class Slow:
    """A pool whose steps take as long as the test says, or fail; a step takes one thread at a time."""

    def __init__(self, pool: Any, before: Callable[[], object] = lambda: None) -> None:
        self.pool, self.before, self.rows, self.threads = pool, before, [0][:0], set[int]()

    def step(self, sids: Any, x: Any) -> np.ndarray:
        self.threads.add(threading.get_ident())
        self.rows.append(len(sids))
        self.before()
        found: np.ndarray = self.pool.step(sids, x)
        return found

    def close(self, sid: int) -> None:
        self.pool.close(sid)


async def feed(driver: Driver, sid: int, x: np.ndarray, sizes: Sequence[int] = (1,)) -> bytes:
    """Send x in messages of those sizes while reading, and return all that comes."""
    channel = driver.open(sid)

    async def send() -> None:
        at = k = 0
        while at < len(x):
            await driver.send(channel, x[at : at + sizes[k % len(sizes)]].tobytes())
            at, k = at + sizes[k % len(sizes)], k + 1

    sending = asyncio.create_task(send())
    found = b""
    while len(found) < 12 * len(x):
        found += b"".join(await driver.receive(channel))
    await sending
    driver.close(channel)
    return found


@pytest.mark.parametrize("inline", [True, False])
def test_clients_beside_one_another_get_what_they_would_alone(
    inline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("INLINE", "INLINE_ON_ONE_CORE"):
        monkeypatch.setattr(f"cgru.serve.driver.{limit}", float("inf") if inline else 0.0)
    net = build(KIND, 1, "packed")
    pool = net.pool(30)
    xs = [noise((20 + 11 * k, 6), k) for k in range(30)]
    slow = Slow(pool)

    async def scenario() -> list[bytes]:
        async with Driver(slow, Ticks(6, FLOAT, behind=7), ahead=5) as driver:
            return await asyncio.gather(
                *(feed(driver, pool.open(), x, [1 + k % 4, 9, 1]) for k, x in enumerate(xs))
            )

    for x, y in zip(xs, asyncio.run(scenario()), strict=True):
        assert y == net.stream().feed(x).tobytes()
    assert len(pool) == 0
    assert sum(slow.rows) == sum(map(len, xs))
    assert max(slow.rows) > 15, "hardly any two ever shared a step"
    # A round of unknown length goes to the worker, so inline there are two threads, and otherwise one.
    assert (threading.get_ident() in slow.threads) == inline


def test_what_a_client_has_waiting_is_bounded() -> None:
    net = build(KIND, 1, "packed")
    pool = net.pool(2)
    x = noise((500, 6), 3)

    async def scenario() -> tuple[int, int, bytes]:
        async with Driver(pool, Ticks(6, FLOAT, behind=8), ahead=16) as driver:
            deaf = driver.open(pool.open())
            flood = asyncio.create_task(driver.send(deaf, x.tobytes()))
            other = await feed(driver, pool.open(), x)
            assert not flood.done()
            waiting = len(deaf.frames), len(deaf.outputs)
            flood.cancel()
            return *waiting, other

    frames, outputs, other = asyncio.run(scenario())
    assert frames <= 16
    assert outputs <= 8
    assert other == net.stream().feed(x).tobytes()


def test_one_that_leaves_in_a_step_is_closed_after_it() -> None:
    net = build(KIND, 1, "packed")
    pool = net.pool(2)
    entered, go = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        assert go.wait(30)

    async def scenario() -> int:
        async with Driver(Slow(pool, hold), Ticks(6, FLOAT)) as driver:
            leaving = driver.open(pool.open())
            await driver.send(leaving, noise((3, 6), 0).tobytes())
            assert await asyncio.to_thread(entered.wait, 30)
            driver.close(leaving)
            driver.close(leaving)
            assert len(pool) == 1, "closed in the middle of its step"
            go.set()
            while len(pool):
                await asyncio.sleep(0.001)
            return leaving.steps

    assert asyncio.run(scenario()) == 1


def test_the_end_waits_for_the_step_under_way() -> None:
    net = build(KIND, 1, "packed")
    pool = net.pool(1)
    x = noise((1, 6), 0)
    entered, go = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        assert go.wait(30)

    async def scenario() -> Channel:
        driver = Driver(Slow(pool, hold), Ticks(6, FLOAT))
        async with driver:
            channel = driver.open(pool.open())
            await driver.send(channel, x.tobytes())
            assert await asyncio.to_thread(entered.wait, 30)
            asyncio.get_running_loop().call_later(0.05, go.set)
        return channel

    channel = asyncio.run(scenario())
    assert b"".join(channel.outputs) == net.stream().feed(x).tobytes()
    assert len(pool) == 0


def test_a_step_that_fails_ends_its_clients_and_nobody_else() -> None:
    net = build(KIND, 1, "packed")
    pool = net.pool(3)
    x = noise((5, 6), 0)
    failing = [True]

    def fail() -> None:
        if failing.pop() if failing else False:
            raise MemoryError("none left")

    async def scenario() -> bytes:
        async with Driver(Slow(pool, fail), Ticks(6, FLOAT)) as driver:
            with pytest.raises(MemoryError, match="none left"):
                await feed(driver, pool.open(), x)
            return await feed(driver, pool.open(), x)

    assert asyncio.run(scenario()) == net.stream().feed(x).tobytes()


def test_nan_of_one_client_reaches_no_other() -> None:
    net: cgru.Model = build(KIND, 1, "packed")
    pool = net.pool(3)
    xs = [noise((40, 6), k) for k in range(3)]
    ill = xs[1].copy()
    ill[10] = np.nan

    async def scenario() -> list[bytes]:
        async with Driver(pool, Ticks(6, FLOAT)) as driver:
            return await asyncio.gather(*(feed(driver, pool.open(), x) for x in (xs[0], ill, xs[2])))

    found = asyncio.run(scenario())
    assert found[0] == net.stream().feed(xs[0]).tobytes()
    assert found[2] == net.stream().feed(xs[2]).tobytes()
    assert found[1][: 10 * 12] == net.stream().feed(xs[1][:10]).tobytes()
    assert np.isnan(np.frombuffer(found[1][10 * 12 :], FLOAT)).all()
