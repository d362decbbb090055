"""The native form: whatever a Model holds comes back equal to the bit, and nothing else is read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

import cgru
from cgru.errors import CgruError, FormatError, UnsupportedError
from cgru.formats import load, native, read
from cgru.layers import LAYERS, Layer

SIZES = st.sampled_from([1, 3, 7, 17])
NAMES = st.sampled_from(["a", "a.b", "gru", "größe", "x" * 300, 'q"\\', "0"])


def random_gru(inputs: int, hidden: int, depth: int, both: bool, bias: bool, seed: int, **options: Any) -> cgru.GRU:
    rng = np.random.default_rng(seed)
    arrays, size = {}, inputs
    for layer in range(depth):
        for reverse in ("", "_reverse")[: 1 + both]:
            shapes: dict[str, tuple[int, ...]] = {"weight_ih": (3 * hidden, size), "weight_hh": (3 * hidden, hidden)}
            if bias:
                shapes |= {"bias_ih": (3 * hidden,), "bias_hh": (3 * hidden,)}
            for stem, shape in shapes.items():
                arrays[f"{stem}_l{layer}{reverse}"] = rng.standard_normal(shape).astype(np.float32)
        size = hidden * (1 + both)
    return cgru.GRU(arrays, num_layers=depth, bidirectional=both, **options)


@st.composite
def networks(draw: st.DrawFn) -> cgru.Model:
    """Any order of layers that runs, with any of their options."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    size = draw(SIZES)
    layers: list[Layer] = []
    first = draw(st.sampled_from(["embedding", "masking", "none"]))
    if first == "embedding":
        table = rng.standard_normal((draw(SIZES), size)).astype(np.float32)
        layers.append(cgru.Embedding(table, mask_zero=draw(st.booleans()), name=draw(NAMES)))
    elif first == "masking":
        layers.append(cgru.Masking(draw(st.floats(-1e30, 1e30) | st.just(np.inf))))
    for position in range(draw(st.integers(0, 2))):
        hidden, both = draw(SIZES), draw(st.booleans())
        depth = draw(st.integers(1, 2))
        merge = draw(st.sampled_from(["concat", "sum", "mul", "ave"]))
        layers.append(
            random_gru(
                size, hidden, depth, both, draw(st.booleans()), seed + position,
                reset=draw(st.sampled_from(["after", "before"])),
                activation=draw(st.sampled_from(["tanh", "relu", "hard_sigmoid_keras2"])),
                recurrent_activation=draw(st.sampled_from(["sigmoid", "hard_sigmoid"])),
                merge_mode=merge,
                go_backwards=draw(st.booleans()) and not both and depth == 1,
                zero_output_for_mask=draw(st.booleans()),
                name=draw(NAMES),
            )
        )  # fmt: skip
        size = hidden * (2 if both and merge == "concat" else 1)
    out = draw(SIZES)
    bias = rng.standard_normal(out) if draw(st.booleans()) else None
    activation = draw(st.sampled_from(["linear", "softmax"]))
    layers.append(cgru.Dense(rng.standard_normal((out, size)), bias, activation=activation, name=draw(NAMES)))
    layers.append(cgru.Activation("elu"))
    return cgru.Model(layers)


def same(a: cgru.Model, b: cgru.Model) -> None:
    assert len(a.layers) == len(b.layers)
    for one, two in zip(a.layers, b.layers, strict=True):
        assert (type(one), one.name, one.options()) == (type(two), two.name, two.options())
        left, right = one.arrays(), two.arrays()
        assert left.keys() == right.keys()
        for key, array in left.items():
            assert array.shape == right[key].shape
            assert array.tobytes() == right[key].tobytes()


@given(networks())
def test_what_is_saved_is_loaded_to_the_bit(tmp_path_factory: pytest.TempPathFactory, net: cgru.Model) -> None:
    path = tmp_path_factory.mktemp("native") / "net.safetensors"
    net.save(path)
    back = load(path)
    same(net, back)
    x = np.zeros((2, 3), np.int64) if net.takes_ids else np.ones((2, 3, net.input_size), np.float32)
    assert net(x).tobytes() == back(x).tobytes()
    again = path.with_name("again.safetensors")
    back.save(again)
    assert again.read_bytes() == path.read_bytes()


def test_bit_patterns_of_nan_and_minus_zero_survive(tmp_path: Path) -> None:
    weight = np.array([[0x7FC00123, 0xFF800000], [0x80000000, 0x00000001]], np.uint32).view(np.float32)
    cgru.Model([cgru.Dense(weight)]).save(tmp_path / "net.safetensors")
    assert read(tmp_path / "net.safetensors")["dense.weight"].tobytes() == weight.tobytes()
    assert load(tmp_path / "net.safetensors").layers[0].arrays()["weight"].tobytes() == weight.tobytes()


def test_a_last_output_pair_of_directions_and_numpy_options_survive(tmp_path: Path) -> None:
    pair = random_gru(3, 2, 1, True, True, 0, merge_mode=None, return_sequences=False)
    net = cgru.Model([cgru.Masking(np.float32(-1)), pair])  # type: ignore[arg-type]
    pair.num_layers = np.int64(1)  # type: ignore[assignment]
    net.save(tmp_path / "net.safetensors")
    same(net, load(tmp_path / "net.safetensors"))


def test_other_readers_of_safetensors_open_the_file(tmp_path: Path) -> None:
    net = cgru.Model([random_gru(3, 7, 1, False, True, 0), cgru.Dense(np.ones((2, 7)))])
    net.save(tmp_path / "net.safetensors")
    tensors = safetensors.numpy.load_file(tmp_path / "net.safetensors")
    assert tensors.keys() == {
        "gru.weight_ih_l0", "gru.weight_hh_l0", "gru.bias_ih_l0", "gru.bias_hh_l0", "dense.weight",
    }  # fmt: skip
    assert np.array_equal(tensors["gru.weight_hh_l0"], net.layers[0].arrays()["weight_hh_l0"])


def test_a_failed_save_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CgruError, match=r"net\.safetensors: cannot be written: No space left"):
        cgru.Model([cgru.Dense(np.ones((2, 3)))]).save(path)
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["net.safetensors"]


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(CgruError, match=r"nowhere.*No such file or directory"):
        cgru.Model([cgru.Dense(np.ones((2, 3)))]).save(tmp_path / "nowhere" / "net.safetensors")


@pytest.mark.parametrize("path", [None, 3, b"net", "", "a\0b"])
def test_what_is_no_path_to_write_to(path: Any) -> None:
    with pytest.raises(CgruError, match="path: expected the path of a file to write"):
        cgru.Model([cgru.Dense(np.ones((2, 3)))]).save(path)


def test_every_kind_of_layer_is_in_the_documentation() -> None:
    page = Path(__file__).parent.parent / "docs" / "format.md"
    if not page.exists():
        pytest.skip("docs/format.md is not beside the tests")
    text = page.read_text(encoding="utf-8")
    for kind in LAYERS:
        assert f"| `{kind}` |" in text
    for option in cgru.GRU.OPTIONS:
        assert f"`{option}`" in text


# Files that say something else ----------------------------------------------------------------------------

DENSE = {"kind": "dense", "name": "fc", "options": {"activation": "relu"}}
WEIGHT = np.ones((2, 3), np.float32)


def write(path: Path, spec: Any = ..., tensors: dict[str, np.ndarray] | None = None, **metadata: str) -> Path:
    text = spec if isinstance(spec, str) else json.dumps({"layers": [DENSE]} if spec is ... else spec)
    notes = {"format": "cgru", "version": "1", "spec": text} | metadata
    safetensors.numpy.save_file({"fc.weight": WEIGHT} if tensors is None else tensors, path, notes)
    return path


def altered(**changes: Any) -> dict[str, Any]:
    return {"layers": [DENSE | changes]}


def test_the_crafted_file_is_sound(tmp_path: Path) -> None:
    net = load(write(tmp_path / "net.safetensors", note="kept for the reader"))
    assert (net.input_size, net.output_size, net.layers[0].options()) == (3, 2, {"activation": "relu"})


def deep(levels: int) -> str:
    return '{"layers": ' + "[" * levels + "]" * levels + "}"


BAD_SPECS = {
    "no JSON": ("{layers", "not valid JSON"),
    "nested too deep": (deep(100_000), "nests too deep"),
    "nested options": (altered(options={"activation": ["relu"]}), "no plain value"),
    "a list": ([DENSE], "exactly one key"),
    "layers no list": ({"layers": {}}, "exactly one key"),
    "another key": ({"layers": [DENSE], "more": 1}, "exactly one key"),
    "no layers": ({"layers": []}, "no layers"),
    "an entry that is no object": ({"layers": ["dense"]}, "exactly kind, name and options"),
    "an entry with another key": (altered(more=1), "exactly kind, name and options"),
    "an unknown kind": (altered(kind="conv"), "of kind 'conv'"),
    "a kind that is no text": (altered(kind=["dense"]), "of kind"),
    "a name that is no text": (altered(name=3), "name must be a text"),
    "an empty name": (altered(name=""), "name must be a text"),
    "options that are no object": (altered(options=[]), "options an object"),
    "an unknown option": (altered(options={"colour": "red"}), "says 'colour'"),
    "an option of another type": (altered(options={"activation": 3}), "'activation' is 3"),
    "two layers of one name": ({"layers": [DENSE, DENSE]}, "a second layer is named 'fc'"),
    "a key twice": ('{"layers": [], "layers": []}', "the same key twice"),
    "a huge number": ('{"layers": [' + "9" * 5000 + "]}", "has the number"),
    "another layer's tensors": (altered(kind="activation"), "nothing uses the tensor 'fc.weight'"),
    "layers of other names": (altered(name="out"), "nothing uses the tensor 'fc.weight'"),
    "a kind whose tensors are missing": (altered(kind="gru", options={}), "weight_hh_l0 is missing"),
    "an embedding that does not come first": (
        {"layers": [{"kind": "masking", "name": "m", "options": {}}, DENSE | {"kind": "embedding", "options": {}}]},
        "can only come first",
    ),
    "a number too large for a float": (
        {"layers": [{"kind": "masking", "name": "m", "options": {"mask_value": 10**400}}, DENSE]},
        "has the number",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_SPECS)
def test_a_specification_is_refused_with(case: str, tmp_path: Path) -> None:
    spec, says = BAD_SPECS[case]
    path = write(tmp_path / "net.safetensors", spec)
    with pytest.raises(CgruError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)
    assert len(str(caught.value)) < 1000


BAD_TENSORS: dict[str, tuple[dict[str, np.ndarray], str]] = {
    "missing": ({}, "fc.weight is missing"),
    "left over": ({"fc.weight": WEIGHT, "fd.weight": WEIGHT}, "nothing uses the tensor 'fd.weight'"),
    "left over in a layer": ({"fc.weight": WEIGHT, "fc.scale": WEIGHT}, "nothing uses the tensor 'fc.scale'"),
    "without a layer": ({"fc.weight": WEIGHT, "weight": WEIGHT}, "nothing uses the tensor 'weight'"),
    "of another shape": ({"fc.weight": WEIGHT, "fc.bias": np.ones(3, "f4")}, "bias has shape (3,)"),
    "of more axes": ({"fc.weight": WEIGHT[None]}, "expected 2 axes"),
    "without entries": ({"fc.weight": WEIGHT[:0]}, "has no entries"),
    "of float64": ({"fc.weight": WEIGHT.astype("f8")}, "held as float64"),
    "of integers": ({"fc.weight": WEIGHT.astype("i4")}, "held as int32"),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_a_tensor_is_refused_that_is(case: str, tmp_path: Path) -> None:
    tensors, says = BAD_TENSORS[case]
    path = write(tmp_path / "net.safetensors", tensors=tensors)
    with pytest.raises(FormatError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)


def test_a_later_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="version '2'"):
        load(write(tmp_path / "net.safetensors", version="2"))


def test_a_file_without_a_specification_is_refused(tmp_path: Path) -> None:
    safetensors.numpy.save_file({"fc.weight": WEIGHT}, tmp_path / "net.safetensors", {"format": "cgru", "version": "1"})
    with pytest.raises(FormatError, match="lacks 'spec'"):
        load(tmp_path / "net.safetensors")


def test_an_activation_of_a_later_version_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"net\.safetensors: fc: activation 'gelu'"):
        load(write(tmp_path / "net.safetensors", altered(options={"activation": "gelu"})))


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_changed_byte_gives_a_network_or_a_cgru_error(where: int, value: int) -> None:
    raw = bytearray(SOUND)
    raw[where % len(raw)] = value
    try:
        layers = native.load(bytes(raw))
    except CgruError:
        return
    assert all(isinstance(layer, Layer) for layer in layers)


def _sound() -> bytes:
    spec = {"layers": [{"kind": "gru", "name": "rnn", "options": {"reset": "before"}}, DENSE]}
    tensors = {
        f"rnn.{key}": array for key, array in random_gru(1, 3, 1, False, True, 0, reset="before").arrays().items()
    }
    notes = {"format": "cgru", "version": "1", "spec": json.dumps(spec)}
    return safetensors.numpy.save(tensors | {"fc.weight": WEIGHT}, notes)


SOUND = _sound()
