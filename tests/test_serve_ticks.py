"""The scheduler of ``cgru serve`` on seconds that the tests count themselves: who steps when, with which bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import Kind, build, noise

from cgru.serve.ticks import Batch, Channel, Ticks

FLOAT = np.dtype("<f4")


def ticks(streams: int, **options: float) -> tuple[Ticks, list[Channel]]:
    made = Ticks(1, FLOAT, **options)  # type: ignore[arg-type]
    made.open = streams
    return made, [Channel(i) for i in range(streams)]


def frame(value: float) -> bytes:
    return np.array([value], FLOAT).tobytes()


def round_of(made: Ticks, now: float, took: float) -> Batch:
    """One step that doubles its input and takes ``took`` seconds."""
    batch = made.take(now)
    assert batch is not None
    made.deliver(batch, 2 * batch.x, now + took)
    return batch


def received(made: Ticks, channel: Channel, now: float = 0.0) -> list[float]:
    return [float(np.frombuffer(y, FLOAT)[0]) for y in made.collect(channel, now)]


def test_nothing_to_do_until_a_frame_comes() -> None:
    made, (one,) = ticks(1)
    assert made.wait(0.0) is None
    assert made.take(0.0) is None
    made.push(one, [frame(3)], 0.0)
    assert made.wait(0.0) == 0
    round_of(made, 0.0, 0.001)
    assert received(made, one) == [6]
    assert made.wait(1.0) is None


def test_a_step_waits_for_company_as_long_as_a_round_takes_but_never_beyond_the_tick() -> None:
    made, (one, *_) = ticks(3, tick=0.002)
    made.push(one, [frame(1)], 0.0)
    assert made.wait(0.0) == 0, "before anything is known of the network nothing is gained by waiting"
    round_of(made, 0.0, 0.0005)
    made.push(one, [frame(1)], 1.0)
    assert made.wait(1.0) == pytest.approx(0.0005)
    assert made.wait(1.0003) == pytest.approx(0.0002)
    assert made.wait(1.1) == 0
    for _ in range(20):
        round_of(made, 2.0, 0.5)
        made.push(one, [frame(1)], 3.0)
    assert made.wait(3.0) == pytest.approx(0.002)


def test_nobody_waits_where_every_stream_has_a_frame() -> None:
    made, channels = ticks(3)
    for channel in channels[:2]:
        made.push(channel, [frame(1), frame(2)], 0.0)
    round_of(made, 0.0, 0.4)
    assert made.wait(0.4) > 0  # type: ignore[operator]
    made.push(channels[2], [frame(1)], 0.4)
    assert made.wait(0.4) == 0


def test_one_that_sends_much_delays_nobody() -> None:
    """A thousand frames of one stream, then one of each of the others: theirs go with the very next step."""
    made, (greedy, *others) = ticks(5, rows=2)
    made.push(greedy, [frame(k) for k in range(1000)], 0.0)
    round_of(made, 0.0, 0.001)
    for other in others:
        made.push(other, [frame(7)], 0.001)
    # Two rows a step: the greedy stream was back in the queue before them, and is behind them from then on.
    order = [[channel.sid for channel in round_of(made, 0.001 * k, 0.001).channels] for k in range(2, 5)]
    assert order == [[0, 1], [2, 3], [4, 0]]
    assert [received(made, other) for other in others] == [[14.0]] * 4


def test_one_that_does_not_read_is_left_out_until_it_does() -> None:
    made, (deaf, other) = ticks(2, behind=3)
    made.push(deaf, [frame(k) for k in range(10)], 0.0)
    made.push(other, [frame(k) for k in range(10)], 0.0)
    for k in range(10):
        round_of(made, float(k), 0.001)
        received(made, other)
    assert (deaf.steps, other.steps) == (3, 10)
    assert made.wait(20.0) is None
    assert received(made, deaf, 20.0) == [0, 2, 4]
    assert made.wait(20.0) is not None
    for k in range(3):
        round_of(made, 21.0 + k, 0.001)
    assert received(made, deaf) == [6, 8, 10]


def test_one_that_leaves_is_stepped_no_more() -> None:
    made, (gone, other) = ticks(2)
    made.push(gone, [frame(1), frame(2)], 0.0)
    made.push(other, [frame(3)], 0.0)
    made.drop(gone)
    assert [channel.sid for channel in round_of(made, 0.0, 0.1).channels] == [1]
    assert made.wait(1.0) is None


def test_a_step_that_fails_ends_its_streams_alone() -> None:
    made, (ill, well) = ticks(2)
    made.push(ill, [frame(1), frame(2)], 0.0)
    batch = made.take(0.0)
    assert batch is not None
    made.push(well, [frame(5)], 0.0)
    error = MemoryError("none left")
    made.fail(batch, error)
    assert ill.failed is error
    assert ill.settled
    assert [channel.sid for channel in round_of(made, 0.0, 0.1).channels] == [1]
    assert received(made, well) == [10]
    assert made.wait(1.0) is None


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(0, 3), st.integers(1, 4)),
        st.tuples(st.just("step"), st.integers(0, 3), st.just(0)),
        st.tuples(st.just("read"), st.integers(0, 3), st.just(0)),
    ),
    max_size=60,
)


@given(ACTIONS, st.integers(1, 4), st.integers(1, 5))
def test_every_frame_is_stepped_once_in_order_with_the_bits_of_a_stream_alone(
    actions: list[tuple[str, int, int]], rows: int, behind: int
) -> None:
    net = build(Kind(3, 5, layers=2, head=2), 1, "packed")
    pool = net.pool(4)
    made = Ticks(3, FLOAT, rows=rows, behind=behind)
    made.open = 4
    channels = [Channel(pool.open()) for _ in range(4)]
    xs = [noise((240, 3), k) for k in range(4)]
    sent, got = [0] * 4, [b""] * 4

    def step() -> None:
        batch = made.take(0.0)
        if batch is not None:
            assert len(batch.channels) <= rows
            made.deliver(batch, pool.step(batch.sids, batch.x), 0.0)

    def read(k: int) -> None:
        assert len(channels[k].outputs) <= behind
        got[k] += b"".join(made.collect(channels[k], 0.0))

    for what, k, count in actions:
        if what == "push":
            made.push(channels[k], [x.tobytes() for x in xs[k][sent[k] : sent[k] + count]], 0.0)
            sent[k] += count
        elif what == "step":
            step()
        else:
            read(k)
    while made.wait(0.0) is not None or any(channel.outputs for channel in channels):
        step()
        for k in range(4):
            read(k)
    for k in range(4):
        assert channels[k].steps == sent[k]
        assert got[k] == net.stream().feed(xs[k][: sent[k]]).tobytes()
