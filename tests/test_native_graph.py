"""Version 2 of the native form: graphs come back with equal bits, and what does not fit is refused by name."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_graph import GRAPHS, arr

import cgru
from cgru.formats.containers import safetensors


@pytest.fixture(params=GRAPHS)
def net(request: pytest.FixtureRequest) -> cgru.Model:
    return cgru.Model(GRAPHS[request.param]())


def scaled() -> cgru.Graph:
    """A weight whose array is called as the scales of int8 are."""
    g = cgru.Graph()
    x = g.input(3)
    g.output(g.scale_shift(x, weights={"scale": arr(3), "shift": arr(3)}))
    return g


@pytest.mark.parametrize("precision", ["float32", "int8", "int8x16", "bf16", "fp16"])
def test_a_saved_graph_comes_back(net: cgru.Model, precision: str, tmp_path: Path) -> None:
    net = net if precision == "float32" else net.quantize(precision)
    x, path = arr(2, 20, net.input_size), tmp_path / "net.safetensors"
    before = net(x)
    net.save(path)
    again = cgru.load(path)
    np.testing.assert_array_equal(again(x), before)
    assert again.precision == net.precision
    assert str(again) == str(net)
    assert again.run(x, again.state(batch=2))[1].batch == 2
    for twin in (pickle.loads(pickle.dumps(net)), copy.deepcopy(net)):
        np.testing.assert_array_equal(twin(x), before)


def test_a_state_goes_from_a_network_to_its_loaded_twin(tmp_path: Path) -> None:
    net = cgru.Model(GRAPHS["skip"]())
    net.save(tmp_path / "net.safetensors")
    twin, x = cgru.load(tmp_path / "net.safetensors"), arr(1, 9, 6)
    _, state = net.run(x)
    np.testing.assert_array_equal(twin.run(x, state)[0], net.run(x, state)[0])
    stream = net.stream()
    stream.feed(x)
    other = twin.stream()
    other.restore(stream.dump())
    np.testing.assert_array_equal(other.feed(x), stream.feed(x))


def test_an_array_called_scale(tmp_path: Path) -> None:
    net = cgru.Model(scaled())
    net.save(tmp_path / "net.safetensors")
    x = arr(4, 3)
    np.testing.assert_array_equal(cgru.load(tmp_path / "net.safetensors")(x), net(x))


def node(spec: Any, i: int) -> Any:
    return spec["entries"]["main"]["nodes"][i]


def change_input(spec: Any, **value: Any) -> None:
    next(iter(spec["entries"]["main"]["inputs"].values())).update(value)


DAMAGE: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a node that reads itself": (
        lambda s: node(s, 0)["inputs"].__setitem__(0, node(s, 0)["name"]),
        "no value made before",
    ),
    "a node that reads a later one": (
        lambda s: node(s, 0)["inputs"].__setitem__(0, node(s, 3)["name"]),
        "no value made",
    ),
    "an unknown operation": (lambda s: node(s, 0).update(op="explode"), "no operation of cgru"),
    "an unknown option": (lambda s: node(s, 0)["options"].update(across=1), "no option"),
    "an option of another type": (lambda s: node(s, 0)["options"].update(units="6"), "not of the kind"),
    "an absurd size": (lambda s: node(s, 0)["options"].update(width=1 << 40), "width"),
    "an absurd input": (lambda s: change_input(s, features=[1 << 40]), "no value that cgru holds"),
    "features that are none": (lambda s: change_input(s, features=[0]), "no value that cgru holds"),
    "an absurd clock": (lambda s: change_input(s, clock={"root": "", "maps": [[1, 1, 0]]}), "no clock"),
    "a clock that is none": (lambda s: change_input(s, clock=7), "no type of a value"),
    "two nodes of one name": (lambda s: node(s, 1).update(name=node(s, 0)["name"]), "second value"),
    "no outputs": (lambda s: s["entries"]["main"].update(outputs=[]), "no outputs"),
    "an output that is nothing": (lambda s: s["entries"]["main"].update(outputs=["ghost"]), "no value of the graph"),
    "another key": (lambda s: s.update(more=1), "exactly the keys"),
    "another entry": (lambda s: s["entries"].update(more={}), "entry 'more'.*exactly the keys"),
    "weights that nothing uses": (lambda s: s["weights"].update(ghost="float32"), "nothing uses"),
    "weights that are missing": (lambda s: node(s, 0).update(weights="ghost"), "missing|nothing uses"),
    "an unknown precision": (lambda s: s["weights"].update({next(iter(s["weights"])): "int4"}), "int4"),
    "nodes that are no list": (lambda s: s["entries"]["main"].update(nodes={}), "lists"),
    "a node that is no object": (lambda s: s["entries"]["main"]["nodes"].append(3), "node 4"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_refused(damage: str, tmp_path: Path) -> None:
    change, message = DAMAGE[damage]
    path = tmp_path / "net.safetensors"
    cgru.Model(GRAPHS["skip"]()).save(path)
    file, _ = safetensors.read_as_held(path)
    spec = json.loads(file.metadata["spec"])
    change(spec)
    safetensors.write(path, file.tensors, {**file.metadata, "spec": json.dumps(spec)})
    with pytest.raises(cgru.CgruError, match=message):
        cgru.load(path)
