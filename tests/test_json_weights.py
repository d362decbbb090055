"""JSON files of weights: RTNeural's and GuitarML's run whole, others give their arrays; damaged ones are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bounded import cost, memory_bound, time_bound

import cgru
from cgru.errors import CgruError, FormatError, UnsupportedError

FOLDER = Path(__file__).parent / "fixtures" / "json"
GOLDEN = np.load(FOLDER / "golden.npz")
SHARED = Path(__file__).parents[2] / "shared" / "models" / "rtneural"


@pytest.mark.parametrize("name", ["rtneural", "guitarml"])
def test_it_gives_the_model_s_outputs(name: str) -> None:
    net = cgru.load(FOLDER / f"{name}.json")
    np.testing.assert_allclose(net(GOLDEN[f"{name}.json:x"]), GOLDEN[f"{name}.json:y"], rtol=0, atol=2e-6)


def test_arrays_by_name() -> None:
    state = cgru.read(FOLDER / "guitarml.json")
    assert {name: array.shape for name, array in state.items()} == {
        "rec.weight_ih_l0": (20, 2), "rec.weight_hh_l0": (20, 5), "rec.bias_ih_l0": (20,), "rec.bias_hh_l0": (20,),
        "lin.weight": (1, 5), "lin.bias": (1,),
    }  # fmt: skip
    listed = cgru.read(FOLDER / "rtneural.json")
    assert listed["layers.1.weights.0"].shape == (3, 2, 6)
    assert not any("shape" in name or "kernel_size" in name for name in listed)


def test_a_state_dict_by_itself_is_inferred_as_any_other() -> None:
    x = GOLDEN["guitarml.json:x"]
    without_skip = GOLDEN["guitarml.json:y"] - x[:, :, :1]
    np.testing.assert_allclose(cgru.load(FOLDER / "names.json")(x), without_skip, rtol=0, atol=2e-6)
    said = cgru.load(FOLDER / "guitarml.json", layers=["rec", "lin"])
    np.testing.assert_allclose(said(x), without_skip, rtol=0, atol=2e-6)


@pytest.mark.skipif(not SHARED.exists(), reason="RTNeural's networks, ../shared/models/rtneural, are not beside this")
@pytest.mark.parametrize("name", ["gru", "gru_1d", "lstm", "lstm_1d", "gru_torch", "lstm_torch"])
def test_rtneural_s_own_networks(name: str) -> None:
    cell = name.partition("_")[0]
    layers = [cell, f"{cell}2", "dense"] if "_torch" in name else None
    net = cgru.load(SHARED / f"{name}.json", layers=layers)
    x, y = (np.loadtxt(SHARED / f"{name}_{part}_python.csv", dtype=np.float32).reshape(-1, 1) for part in "xy")
    np.testing.assert_allclose(net(x), y, rtol=0, atol=2e-6)


# ---- what is damaged, unknown or hostile --------------------------------------------------------------------------

Change = Callable[[dict[str, Any]], Any]


def put(*path: Any) -> Change:
    """The last of ``path`` put at the place that the others lead to."""

    def change(root: dict[str, Any]) -> None:
        *keys, last, value = path
        for key in keys:
            root = root[key]
        root[last] = value

    return change


RTNEURAL: dict[str, tuple[Change, str]] = {
    "another layer": (put("layers", 0, "type", "gru2"), "dense_0|'gru2'; cgru runs RTNeural's dense"),
    "another activation": (put("layers", 0, "activation", "swish"), "activation is 'swish'"),
    "an activation within a GRU": (put("layers", 4, "activation", "relu"), "RTNeural runs tanh"),
    "a kernel of another size": (put("layers", 0, "weights", 0, [[1.0] * 4] * 3), r"shape \(3, 4\), expected \(2, 4\)"),
    "ragged lists": (put("layers", 0, "weights", 0, [[1.0], [1.0, 2.0]]), "of different lengths"),
    "words for numbers": (put("layers", 0, "weights", 1, ["1"] * 4), "expected lists of numbers"),
    "truth for numbers": (put("layers", 0, "weights", 1, [True] * 4), "expected lists of numbers"),
    "a weight that is missing": (put("layers", 4, "weights", []), "expected 2 or 3 weights, found 0"),
    "one bias of a GRU": (put("layers", 4, "weights", 2, [0.0] * 12), r"expected \(2, 12\)"),
    "units that the weights are not": (put("layers", 0, "shape", [None, 5]), "says 5 units, its weights 4"),
    "a width of nothing": (put("layers", 1, "kernel_size", [0]), "kernel_size"),
    "a dilation that is a word": (put("layers", 1, "dilation", "2"), "dilation"),
    "a variance below zero": (put("layers", 2, "weights", 3, [-1.0] * 6), "variance"),
    "no layers": (put("layers", []), "without RTNeural's layers"),
    "no in_shape": (put("in_shape", None), "in_shape"),
    "a gain": (put("out_gain", 3.5), "'out_gain' is 3.5"),
    "a number beyond float32": (put("layers", 0, "weights", 1, [1e300] * 4), "beyond float32"),
    "a whole number beyond double": (put("layers", 0, "weights", 1, [10**39 * 10] * 4), "beyond float32|the number"),
}  # fmt: skip
GUITARML: dict[str, tuple[Change, str]] = {
    "another model": (put("model_data", "model", "WaveNet"), "its model is 'WaveNet'"),
    "another unit": (put("model_data", "unit_type", "GRU6"), "its unit_type is 'GRU6'"),
    "another size": (put("model_data", "hidden_size", 6), "hidden_size 6, and the weights 5"),
    "a skip of two": (put("model_data", "skip", 2), "a skip of 2 features onto 1 outputs"),
    "a skip of more than there are": (put("model_data", "skip", 7), "skip 7"),
    "a tensor beside them": (put("state_dict", "gain", [1.0]), "holds gain"),
}


def refused(content: Any, says: str) -> None:
    with pytest.raises(CgruError, match=says) as found:
        cgru.load(json.dumps(content).encode())
    assert isinstance(found.value, (FormatError, UnsupportedError))


@pytest.mark.parametrize("what", RTNEURAL)
def test_rtneural_refused(what: str) -> None:
    content = json.loads((FOLDER / "rtneural.json").read_text())
    RTNEURAL[what][0](content)
    refused(content, RTNEURAL[what][1])


@pytest.mark.parametrize("what", GUITARML)
def test_guitarml_refused(what: str) -> None:
    content = json.loads((FOLDER / "guitarml.json").read_text())
    GUITARML[what][0](content)
    refused(content, GUITARML[what][1])


def test_a_byte_order_mark_is_none_of_the_text() -> None:
    assert cgru.read(b'\xef\xbb\xbf{"a": [1, 2]}')["a"].tolist() == [1, 2]


def test_in_skip_adds_the_input() -> None:
    content = json.loads((FOLDER / "rtneural.json").read_text())
    content["layers"], content["in_skip"] = content["layers"][:1], 0
    x = GOLDEN["rtneural.json:x"]
    alone = cgru.load(json.dumps(content).encode())(x)
    content["in_skip"] = 1
    np.testing.assert_allclose(cgru.load(json.dumps(content).encode())(x), alone + x[:, :, :1], atol=1e-6)


HOSTILE = {
    "not a number": b'{"a": [NaN]}',
    "endless digits": b'{"a": [1' + b"0" * 100_000 + b"]}",
    "brackets in brackets": b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "brackets, a few": b'{"a": ' + b"[" * 90 + b"1" + b"]" * 90 + b"}",
    "empty lists": b'{"a": [' + b"[]," * 80_000 + b"[1]]}",
    "many lists of one": b'{"a": [' + b"[1]," * 80_000 + b"[1, 2]]}",
    "many objects": b'{"a": [' + b"{}," * 80_000 + b"{}]}",
    "many names": b"{" + b",".join(b'"%d": [1]' % i for i in range(30_000)) + b"}",
    "cut short": b'{"a": [1, 2',
    "no text": b'{"a": "\xff"}',
    "a list": b"[1, 2, 3]",
    "nothing in it": b"{}",
    "a configuration": b'{"class_name": "Sequential", "config": {"name": "a"}}',
    "a name of a line": b'{"a\\n": [1]}',
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("reader", [cgru.load, cgru.read], ids=["load", "read"])
def test_hostile(what: str, reader: Callable[[bytes], Any]) -> None:
    content = HOSTILE[what]
    found = cost(lambda: reader(content), limit=4 * time_bound(len(content)))
    # One number among empty lists is an array of one, which read gives.
    wanted = ("FormatError", "UnsupportedError", *(["returned"] if what == "empty lists" else []))
    assert found.ended in wanted, (found.ended, found.message)
    assert found.seconds < time_bound(len(content))
    assert found.grew < memory_bound(len(content))
    assert len(found.message) < 2000
