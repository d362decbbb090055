"""Ray on a local cluster of several nodes, one of them killed in the middle: everything once, equal to the bit."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from networks import Kind, build, noise

import cgru
from cgru import CgruError

ray = pytest.importorskip("ray", reason="ray is not installed (cgru[ray])")
pytest.importorskip("ray.serve", reason="ray[serve] is not installed (cgru[ray])")
pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed (cgru[ray])")

from ray import serve  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

import cgru.ray  # noqa: E402
from cgru.ray.store import SessionLost, Store, Stores  # noqa: E402

NET = build(Kind(6, 20, layers=2, head=3), 1, "packed")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# Beside other programs: workers have the priority of the tests, and others' memory is no reason to end them.
os.environ |= {"RAY_worker_niceness": "0", "RAY_memory_monitor_refresh_ms": "0"}


class Nodes:
    """A cluster: a head that runs nothing, and nodes of one core each."""

    def __init__(self, count: int) -> None:
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.left = [self.cluster.add_node(num_cpus=1) for _ in range(count)]
        ray.init(address=self.cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        serve.start(http_options={"location": "NoServer"})

    def kill(self, with_actor: str) -> None:
        """Take a node away, without a word, on which such an actor lives."""
        from ray._private import state

        where = {
            actor["Address"]["NodeID"]
            for actor in state.actors().values()
            if actor["State"] == "ALIVE" and with_actor in f"{actor.get('Name')} {actor.get('ActorClassName')}"
        }
        victim = next(node for node in self.left if node.node_id in where)
        self.left.remove(victim)
        self.cluster.remove_node(victim, allow_graceful=False)

    @contextlib.contextmanager
    def stopped(self, with_actor: str) -> Iterator[None]:
        """One such actor does nothing for a while, and Ray does not know."""
        from ray._private import state

        pid = next(
            actor["Pid"]
            for actor in state.actors().values()
            if actor["State"] == "ALIVE" and with_actor in f"{actor.get('Name')} {actor.get('ActorClassName')}"
        )
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def stop(self) -> None:
        serve.shutdown()
        ray.shutdown()
        self.cluster.shutdown()


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    made = Nodes(4)
    yield made
    made.stop()


def sequences(count: int) -> list[np.ndarray]:
    return [noise((k % 40, 6), k) for k in range(count)]


def test_a_dataset_with_a_node_killed_in_the_middle(nodes: Nodes) -> None:
    xs = sequences(3000)
    column = pa.array([x.tolist() for x in xs], pa.list_(pa.list_(pa.float32(), 6)))
    dataset = ray.data.from_arrow(pa.table({"id": range(len(xs)), "x": column})).repartition(60)
    found: dict[int, np.ndarray] = {}
    killed = False
    for batch in cgru.ray.predict(dataset, NET, workers=(1, 3), rows=50).iter_batches(batch_format="pyarrow"):
        for number, y in zip(batch["id"].to_pylist(), batch["y"].to_pylist(), strict=True):
            assert number not in found, "a row came twice"
            found[number] = np.array(y, np.float32).reshape(-1, 3)
        if not killed:
            nodes.kill("Predictor")
            killed = True
    assert sorted(found) == list(range(len(xs)))
    for number, y in found.items():
        assert np.array_equal(y, NET(xs[number]))


def test_streams_with_a_replica_that_hangs_and_a_node_killed_in_the_middle(nodes: Nodes) -> None:
    handle = serve.run(cgru.ray.streams(NET, replicas=2, capacity=6), name="streams", route_prefix=None)
    xs = {f"session {k}": noise((40, 6), k) for k in range(8)}
    sessions = {name: cgru.ray.Session(handle, name, patience=240.0) for name in xs}
    outputs: dict[str, list[np.ndarray]] = {name: [] for name in xs}

    def feed(begin: int, end: int) -> None:
        for at in range(begin, end, 5):
            for name, x in xs.items():
                outputs[name].append(sessions[name].feed(x[at : at + 5]))

    feed(0, 15)
    with nodes.stopped("SERVE_REPLICA"):
        feed(15, 20)
    assert any(session.tries > 1 for session in sessions.values()), "nobody asked the other replica"
    threading.Timer(0.2, nodes.kill, ["SERVE_REPLICA"]).start()
    feed(20, 40)
    for name, x in xs.items():
        assert np.array_equal(np.concatenate(outputs[name]), NET.stream().feed(x))
        assert sessions[name].steps == 40
    # A call that is made again, its answer having been lost: the same outputs, and the state moves once.
    again = cgru.ray.Session(handle, "session 0", steps=35)
    assert np.array_equal(again.feed(xs["session 0"][35:]), outputs["session 0"][-1])
    x = noise((3, 6), 99)
    assert np.array_equal(again.feed(x), NET.stream().feed(np.concatenate([xs["session 0"], x]))[40:])
    with pytest.raises(SessionLost, match="no state after 12 steps is kept"):
        cgru.ray.Session(handle, "session 1", steps=12).feed(x)
    with pytest.raises(CgruError, match="takes 6 features"):
        sessions["session 1"].feed(noise((3, 5), 0))
    sessions["session 1"].close()
    with pytest.raises(SessionLost):
        sessions["session 1"].feed(x)
    serve.delete("streams")


@pytest.mark.parametrize("form", ["lists", "tensors", "padded", "numpy"])
def test_columns_of_every_form(form: str) -> None:
    """The predictor by itself, as a worker calls it."""
    xs = [noise((n, 6), n) for n in (3, 0, 7, 7)]
    predictor = cgru.ray.Predictor(NET, lengths="n" if form == "padded" else None)
    batch: Any
    if form == "lists":
        batch = pa.table({"x": pa.array([x.tolist() for x in xs], pa.list_(pa.list_(pa.float32(), 6)))})
    elif form == "tensors":
        from ray.data.extensions import ArrowVariableShapedTensorArray

        ragged = np.empty(len(xs), object)
        ragged[:] = xs
        batch = pa.table({"x": ArrowVariableShapedTensorArray.from_numpy(ragged)})
    elif form == "padded":
        padded = np.zeros((4, 7, 6), np.float32)
        for row, x in zip(padded, xs, strict=True):
            row[: len(x)] = x
        batch = {"x": padded, "n": np.array([len(x) for x in xs]), "id": np.arange(4)}
    else:
        ragged = np.empty(len(xs), object)
        ragged[:] = xs
        batch = {"x": ragged}
    found = predictor(batch)
    ys = found["y"] if isinstance(batch, dict) else found["y"].to_pylist()
    for x, y in zip(xs, ys, strict=True):
        assert np.array_equal(np.array(y, np.float32).reshape(-1, 3), NET(x))
    if form == "padded":
        assert found["id"] is batch["id"]


def test_columns_that_nobody_needs_stay_behind() -> None:
    xs = [noise((n, 6), n) for n in (3, 7)]
    table = pa.table({"id": [5, 6], "x": pa.array([x.tolist() for x in xs], pa.list_(pa.list_(pa.float32(), 6)))})
    found = cgru.ray.Predictor(NET, keep=["id"])(table)
    assert found.column_names == ["id", "y"]
    assert np.array_equal(np.array(found["y"][1].as_py(), np.float32), NET(xs[1]))
    ragged = np.empty(2, object)
    ragged[:] = xs
    assert list(cgru.ray.Predictor(NET, keep=[], output="x")({"id": np.arange(2), "x": ragged})) == ["x"]
    with pytest.raises(CgruError, match="no column is named 'di'; there are id, x"):
        cgru.ray.Predictor(NET, keep=["di"])(table)
    with pytest.raises(CgruError, match="a list of columns' names, found the text 'id'"):
        cgru.ray.Predictor(NET, keep="id")


class Handle:
    """A deployment: what its replicas do, call by call, and by which routes they were asked."""

    def __init__(self, *replicas: Any) -> None:
        self.replicas, self.asked = replicas, list[str]()

    def options(self, session_id: str) -> Any:
        return SimpleNamespace(feed=SimpleNamespace(remote=lambda name, at, x: self.call(session_id, at, x)))

    def call(self, route: str, at: int, x: np.ndarray) -> Any:
        self.asked.append(route)
        return Call(self.replicas[min(len(self.asked), len(self.replicas)) - 1], at, x)


class Call:
    def __init__(self, replica: Any, at: int, x: np.ndarray) -> None:
        self.replica, self.at, self.x = replica, at, x

    def result(self, timeout_s: float) -> np.ndarray:
        if self.replica is None:
            time.sleep(timeout_s)
            raise TimeoutError
        if isinstance(self.replica, Exception):
            raise self.replica
        assert isinstance(self.replica, np.ndarray)
        return self.replica[self.at : self.at + len(self.x)]


def test_a_session_asks_elsewhere_where_a_replica_says_nothing() -> None:
    y = np.arange(10.0)
    handle = Handle(y, None, y)
    session = cgru.ray.Session(handle, "s")
    assert np.array_equal(session.feed(np.zeros((5, 6))), y[:5])
    begun = time.monotonic()
    assert np.array_equal(session.feed(np.zeros((5, 6))), y[5:])
    assert 0.4 < time.monotonic() - begun < 5
    assert (session.steps, session.tries) == (10, 2)
    assert handle.asked == ["s", "s", "s#1"]
    session.feed(np.zeros((0, 6)))
    assert handle.asked[-1] == "s#1", "it stays with the one that answers"


def test_a_session_asks_elsewhere_again_and_again_where_chance_leads_to_the_same() -> None:
    """Four times in a row the router leads to the replica that says nothing; all within the two seconds promised."""
    y = np.arange(10.0)
    handle = Handle(y, None, None, None, None, y)
    session = cgru.ray.Session(handle, "s")
    session.feed(np.zeros((5, 6)))
    assert np.array_equal(session.feed(np.zeros((5, 6))), y[5:])
    assert handle.asked == ["s", "s", "s#1", "s#2", "s#3", "s#4"]
    assert session.took < 2


def test_a_session_goes_on_after_errors_of_replicas_and_stops_at_its_own() -> None:
    y = np.arange(10.0)
    gone = ray.exceptions.RayActorError()
    session = cgru.ray.Session(Handle(gone, gone, y), "s")
    assert np.array_equal(session.feed(np.zeros((5, 6))), y[:5])
    assert session.tries == 3
    # What one replica cannot, another that was asked before still may.
    lost = ray.exceptions.RayTaskError("feed", "", SessionLost("no state"))
    slow = cgru.ray.Session(Handle(None, lost, y), "s")
    slow._usual = 0.01
    assert np.array_equal(slow.feed(np.zeros((5, 6))), y[:5])
    with pytest.raises(SessionLost, match="no state"):
        cgru.ray.Session(Handle(lost), "s").feed(np.zeros((5, 6)))
    with pytest.raises(CgruError, match=r"no replica answered in 0\.2 s"):
        cgru.ray.Session(Handle(None), "s", patience=0.2).feed(np.zeros((5, 6)))
    with pytest.raises(CgruError, match=r"no replica answered in 0\.2 s"):
        cgru.ray.Session(Handle(gone), "s", patience=0.2).feed(np.zeros((5, 6)))
    with pytest.raises(ZeroDivisionError):
        cgru.ray.Session(Handle(ZeroDivisionError()), "s").feed(np.zeros((5, 6)))


def test_what_a_batch_gets_wrong() -> None:
    predictor = cgru.ray.Predictor(NET, column="z")
    with pytest.raises(CgruError, match="no column is named 'z'; there are x"):
        predictor({"x": []})
    with pytest.raises(CgruError, match="a column 'y' already"):
        cgru.ray.Predictor(NET)({"x": [], "y": []})
    with pytest.raises(CgruError, match=r"expected a cgru.Model or what cgru.ray.ship gave"):
        cgru.ray.Predictor("model.pt")


class Actor:
    """A store on a node that may be lost: its calls fail."""

    def __init__(self) -> None:
        self.store, self.lost = Store(10, 3600.0), False

    def __getattr__(self, method: str) -> Any:
        def remote(*given: Any) -> Any:
            done: Future[Any] = Future()
            if self.lost:
                done.set_exception(ray.exceptions.ActorUnavailableError("lost", None))
            else:
                done.set_result(getattr(self.store, method)(*given))
            return SimpleNamespace(future=lambda: done)

        return SimpleNamespace(remote=remote)


def test_a_state_is_saved_where_half_of_the_stores_have_it() -> None:
    actors = [Actor(), Actor(), Actor()]
    stores = Stores(actors)
    asyncio.run(stores.save("a", 0, 5, b"five"))
    actors[0].lost = True
    asyncio.run(stores.save("a", 5, 9, b"nine"))
    assert asyncio.run(stores.load("a", 9)) == b"nine"
    actors[1].lost = True
    with pytest.raises(ray.exceptions.RayActorError):  # the replica with the third may be the one that is lost
        asyncio.run(stores.save("a", 9, 12, b"twelve"))
    assert asyncio.run(stores.load("a", 9)) == b"nine"
    with pytest.raises(ray.exceptions.RayActorError):  # who has it may come back
        asyncio.run(stores.load("a", 20))
    actors[0].lost = actors[1].lost = False
    asyncio.run(stores.save("a", 9, 12, b"twelve"))
    with pytest.raises(SessionLost):
        asyncio.run(stores.load("a", 20))


def test_a_store_keeps_the_last_two_states_of_each_session() -> None:
    store = Store(2, 3600.0)
    store.save("a", 0, 5, b"five")
    store.save("a", 5, 9, b"nine")
    assert [store.load("a", n) for n in (0, 5, 9)] == [None, b"five", b"nine"]
    store.save("a", 5, 8, b"eight")  # a call made again, with other input
    assert [store.load("a", n) for n in (5, 8, 9)] == [b"five", b"eight", None]
    # A call that two replicas answer: the slower one's state is there already, or older than all that is needed.
    store.save("a", 8, 12, b"twelve")
    store.save("a", 5, 8, b"eight")
    store.save("a", 3, 5, b"five")
    assert [store.load("a", n) for n in (5, 8, 12)] == [None, b"eight", b"twelve"]
    store.save("a", 0, 5, b"again")
    assert [store.load("a", n) for n in (5, 8, 12)] == [b"again", None, None]
    store.save("b", 0, 1, b"")
    store.save("c", 0, 1, b"")
    assert store.count() == 2
    assert store.load("a", 5) is None
    store.forget("c")
    assert store.count() == 1
