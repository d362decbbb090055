"""Ray on a local cluster of several nodes, one of them killed in the middle: everything once, equal to the bit."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
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
from cgru.ray.store import SessionLost, Store  # noqa: E402

NET = build(Kind(6, 20, layers=2, head=3), 1, "packed")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


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


def test_streams_with_a_node_killed_in_the_middle(nodes: Nodes) -> None:
    handle = serve.run(cgru.ray.streams(NET, replicas=2, capacity=6), name="streams", route_prefix=None)
    xs = {f"session {k}": noise((40, 6), k) for k in range(8)}
    sessions = {name: cgru.ray.Session(handle, name) for name in xs}
    outputs: dict[str, list[np.ndarray]] = {name: [] for name in xs}

    def feed(begin: int, end: int) -> None:
        for at in range(begin, end, 5):
            for name, x in xs.items():
                outputs[name].append(sessions[name].feed(x[at : at + 5]))

    feed(0, 20)
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


def test_what_a_batch_gets_wrong() -> None:
    predictor = cgru.ray.Predictor(NET, column="z")
    with pytest.raises(CgruError, match="no column is named 'z'; there are x"):
        predictor({"x": []})
    with pytest.raises(CgruError, match="a column 'y' already"):
        cgru.ray.Predictor(NET)({"x": [], "y": []})
    with pytest.raises(CgruError, match=r"expected a cgru.Model or what cgru.ray.ship gave"):
        cgru.ray.Predictor("model.pt")


def test_a_store_keeps_the_last_two_states_of_each_session() -> None:
    store = Store(2, 3600.0)
    store.save("a", 0, 5, b"five")
    store.save("a", 5, 9, b"nine")
    assert [store.load("a", n) for n in (0, 5, 9)] == [None, b"five", b"nine"]
    store.save("a", 5, 8, b"eight")  # a call made again, with other input
    assert [store.load("a", n) for n in (5, 8, 9)] == [b"five", b"eight", None]
    store.save("b", 0, 1, b"")
    store.save("c", 0, 1, b"")
    assert store.count() == 2
    assert store.load("a", 5) is None
    store.forget("c")
    assert store.count() == 1
