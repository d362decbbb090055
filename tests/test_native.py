"""The native form: whatever a Model holds comes back equal to the bit, and nothing else is read."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

import cgru
from cgru.errors import CgruError, FormatError, UnsupportedError
from cgru.formats import load, read
from cgru.formats.containers import safetensors as ours
from cgru.formats.readers import native
from cgru.layers import LAYERS, Layer
from cgru.spec.precision import PRECISIONS, Stored

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


def held(layer: Layer) -> dict[str, list[tuple[str, tuple[int, ...], bytes]]]:
    """Every number that the layer holds, and what it holds it as."""
    found = {}
    for key, value in layer.stored().items():
        parts = [part for part in value if part is not None] if isinstance(value, Stored) else [value]
        found[key] = [(part.dtype.str, part.shape, part.tobytes()) for part in parts]
    return found


def same(a: cgru.Model, b: cgru.Model) -> None:
    assert len(a.layers) == len(b.layers)
    for one, two in zip(a.layers, b.layers, strict=True):
        assert (type(one), one.name, one.options()) == (type(two), two.name, two.options())
        assert one.precision == two.precision
        assert held(one) == held(two)


def comes_back(net: cgru.Model, folder: Path) -> None:
    path = folder / "net.safetensors"
    net.save(path)
    back = load(path)
    same(net, back)
    x = np.zeros((2, 3), np.int64) if net.takes_ids else np.ones((2, 3, net.input_size), np.float32)
    assert net(x).tobytes() == back(x).tobytes()
    again = path.with_name("again.safetensors")
    back.save(again)
    assert again.read_bytes() == path.read_bytes()


@given(networks())
def test_what_is_saved_is_loaded_to_the_bit(tmp_path_factory: pytest.TempPathFactory, net: cgru.Model) -> None:
    comes_back(net, tmp_path_factory.mktemp("native"))


@given(networks(), st.data())
def test_what_is_saved_in_reduced_precision_is_loaded_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory, net: cgru.Model, data: st.DataObject
) -> None:
    wanted = {layer.name: data.draw(st.sampled_from(PRECISIONS)) for layer in net.layers if layer.parameters}
    reduced = net.quantize(wanted)
    assert {layer.name: layer.precision for layer in reduced.layers if layer.parameters} == wanted
    comes_back(reduced, tmp_path_factory.mktemp("native"))


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
    "of float64": ({"fc.weight": WEIGHT.astype("f8")}, "held as F64; expected F32"),
    "of integers": ({"fc.weight": WEIGHT.astype("i4")}, "held as I32; expected F32"),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_a_tensor_is_refused_that_is(case: str, tmp_path: Path) -> None:
    tensors, says = BAD_TENSORS[case]
    path = write(tmp_path / "net.safetensors", tensors=tensors)
    with pytest.raises(FormatError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)


def reduced_file(
    path: Path, precision: Any = "int8", *, drop: str = "", dtype: str = "I8", kind: str = "dense", **more: np.ndarray
) -> Path:
    """A network of one dense layer with int8 weights and a bias, one thing about it changed."""
    spec = {"layers": [{"kind": kind, "name": "fc", "options": {}, "precision": precision}]}
    values = np.array([[127, -3, 0], [5, -127, 9]], np.int8)
    parts: dict[str, np.ndarray] = {"weight": values, "weight.scale": scale(0.5, 0.25), "bias": scale(1, 1)}
    parts |= {key.replace("_", "."): array for key, array in more.items()}
    tensors = {f"fc.{key}": array for key, array in parts.items() if key != drop}
    notes = {"format": "cgru", "version": "1", "spec": json.dumps(spec)}
    ours.write(path, tensors, notes, dtypes={"fc.weight": dtype})
    return path


def test_the_crafted_reduced_file_is_sound(tmp_path: Path) -> None:
    net = load(reduced_file(tmp_path / "net.safetensors"))
    assert net.precision == "int8"
    expected = np.array([[63.5, -1.5, 0], [1.25, -31.75, 2.25]], np.float32)
    np.testing.assert_array_equal(net.layers[0].arrays()["weight"], expected)
    np.testing.assert_array_equal(net(np.eye(3, dtype=np.float32)), expected.T + 1)


def refused(path: Path, says: str) -> None:
    with pytest.raises(FormatError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)


def scale(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


BF16 = np.full((2, 3), 0x3F80, np.uint16)


def test_a_matrix_of_another_dtype_than_its_precision_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    refused(reduced_file(path, weight=WEIGHT, dtype="F32"), "'fc.weight' is held as F32; expected I8")
    refused(reduced_file(path, weight=BF16, dtype="BF16"), "'fc.weight' is held as BF16; expected I8")
    refused(reduced_file(path, "fp16", weight=BF16, dtype="BF16"), "'fc.weight' is held as BF16; expected F16")
    refused(reduced_file(path, "bf16", weight=BF16, dtype="U16"), "'fc.weight' is held as U16; expected BF16")
    refused(reduced_file(path, "float32"), "'fc.weight' is held as I8; expected F32")


def test_a_reduced_bias_is_refused(tmp_path: Path) -> None:
    path = reduced_file(tmp_path / "net.safetensors", bias=np.ones(2, np.float16))
    refused(path, "'fc.bias' is held as F16; expected F32")


def test_a_missing_scale_is_refused(tmp_path: Path) -> None:
    refused(reduced_file(tmp_path / "net.safetensors", drop="weight.scale"), "'fc.weight.scale' is missing")


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 1)])
def test_a_scale_of_another_shape_is_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    path = reduced_file(tmp_path / "net.safetensors", weight_scale=np.ones(shape, np.float32))
    refused(path, f"'fc.weight.scale' has shape {shape}, expected (2,)")


def test_a_scale_of_another_dtype_is_refused(tmp_path: Path) -> None:
    path = reduced_file(tmp_path / "net.safetensors", weight_scale=np.ones(2))
    refused(path, "'fc.weight.scale' is held as F64; expected F32")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -1.0, 3e38])
def test_a_scale_that_no_weights_have_is_refused(bad: float, tmp_path: Path) -> None:
    refused(reduced_file(tmp_path / "net.safetensors", weight_scale=scale(1, bad)), "holds the scale")


def test_a_weight_of_minus_128_is_refused(tmp_path: Path) -> None:
    path = reduced_file(tmp_path / "net.safetensors", weight=np.full((2, 3), -128, np.int8))
    refused(path, "'fc.weight' holds -128")


@pytest.mark.parametrize("shape", [(), (2,), (2, 3, 1), (0, 3)])
def test_a_reduced_matrix_of_other_axes_is_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    rows = np.ones(shape[:1], np.float32)
    path = reduced_file(tmp_path / "net.safetensors", weight=np.ones(shape, np.int8), weight_scale=rows)
    refused(path, "has no entries" if 0 in shape else f"'fc.weight' has shape {shape}; expected 2 axes")


def test_a_left_over_scale_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    refused(reduced_file(path, bias_scale=scale(1, 1)), "nothing uses the tensor 'fc.bias.scale'")
    refused(reduced_file(path, "bf16", weight=BF16, dtype="BF16"), "nothing uses the tensor 'fc.weight.scale'")
    refused(reduced_file(path, "float32", weight=WEIGHT, dtype="F32"), "nothing uses the tensor 'fc.weight.scale'")
    refused(reduced_file(path, other_scale=scale(1)), "nothing uses the tensor 'fc.other.scale'")


@pytest.mark.parametrize("precision", ["int4", "", None, 8, ["int8"]])
def test_an_unknown_precision_is_refused(precision: object, tmp_path: Path) -> None:
    refused(reduced_file(tmp_path / "net.safetensors", precision), "known are float32, int8, int8x16, bf16, fp16")


def test_a_precision_of_a_layer_without_weights_is_refused(tmp_path: Path) -> None:
    entry = {"kind": "masking", "name": "m", "options": {}, "precision": "int8"}
    path = write(tmp_path / "net.safetensors", {"layers": [entry, DENSE]})
    refused(path, "'m' has precision 'int8', but a masking has no weights to reduce")


@pytest.mark.parametrize(("precision", "share"), [("int8", 0.28), ("int8x16", 0.28), ("bf16", 0.52), ("fp16", 0.52)])
@pytest.mark.parametrize("hidden", [128, 256])
def test_reduced_files_are_small(precision: str, share: float, hidden: int, tmp_path: Path) -> None:
    layers = [random_gru(40, hidden, 1, False, True, 0), cgru.Dense(np.ones((10, hidden)), np.ones(10))]
    net = cgru.Model(layers)
    net.save(tmp_path / "float32.safetensors")
    net.quantize(precision).save(tmp_path / "reduced.safetensors")
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("reduced", "float32")]
    assert sizes[0] <= share * sizes[1]


def test_other_readers_open_a_reduced_file(tmp_path: Path) -> None:
    net = cgru.Model([random_gru(3, 7, 1, False, True, 0), cgru.Dense(np.ones((2, 7)))])
    path = tmp_path / "net.safetensors"
    net.quantize({"gru": "int8", "dense": "fp16"}).save(path)
    tensors = safetensors.numpy.load_file(path)
    assert (tensors["gru.weight_hh_l0"].dtype, tensors["dense.weight"].dtype) == (np.int8, np.float16)
    wide = tensors["gru.weight_hh_l0"] * tensors["gru.weight_hh_l0.scale"][:, None]
    np.testing.assert_array_equal(wide, load(path).layers[0].arrays()["weight_hh_l0"])


def test_a_later_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="version '3'"):
        load(write(tmp_path / "net.safetensors", version="3"))


def test_a_file_without_a_specification_is_refused(tmp_path: Path) -> None:
    safetensors.numpy.save_file({"fc.weight": WEIGHT}, tmp_path / "net.safetensors", {"format": "cgru", "version": "1"})
    with pytest.raises(FormatError, match="lacks 'spec'"):
        load(tmp_path / "net.safetensors")


def test_an_activation_of_a_later_version_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"net\.safetensors: fc: activation 'sparsemax'"):
        load(write(tmp_path / "net.safetensors", altered(options={"activation": "sparsemax"})))


@pytest.mark.parametrize("precision", PRECISIONS)
@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_changed_byte_gives_a_network_or_a_cgru_error(precision: str, where: int, value: int) -> None:
    raw = bytearray(SOUND[precision])
    raw[where % len(raw)] = value
    try:
        layers = native.load(bytes(raw))
    except CgruError:
        return
    assert isinstance(layers, list)
    assert all(isinstance(layer, Layer) for layer in layers)


def _sound(precision: str) -> bytes:
    layers = [random_gru(1, 3, 1, False, True, 0, reset="before", name="rnn"), cgru.Dense(WEIGHT, name="fc")]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.safetensors"
        cgru.Model(layers).quantize({"rnn": precision}).save(path)
        return path.read_bytes()


SOUND = {precision: _sound(precision) for precision in PRECISIONS}


@pytest.mark.parametrize("name", ["x.pt", "q.keras", "net", "net.npz", "net.SAFETENSORS"])
def test_the_name_says_what_is_written(name, tmp_path):
    net = cgru.Model([cgru.Dense(np.ones((2, 3)))])
    with pytest.raises(UnsupportedError, match=r"written as safetensors.*name the file .*\.safetensors"):
        net.save(tmp_path / name)
    assert not list(tmp_path.iterdir())
