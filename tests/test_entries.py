"""Networks of several entries: one weight store, one file, models by name."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from seq2seq import VOCABULARY, arr, graphs, ids

import cgru
from cgru.formats.containers import safetensors


def net(**options: Any) -> Any:
    return cgru.Model(graphs(**options))


def test_entries_are_models_over_one_weight_store() -> None:
    both = net()
    assert list(both) == ["encode", "decode"]
    assert both["encode"].input_names == ["source"]
    # The embedding stands in both graphs and once in the store: the sum of parts is larger than the whole.
    assert both.parameters == sum(both[name].parameters for name in both) - VOCABULARY * 6
    shared = {id(w) for w in both["encode"].store.values()} & {id(w) for w in both["decode"].store.values()}
    assert len(shared) == 1
    alone = cgru.Model(graphs()["encode"])
    x = ids(3, 7)
    for name, array in alone(x).items():
        np.testing.assert_array_equal(both["encode"](x)[name], array)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_entries_come_back_from_their_file(precision: str, tmp_path: Path) -> None:
    both = net() if precision == "float32" else net().quantize(precision)
    path = tmp_path / "both.safetensors"
    x = ids(2, 5)
    before = both["encode"](x)
    both.save(path)
    twins: list[Any] = [cgru.load(path), pickle.loads(pickle.dumps(both)), copy.deepcopy(both)]
    for again in twins:
        assert list(again.entries) == ["encode", "decode"]
        assert repr(again) == repr(both)
        assert [layer.describe() for layer in again.layers] == [layer.describe() for layer in both.layers]
        assert (again.parameters, again.precision) == (both.parameters, precision)
        for name, array in before.items():
            np.testing.assert_array_equal(again["encode"](x)[name], array)
    # Shared weights are in the file once.
    stored = [name for name in cgru.read(path) if cgru.read(path)[name].shape == (VOCABULARY, 6)]
    assert len(stored) == 1


def test_two_graphs_may_name_unlike_weights_alike() -> None:
    def one(scale: float) -> cgru.Graph:
        g = cgru.Graph()
        g.output(g.dense(g.input(2), units=2, name="fc", weights={"weight": np.eye(2) * scale}))
        return g

    both: Any = cgru.Model({"a": one(1.0), "b": one(3.0)})
    assert sorted(both.store) == ["b.fc", "fc"]
    x = arr(4, 2)
    np.testing.assert_array_equal(both["a"](x), x)
    np.testing.assert_array_equal(both["b"](x), x * np.float32(3))


def test_quantize_by_entry_and_layer() -> None:
    both = net().quantize({"decode.head": "int8"})
    assert {layer.name: layer.precision for layer in both["decode"].layers if layer.reducible}["head"] == "int8"
    assert both["encode"].precision == "float32"
    with pytest.raises(cgru.CgruError, match="shares its weights"):
        net().quantize({"decode.embedding": "int8", "encode.embedding": "bf16"})
    with pytest.raises(cgru.CgruError, match=r"no layer is named 'head'.*decode\.head"):
        net().quantize({"head": "int8"})


def test_what_runs_is_an_entry(tmp_path: Path) -> None:
    both = net()
    x, features = ids(1, 3), np.zeros((1, 3, 1), np.float32)
    calls: list[Callable[[], Any]] = [
        *(lambda: both(x), lambda: both.run(x), lambda: both.gates(x), lambda: both.top_k(x, 1)),
        *(both.stream, lambda: both.pool(3), both.state, lambda: both.input_names, lambda: both.vocabulary_of("token")),
        *(lambda: cgru.compare(both, both, x), lambda: cgru.verify(both, x, x)),
        *(lambda: cgru.forecast(both, features, steps=2), lambda: list(cgru.map(both, [x]))),
    ]
    for call in calls:
        with pytest.raises(cgru.CgruError, match=r"entries encode, decode.*net\['encode'\]"):
            call()
    with pytest.raises(cgru.CgruError, match="no entry 'encoder'; its entries are encode, decode"):
        both["encoder"]
    with pytest.raises(cgru.CgruError, match="has no entries"):
        both["encode"]["main"]
    with pytest.raises(cgru.UnsupportedError, match="one by one"):
        both.save(tmp_path / "both.onnx")


def test_entries_that_are_none() -> None:
    with pytest.raises(cgru.CgruError, match="at least one"):
        cgru.Model({})
    with pytest.raises(cgru.CgruError, match=r"must be a cgru\.Graph, found int"):
        cgru.Model({"encode": 3})  # type: ignore[dict-item]
    with pytest.raises(cgru.CgruError, match="not empty"):
        cgru.Model({"": graphs()["encode"]})


DAMAGE: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no entries": (lambda s: s.update(entries={}), "1 to 64 graphs"),
    "entries that are a list": (lambda s: s.update(entries=[]), "1 to 64 graphs"),
    "an entry without a name": (lambda s: s["entries"].update({"": s["entries"]["encode"]}), "1 to 64 graphs"),
    "a thousand entries": (
        lambda s: s["entries"].update({str(i): s["entries"]["encode"] for i in range(1000)}),
        "1 to 64 graphs",
    ),
    "an entry that is no graph": (lambda s: s["entries"].update(decode=3), "entry 'decode': a graph must be"),
    "an entry gone": (lambda s: s["entries"].pop("decode"), "nothing uses the weights"),
    "weights of another shape": (
        lambda s: s["entries"]["decode"]["nodes"][0].update(options={"vocabulary": 5, "units": 6}),
        "entry 'decode'.*shape",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_refused(damage: str, tmp_path: Path) -> None:
    change, message = DAMAGE[damage]
    path = tmp_path / "both.safetensors"
    net().save(path)
    file, _ = safetensors.read_as_held(path)
    spec = json.loads(file.metadata["spec"])
    change(spec)
    safetensors.write(path, file.tensors, {**file.metadata, "spec": json.dumps(spec)})
    with pytest.raises(cgru.CgruError, match=message):
        cgru.load(path)
