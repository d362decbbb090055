"""Streams over WebSockets, by the client of the package websockets: bits, tokens, and clients that misbehave."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import importlib.util
import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import Kind, build, noise
from served import Served, hello, outputs, said, served
from test_graph import centred, skip
from websockets.exceptions import ConnectionClosed, InvalidStatus

import cgru
from cgru.serve import Address, Server, Settings
from cgru.serve.driver import Driver
from cgru.serve.wires import StreamWire

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
KIND = Kind(6, 20, layers=2, head=3)
NET = build(KIND, 1, "packed")


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(NET, capacity=40) as running:
        yield running


@pytest.fixture(autouse=True)
def _everybody_leaves(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "server" in request.fixturenames:
        running = request.getfixturevalue("server")
        running.until(lambda: len(running.service.pool) == 0 and running.service._places == 0)


def test_clients_beside_one_another_get_what_they_would_alone(server: Served) -> None:
    xs = [noise((30 + 7 * k, 6), k) for k in range(12)]
    found: list[np.ndarray | None] = [None] * len(xs)

    def client(k: int) -> None:
        rng = random.Random(k)
        with server.stream() as ws:
            assert hello(ws) | {"token": ""} == {
                "op": "open", "token": "", "input_size": 6, "output_size": 3, "format": "float32", "steps": 0,
                "resumed": False, "replayed": 0,
            }  # fmt: skip
            at = 0
            while at < len(xs[k]):
                count = rng.randint(1, 9)
                ws.send(xs[k][at : at + count].tobytes())
                at += count
            found[k] = outputs(ws, len(xs[k]), 3)

    threads = [threading.Thread(target=client, args=(k,)) for k in range(len(xs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for x, y in zip(xs, found, strict=True):
        assert y is not None
        assert np.array_equal(y, NET.stream().feed(x))


def test_graphs() -> None:
    """A graph with a skip streams; one that looks ahead has no pool; one of several inputs is refused."""
    net = cgru.Model(skip())
    x = noise((12, 6), 0)
    with served(net) as running, running.stream() as ws:
        hello(ws)
        ws.send(x.tobytes())
        assert np.array_equal(outputs(ws, 12, 3), net(x))
    with served(cgru.Model(centred())) as running:
        with pytest.raises(InvalidStatus) as refused, running.stream():
            pass
        assert refused.value.response.status_code == 501
        assert running.ask("POST", "/v1/run", '{"x": [[0, 0, 0, 0, 0]]}')[0] == 200
    two = cgru.Graph()
    two.output(two.add(two.input(3, name="a"), two.input(3, name="b")))
    with pytest.raises(cgru.UnsupportedError, match="one input and one output; this one has the inputs a, b"):
        Server(cgru.Model(two), Settings(), Address(port=0))


def test_int16_is_a_32768th(server: Served) -> None:
    x = np.random.default_rng(0).integers(-32768, 32768, (9, 6)).astype("<i2")
    with server.stream("?format=int16") as ws:
        assert hello(ws)["format"] == "int16"
        ws.send(x.tobytes())
        assert np.array_equal(outputs(ws, 9, 3), NET.stream().feed(x.astype(np.float32) / 32768))


def test_ids(server: Served) -> None:
    """One client's id beyond the vocabulary is its own mistake and no other's."""
    net = build(Kind(5, 7, head=2, embedded=True), 1, "packed")
    x = np.array([0, 4, 2, 2, 1], "<i4")
    with served(net) as running, running.stream() as good, running.stream() as bad:
        assert hello(good)["format"] == hello(bad)["format"] == "int32"
        bad.send(np.array([1, 5], "<i4").tobytes())
        good.send(x.tobytes())
        assert np.array_equal(outputs(good, 5, 2), net.stream().feed(x.astype(np.int64)))
        told = said(bad)
        assert (told["op"], told["reason"]) == ("goodbye", "mistake")
        assert "token id 5 is outside the vocabulary [0, 5)" in told["error"]


def test_steps_and_outputs_pass_asgi_by_and_come_in_order(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Straight where nothing waits, by ASGI where something does: text, a socket that is full."""
    straight, asked = [0, 0], [0]
    give, offer, sent = StreamWire.give, Driver.offer, StreamWire.send

    def gave(wire: StreamWire, data: bytes) -> None:
        straight[0] += 1
        give(wire, data)

    def offered(driver: Driver, channel: Any, data: bytes) -> bool:
        taken = offer(driver, channel, data)
        straight[1] += taken
        return taken

    async def send(wire: StreamWire, event: Any) -> None:
        asked[0] += event.get("bytes") is not None
        await asyncio.sleep(0.001)  # as where the socket is full
        await sent(wire, event)

    monkeypatch.setattr(StreamWire, "give", gave)
    monkeypatch.setattr(Driver, "offer", offered)
    monkeypatch.setattr(StreamWire, "send", send)
    x = noise((1000, 6), 0)
    with server.stream() as ws:
        hello(ws)
        for at in range(20):
            ws.send(x[at].tobytes())
            if at % 5 == 4:
                ws.send('{"op": "save"}')
        found = []
        for at in range(20):
            found.append(outputs(ws, 1, 3))
            if at % 5 == 4:
                assert said(ws)["steps"] == at + 1
    assert min(straight) > 0, "nothing came straight"
    assert np.array_equal(np.concatenate(found), NET.stream().feed(x[:20]))

    # To a client whose socket is full now and then, outputs go by ASGI.
    rng, was = random.Random(0), StreamWire.free.fget  # type: ignore[attr-defined]
    monkeypatch.setattr(StreamWire, "free", property(lambda wire: rng.random() < 0.7 and was(wire)))
    before, asked[0] = straight[0], 0
    with server.stream() as ws:
        hello(ws)
        sending = threading.Thread(target=lambda: [ws.send(row.tobytes()) for row in x[:-30]])
        sending.start()
        found = [outputs(ws, len(x) - 30, 3)]
        sending.join()
        for row in x[-30:]:  # each on its own: how many wait above is up to the machine
            ws.send(row.tobytes())
            found.append(outputs(ws, 1, 3))
    assert min(straight[0] - before, asked[0]) > 3
    assert np.array_equal(np.concatenate(found), NET.stream().feed(x))


def test_reset_and_save_come_after_the_steps_before_them(server: Served) -> None:
    x = noise((20, 6), 0)
    with server.stream() as ws:
        token = hello(ws)["token"]
        ws.send(x[:8].tobytes())
        ws.send('{"op": "reset"}')
        ws.send(x[8:].tobytes())
        ws.send('{"op": "save", "state": true}')
        assert np.array_equal(outputs(ws, 8, 3), NET.stream().feed(x[:8]))
        assert said(ws) == {"op": "reset", "steps": 8}
        again = NET.stream()
        assert np.array_equal(outputs(ws, 12, 3), again.feed(x[8:]))
        told = said(ws)
        assert (told["op"], told["token"], told["steps"]) == ("saved", token, 20)
        assert base64.b64decode(told["state"]) == again.dump()


def test_a_lost_stream_is_resumed_with_the_outputs_that_it_missed(server: Served) -> None:
    x = noise((30, 6), 0)
    whole = NET.stream().feed(x)
    with server.stream() as ws:
        token = hello(ws)["token"]
        ws.send(x[:20].tobytes())
        outputs(ws, 20, 3)
        ws.socket.shutdown(socket.SHUT_RDWR)  # no word of closing
    server.until(lambda: token in server.service.sessions._held)
    with server.stream(f"?resume={token}&have=15") as ws:
        told = hello(ws)
        assert (told["token"], told["steps"], told["resumed"], told["replayed"]) == (token, 20, True, 5)
        ws.send(x[20:].tobytes())
        assert np.array_equal(outputs(ws, 15, 3), whole[15:])
        ws.send('{"op": "close"}')
        assert said(ws) == {"op": "goodbye", "reason": "closed", "steps": 30}
    with pytest.raises(InvalidStatus) as refused, server.stream(f"?resume={token}"):
        pass
    assert refused.value.response.status_code == 404


def test_the_example_client_loses_nothing(server: Served) -> None:
    """Its connections are broken again and again, from the server's side; every step is done once."""
    spec = importlib.util.spec_from_file_location("stream_client", EXAMPLES / "stream_client.py")
    assert spec is not None
    assert spec.loader is not None
    client = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(client)
    x = noise((3000, 6), 0)
    over = threading.Event()

    def disturb() -> None:
        while not over.wait(0.05):
            for conversation in list(server.service.conversations.values()):
                if conversation.channel is not None and conversation.channel.steps >= 20:  # so that it comes to an end
                    server.loop.call_soon_threadsafe(conversation.end, "idle")

    disturbing = threading.Thread(target=disturb)
    disturbing.start()
    try:
        y = asyncio.run(client.run(f"ws://127.0.0.1:{server.port}/v1/stream", x, tries=1000))
    finally:
        over.set()
        disturbing.join()
    assert np.array_equal(y, NET.stream().feed(x))
    assert server.service.metrics.resumed._value.get() > 0, "nothing was disturbed"


def test_a_token_takes_a_stream_over_from_a_connection_that_still_seems_to_live(server: Served) -> None:
    x = noise((10, 6), 0)
    with server.stream() as old:
        token = hello(old)["token"]
        old.send(x[:4].tobytes())
        first = outputs(old, 4, 3)
        with server.stream(f"?resume={token}&have=4") as new:
            assert hello(new)["steps"] == 4
            new.send(x[4:].tobytes())
            assert np.array_equal(np.concatenate([first, outputs(new, 6, 3)]), NET.stream().feed(x))
            assert said(old)["reason"] == "taken over"
            with pytest.raises(ConnectionClosed) as closed:
                old.recv(30)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4001


def test_a_state_comes_from_anywhere(server: Served) -> None:
    """What a stream of this process gave is what the server goes on from; what is damaged is refused in words."""
    x = noise((12, 6), 0)
    here = NET.stream()
    here.feed(x[:5])
    with server.stream("?restore=1") as ws:
        ws.send(here.dump())
        hello(ws)
        ws.send(x[5:].tobytes())
        assert np.array_equal(outputs(ws, 7, 3), here.feed(x[5:]))
    with server.stream("?restore=1") as ws:
        ws.send(here.dump()[:-1])
        assert "restore: " in said(ws)["error"]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (b"", "whole steps of 6 float32 numbers, 24 bytes each; found 0 bytes"),
        (b"abc", "found 3 bytes"),
        (bytes(25), "found 25 bytes"),
        ("", "expected a JSON object"),
        ("save", "expected a JSON object"),
        ("[1]", "expected a JSON object"),
        ('{"op": []}', "op: expected reset, save or close, found '[]'"),
        ('{"op": "exec"}', "op: expected reset, save or close, found 'exec'"),
        ("[" * 4000, "expected a JSON object"),
        ('{"op": "save", "x": "' + "y" * 5000 + '"}', "expected a JSON object"),
    ],
)
def test_a_mistake_ends_its_own_stream_and_says_why(server: Served, message: str | bytes, words: str) -> None:
    x = noise((4, 6), 0)
    with server.stream() as other, server.stream() as ws:
        hello(other)
        token = hello(ws)["token"]
        ws.send(x.tobytes())
        outputs(ws, 4, 3)
        ws.send(message)
        told = said(ws)
        assert (told["op"], told["reason"], told["token"], told["steps"]) == ("goodbye", "mistake", token, 4)
        assert words in told["error"]
        other.send(x.tobytes())
        assert np.array_equal(outputs(other, 4, 3), NET.stream().feed(x))


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("?format=int8", 400, "format: expected float32 or int16, found 'int8'"),
        ("?resume=nobody", 404, "no stream is kept under this token"),
    ],
)
def test_what_a_handshake_gets_wrong(server: Served, query: str, status: int, words: str) -> None:
    with pytest.raises(InvalidStatus) as refused, server.stream(query):
        pass
    answer = refused.value.response
    assert answer.status_code == status
    assert words in json.loads(answer.body or b"")["error"]


def test_a_message_too_large_ends_its_stream(server: Served) -> None:
    with server.stream() as ws:
        hello(ws)
        ws.send(bytes((1 << 20) + 24))
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv(30)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


def test_no_place_free() -> None:
    with served(NET, capacity=1, keep=0) as running:
        with running.stream() as ws:
            hello(ws)
            with pytest.raises(InvalidStatus) as refused, running.stream():
                pass
            assert refused.value.response.status_code == 503
            assert refused.value.response.headers["Retry-After"] == "1"
            assert "all 1 streams are open" in json.loads(refused.value.response.body or b"")["error"]
        running.until(lambda: running.service._places == 0)
        with running.stream() as ws:
            hello(ws)


def test_a_network_that_cannot_stream_says_so() -> None:
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    shapes = ((15, 4), (15, 5), (15,), (15,))
    one = {name: noise(shape, 0) for name, shape in zip(names, shapes, strict=True)}
    tensors = one | {f"{name}_reverse": array for name, array in one.items()}
    gru = cgru.GRU.from_torch(tensors)
    with served(cgru.Model([gru])) as running, pytest.raises(InvalidStatus) as refused, running.stream():
        pass
    assert refused.value.response.status_code == 501
    assert "both directions" in json.loads(refused.value.response.body or b"")["error"]


def test_one_that_does_not_read_is_ended_and_holds_nobody_up() -> None:
    x = noise((60, 6), 3)
    net = build(Kind(6, 8, head=1000), 1, "packed")  # fills the sockets' buffers in a few thousand steps
    with served(net, capacity=4, stall=1.0, ahead=16, behind=16) as running, running.stream() as other:
        hello(other)
        deaf = running.stream(max_queue=1, legacy=True)
        flood = noise((1000, 6), 4).tobytes()

        def shout() -> None:
            with contextlib.suppress(ConnectionClosed, OSError):
                while True:
                    deaf.send(flood)

        shouting = threading.Thread(target=shout)
        shouting.start()
        other.send(x.tobytes())
        assert np.array_equal(outputs(other, 60, 1000), net.stream().feed(x))
        running.until(lambda: len(running.service.pool) == 1)
        ended = running.service.metrics.ended.labels("stalled")
        running.until(lambda: ended._value.get() == 1)
        with contextlib.suppress(OSError):
            deaf.socket.shutdown(socket.SHUT_RDWR)
        shouting.join(30)
        deaf.close()


def test_one_that_says_nothing_is_ended_and_may_come_back() -> None:
    with served(NET, idle=1.0) as running:
        with running.stream(ping_interval=None) as ws:
            token = hello(ws)["token"]
            ws.send(noise((2, 6), 0).tobytes())
            outputs(ws, 2, 3)
            told = said(ws)
            assert (told["reason"], told["token"], told["steps"]) == ("idle", token, 2)
        with running.stream(f"?resume={token}") as ws:
            assert hello(ws)["steps"] == 2


def test_a_stream_is_read_no_faster_than_its_rate() -> None:
    with served(NET, stream_rate=100.0) as running, running.stream() as ws:
        hello(ws)
        begun = time.monotonic()
        for _ in range(130):
            ws.send(noise((1, 6), 0).tobytes())
        outputs(ws, 130, 3)
        assert time.monotonic() - begun > 0.25  # 100 at once, the others at 100 a second


def test_at_the_end_every_stream_gets_its_outputs_and_its_state(tmp_path: Path) -> None:
    """And where there is a folder for states, a token works with the next process too."""
    x = noise((1000, 6), 0)
    here = NET.stream()
    with served(NET, states=tmp_path, ahead=10_000, behind=10_000, drain=50.0) as running:
        streams = [running.stream(legacy=True) for _ in range(5)]
        tokens = [hello(ws)["token"] for ws in streams]
        service = running.service

        class Slow:
            """Steps that last until the end begins."""

            close = service.pool.close

            def step(self, sids: Any, x: Any) -> np.ndarray:
                time.sleep(0 if service.closing else 0.01)
                return service.pool.step(sids, x)

        service.driver.pool = Slow()
        for ws in streams:
            ws.send(x.tobytes())
        running.until(lambda: all(c.channel and c.channel.steps for c in running.service.conversations.values()))
        assert any(not c.channel.settled for c in running.service.conversations.values() if c.channel)
        running.stop()
        expected = here.feed(x)
        for ws, token in zip(streams, tokens, strict=True):
            assert np.array_equal(outputs(ws, 1000, 3), expected)
            told = said(ws)
            assert (told["op"], told["reason"], told["steps"], told["token"]) == ("goodbye", "shutdown", 1000, token)
            assert base64.b64decode(told["state"]) == here.dump()
            with pytest.raises(ConnectionClosed) as closed:
                ws.recv(30)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
    y = here.feed(x[:3])
    with served(NET, states=tmp_path) as running, running.stream(f"?resume={tokens[0]}") as ws:
        assert hello(ws)["steps"] == 1000
        ws.send(x[:3].tobytes())
        assert np.array_equal(outputs(ws, 3, 3), y)
