"""The pace of ``cgru serve``: floods of tiny messages, newcomers at the door, streams that take more than others."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import random
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from networks import Kind, build, noise
from served import Served, hello, outputs, served
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websocket_client import message
from websockets.server import ServerProtocol

from cgru.serve import wires
from cgru.serve.conversation import Conversation
from cgru.serve.driver import Driver
from cgru.serve.load import Allowance, Door, Load
from cgru.serve.ticks import Channel, Ticks

NET = build(Kind(6, 20, layers=2, head=3), 1, "packed")
FLOAT = np.dtype("<f4")
HANDSHAKE = (
    b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
SAVE = message(1, b'{"op":"save"}')


class Clock:
    """Seconds that the test counts."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(NET, idle=1.2) as running:
        yield running


def test_what_read_a_handshake_is_not_kept() -> None:
    """A timer held it for as long as a silent connection is waited for, and the garbage collector looked through it."""
    with served(NET, idle=60.0) as server, contextlib.ExitStack() as clients:
        for _ in range(5):
            client = clients.enter_context(server.socket())
            client.sendall(HANDSHAKE)
            assert client.recv(4096).startswith(b"HTTP/1.1 101")
        for _ in range(50):
            gc.collect()
            read = [wire for wire in gc.get_objects() if isinstance(wire, wires.HttpWire)]
            kept = [wire for wire in read if wire.gate.protocol is not wire]
            if not kept:
                break
            time.sleep(0.1)
        assert not kept


@pytest.mark.parametrize(
    "said",
    [
        HANDSHAKE + message(2, bytes(24)) + message(8, b"\x03\xe8"),  # properly closed
        HANDSHAKE + message(2, bytes(24)),  # gone
        HANDSHAKE + b"\x82\xfe\x10\x00\0\0\0\0half",
        HANDSHAKE + b"\xff" * 500,
        HANDSHAKE + message(2, b"abc"),
        HANDSHAKE + message(1, b"{"),
        HANDSHAKE.replace(b"stream", b"stream?resume=unknown"),
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/run HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
        b"\0" * 500,
    ],
)
def test_connections_leave_nothing_to_the_garbage_collector(server: Served, said: bytes) -> None:
    """Reference counts free what they were: the collector's looks at what thousands of them left took up to 65 ms."""
    kinds = (wires.HttpWire, wires.StreamWire, wires.Gate, WebSocketsSansIOProtocol, ServerProtocol, Conversation)

    def connect() -> None:
        with server.socket() as client:
            client.sendall(said)
            client.settimeout(0.2)
            with contextlib.suppress(OSError):
                while client.recv(4096):
                    pass

    connect()
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            connect()
        left: list[Any] = []
        for _ in range(100):
            left = [kind for kind in map(type, gc.get_objects()) if issubclass(kind, kinds)]
            if not left:
                break
            time.sleep(0.05)
        assert not left
    finally:
        gc.enable()


@contextlib.contextmanager
def turns(server: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many messages of WebSockets were handled in each turn of the server's loop."""
    found: list[int] = [0]
    over = threading.Event()

    def counted(handle: Any) -> Any:
        def count(*given: Any) -> None:
            found[-1] += 1
            handle(*given)

        return count

    for name in ("handle_ping", "handle_cont", "handle_text"):
        monkeypatch.setattr(WebSocketsSansIOProtocol, name, counted(getattr(WebSocketsSansIOProtocol, name)))

    async def watch() -> None:
        while not over.is_set():
            await asyncio.sleep(0)
            if found[-1]:
                found.append(0)

    watching = asyncio.run_coroutine_threadsafe(watch(), server.loop)
    try:
        yield found
    finally:
        over.set()
        watching.result(30)


@pytest.mark.parametrize(
    ("flood", "one", "enough"),
    [
        (message(9, b"") * 40_000, 6, 40_000 * 2),
        (b"\x02\x80\0\0\0\0" + b"\x00\x81\0\0\0\0x" * 35_000 + b"\x80\x80\0\0\0\0", 7, 1 << 30),  # it is closed
        (SAVE * 12_000, len(SAVE), 60_000),
    ],
    ids=["pings", "fragments", "requests for the state"],
)
def test_a_flood_of_tiny_messages_is_read_in_turns(
    server: Served, flood: bytes, one: int, enough: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wires, "TURN", 0.0)
    with server.socket() as client, turns(server, monkeypatch) as handled:
        client.sendall(HANDSHAKE)
        assert client.recv(4096).startswith(b"HTTP/1.1 101")
        sending = threading.Thread(target=_sent, args=(client, flood))
        sending.start()
        seen = 0
        client.settimeout(60.0)
        while seen < enough and (got := client.recv(1 << 16)):
            seen += len(got)
        assert seen >= min(enough, 150)
        client.shutdown(socket.SHUT_RDWR)
        sending.join(30)
    assert sum(handled) > 100
    assert max(handled) <= wires.PIECE / one + 1


def test_of_pipelined_requests_only_a_few_are_taken_at_once(server: Served) -> None:
    with server.socket() as client:
        asked = 2_500
        sending = threading.Thread(target=_sent, args=(client, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * asked))
        sending.start()
        seen, held = 0, 0
        while seen < asked:
            seen += client.recv(1 << 16).count(b"HTTP/1.1 200")
            for wire in list(server.server.server_state.connections):
                held = max(held, len(getattr(wire, "pipeline", ())))
        sending.join(30)
    assert held < 200


def _sent(client: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        client.sendall(data)


@pytest.mark.parametrize("head", [b"a: b\r\n" * 20_000, b"a: " + b"b" * 100_000])
def test_headers_without_end_are_refused(server: Served, head: bytes) -> None:
    with server.socket() as client:
        sending = threading.Thread(target=_sent, args=(client, b"GET / HTTP/1.1\r\nHost: x\r\n" + head))
        sending.start()
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(4096).startswith(b"HTTP/1.1 400")
        sending.join(30)


def test_a_connection_that_asks_for_nothing_is_closed(server: Served) -> None:
    with server.socket() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost")
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(100) == b""
    # One that was a WebSocket by then is none of them.
    with server.stream() as ws:
        hello(ws)
        x = noise((40, 6), 0)
        found = []
        for chunk in np.split(x, 8):
            ws.send(chunk.tobytes())
            found.append(outputs(ws, 5, 3))
            time.sleep(0.2)
        assert np.array_equal(np.concatenate(found), NET.stream().feed(x))


class Transport:
    """What a gate needs of one."""

    def __init__(self) -> None:
        self.reading = True

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        raise AssertionError("nothing is written")


class Base:
    """Notes what it gets, and pauses now and then."""

    gate: wires.Gate

    def __init__(self, pauses: random.Random | None = None) -> None:
        self.got, self.pieces, self._pauses = b"", 0, pauses

    def data_received(self, data: bytes) -> None:
        self.got += data
        self.pieces += 1
        if self._pauses is not None and self._pauses.random() < 0.4:
            self.gate.pause_reading()


class Parser(wires.Paced, Base):
    def __init__(self, pauses: random.Random | None = None) -> None:
        super().__init__(pauses)
        self.transport = Transport()
        self.gate = wires.Gate(self.transport, self)


def test_after_a_piece_it_is_the_others_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wires, "TURN", 0.0)

    async def scenario() -> None:
        parser = Parser()
        parser.data_received(bytes(5 * wires.PIECE - 1))
        assert not parser.transport.reading
        for turn in range(1, 6):
            await asyncio.sleep(0)
            assert parser.pieces == turn
        assert parser.transport.reading
        parser.data_received(b"x")
        assert parser.pieces == 6, "what is short passes at once"
        parser.gate.pause_reading()
        assert parser.transport.reading, "paused before more came"
        parser.data_received(b"y")
        assert not parser.transport.reading
        await asyncio.sleep(0)
        assert parser.pieces == 6

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(5))
def test_bytes_pass_whole_and_in_order_however_the_protocol_pauses(seed: int) -> None:
    rng = random.Random(seed)
    parts = [rng.randbytes(rng.choice([1, 50, wires.PIECE, 3000, 20_000])) for _ in range(60)]

    async def scenario() -> bytes:
        parser = Parser(rng)
        left = parts[::-1]
        while left or parser.gate.waiting:
            if left and parser.transport.reading:
                parser.data_received(left.pop())
            if parser.gate.paused and rng.random() < 0.5:
                parser.gate.resume_reading()
            await asyncio.sleep(0)
        return parser.got

    assert asyncio.run(scenario()) == b"".join(parts)


def test_the_load_is_processor_time_in_the_loop_and_for_it() -> None:
    clock, used = Clock(), Clock()
    load = Load(clock, used)
    for _ in range(100):
        load.note(clock.now)
        clock.now += 0.02
        used.now += 0.005
        load.add(0.005)
    assert load.busy == pytest.approx(0.5)
    clock.now += 1.0
    load.note(clock.now)
    assert load.busy < 0.02


def test_an_allowance_is_what_the_load_leaves_and_something_in_any_case() -> None:
    clock = Clock()
    load = Load(clock, Clock())
    allowance = Allowance(load, limit=0.5, least=0.1, burst=0.01)
    for busy, share in ((0.0, 0.5), (0.3, 0.2), (0.9, 0.1)):
        load.busy = busy
        spent, end = 0.0, clock.now + 10
        while clock.now < end:
            if wait := allowance.wait(clock.now):
                clock.now += wait
            else:
                allowance.spend(0.002)
                spent += 0.002
        assert spent == pytest.approx(10 * share, rel=0.02)


def test_newcomers_enter_in_their_order_and_no_faster_than_they_may() -> None:
    load = Load()
    load.busy = 1.0

    async def scenario() -> tuple[list[int], float]:
        door = Door(Allowance(load, limit=0.5, least=0.1, burst=0.001), load)
        order: list[int] = []

        async def come(k: int) -> None:
            await door.turn(0.001)
            order.append(k)

        begun = time.perf_counter()
        load.note(begun + 1e9)  # the load stays what it is
        await asyncio.gather(*(come(k) for k in range(12)))
        return order, time.perf_counter() - begun

    order, took = asyncio.run(scenario())
    assert order == list(range(12))
    assert took > 0.09, "twelve of a millisecond each, at a tenth of the time, are a tenth of a second"


def test_streams_far_ahead_of_the_others_leave_time_to_them() -> None:
    """Eight streams in real time and two that send without end, a millisecond a step: with half of the time in use the
    two get little more than the others (50 a second) and the least; with an idle machine what is left of its half.
    """
    for busy, least, most in ((1.0, 60, 140), (0.1, 350, 500)):
        clock = Clock()
        load = Load(clock, Clock())
        load.busy = busy
        made = Ticks(1, FLOAT, spare=Allowance(load, limit=0.5, least=0.05, burst=0.002))
        made.open = 10
        live, greedy = [Channel(k) for k in range(8)], [Channel(k) for k in range(8, 10)]
        waited, due = 0.0, iter(sorted(0.02 * turn + 0.002 * k for turn in range(101) for k in range(8)))
        order = itertools.cycle(live)
        frame = np.zeros(1, FLOAT).tobytes()
        coming = next(due)
        early = [0, 0]
        while clock.now < 2.0:
            if clock.now < 1.0:  # what it knows of them comes with the first window
                early = [channel.steps for channel in greedy]
            while coming <= clock.now:
                made.push(next(order), [frame], coming)
                coming = next(due)
            for channel in greedy:
                if len(channel.frames) < 100:
                    made.push(channel, [frame] * 100, clock.now)
            wait = made.wait(clock.now)
            assert wait is not None
            if wait > 0:
                clock.now = min(clock.now + wait, coming)
                continue
            batch: Any = made.take(clock.now)
            if batch is None:
                continue
            clock.now += 0.001
            made.deliver(batch, 2 * batch.x, clock.now)
            for channel in batch.channels:
                made.collect(channel, clock.now)
            arrived = [at for channel, at in zip(batch.channels, batch.arrived, strict=True) if channel in live]
            waited = max(waited, clock.now - min(arrived, default=clock.now))
        assert all(channel.steps >= 99 for channel in live)
        assert waited < 0.006
        late = [channel.steps - before for channel, before in zip(greedy, early, strict=True)]
        assert all(least < steps < most for steps in late), late


def test_all_streams_behind_alike_are_none_that_take_too_much() -> None:
    """After a pause of the machine everybody has much waiting: nobody's steps are put off for that."""
    clock = Clock()
    load = Load(clock, Clock())
    load.busy = 1.0
    made = Ticks(1, FLOAT, spare=Allowance(load, limit=0.5, least=0.05, burst=0.002))
    made.open = 4
    channels = [Channel(k) for k in range(4)]
    for channel in channels:
        made.push(channel, [np.zeros(1, FLOAT).tobytes()] * 2000, 0.0)
    while made.wait(clock.now) is not None:
        batch = made.take(clock.now)
        assert batch is not None
        assert len(batch.channels) == 4
        clock.now += 0.001
        made.deliver(batch, batch.x, clock.now)
        for channel in batch.channels:
            made.collect(channel, clock.now)
    assert clock.now == pytest.approx(2.0)


def test_who_has_left_is_no_measure_of_what_is_fair() -> None:
    """A stream took three steps and left; the one that is left has as many as it likes."""
    clock = Clock()
    load = Load(clock, Clock())
    load.busy = 1.0
    made = Ticks(1, FLOAT, spare=Allowance(load, limit=0.5, least=0.05, burst=0.002))
    made.open = 2
    brief, live = Channel(0), Channel(1)
    frame = np.zeros(1, FLOAT).tobytes()
    made.push(brief, [frame] * 3, 0.0)
    made.push(live, [frame] * 1000, 0.0)
    while live.frames:
        assert made.wait(clock.now) is not None
        batch = made.take(clock.now)
        assert batch is not None
        clock.now += 0.001
        made.deliver(batch, batch.x, clock.now)
        for channel in batch.channels:
            made.collect(channel, clock.now)
        if brief.settled and not brief.closed:
            made.drop(brief)
            made.open = 1
    assert clock.now == pytest.approx(1.0)


def test_at_the_end_nobodys_steps_are_put_off() -> None:
    clock = Clock()
    load = Load(clock, Clock())
    load.busy = 1.0
    made = Ticks(1, FLOAT, spare=Allowance(load, limit=0.5, least=0.05, burst=0.002))
    made.open = 2
    live, greedy = Channel(0), Channel(1)
    frame = np.zeros(1, FLOAT).tobytes()
    made.push(greedy, [frame] * 500, 0.0)
    coming, tick = 0.0, made.tick

    def step() -> bool:
        """One round, after the wait for company; False where it is put off for longer."""
        wait = made.wait(clock.now)
        assert wait is not None
        if wait > 2 * tick:
            return False
        clock.now += wait
        batch = made.take(clock.now)
        assert batch is not None
        clock.now += 0.002
        made.deliver(batch, batch.x, clock.now)
        for channel in batch.channels:
            made.collect(channel, clock.now)
        return True

    while step():
        if coming <= clock.now:
            made.push(live, [frame], clock.now)
            coming += 0.02
    assert len(greedy.frames) > 200
    made.hurry()
    while greedy.frames:
        assert step()


def test_a_frame_does_not_wait_behind_what_is_put_off() -> None:
    pool, x = NET.pool(2), noise((1, 6), 1)
    load = Load()
    load.busy = 1.0
    spare = Allowance(load, limit=0.5, least=0.05, burst=0.002)
    spare.spend(60.0)
    made = Ticks(6, FLOAT, spare=spare)
    made._fair, made._since = -1.0, np.inf  # more than one frame is too much, and stays so

    async def scenario() -> bytes:
        async with Driver(pool, made) as driver:
            greedy = driver.open(pool.open())
            await driver.send(greedy, noise((5, 6), 0).tobytes())
            await asyncio.sleep(0.05)
            assert greedy.steps == 0
            live = driver.open(pool.open())
            await driver.send(live, x.tobytes())
            (y,) = await asyncio.wait_for(driver.receive(live), 20)
            driver.close(greedy)
            return y

    assert asyncio.run(scenario()) == NET.stream().feed(x).tobytes()
