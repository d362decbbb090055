"""Small Keras files, large bills: what a hostile ``.keras`` or ``.h5`` may cost in processor time, memory and words."""

from __future__ import annotations

import io
import json
import re
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bounded import MEGABYTE, Cost, assert_bounded, cost, time_bound

import cgru

h5py = pytest.importorskip("h5py", reason="h5py is not installed: it writes the files of these tests")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from Linux's /proc")

FOLDER = Path(__file__).parent / "fixtures" / "keras"


def bill(content: bytes, task: Callable[[bytes], Any] = cgru.load) -> Cost:
    """What ``task`` of a file costs; it keeps within the bounds."""
    found = cost(lambda: task(content) and None, limit=4 * time_bound(len(content)))
    assert_bounded(found, len(content))
    return found


def refused(content: bytes, says: str, task: Callable[[bytes], Any] = cgru.load) -> None:
    found = bill(content, task)
    assert found.ended in ("FormatError", "UnsupportedError"), f"{found.ended}: {found.message}"
    assert re.search(says, found.message), found.message


def keras(config: Any, weights: bytes | None = None, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A .keras file of that configuration (an object, or bytes) and an HDF5 file of weights, empty by default."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.0"}))
        archive.writestr("config.json", config if isinstance(config, bytes) else json.dumps(config))
        archive.writestr("model.weights.h5", hdf5(lambda file: None) if weights is None else weights)
    return out.getvalue()


def hdf5(fill: Callable[[Any], object], libver: str = "earliest") -> bytes:
    out = io.BytesIO()
    with h5py.File(out, "w", libver=libver) as file:
        fill(file)
    return out.getvalue()


def layer(class_name: str, name: str, called_with: str | None = None, **config: Any) -> dict[str, Any]:
    nodes = [] if called_with is None else [[[called_with, 0, 0, {}]]]
    return {"class_name": class_name, "name": name, "config": {"name": name, **config}, "inbound_nodes": nodes}


def functional(layers: list[dict[str, Any]], last: str) -> dict[str, Any]:
    ends = {"input_layers": [["in", 0, 0]], "output_layers": [[last, 0, 0]]}
    return {"class_name": "Functional", "config": {"name": "net", "layers": layers, **ends}}


# ---- configurations ----------------------------------------------------------------------------------------


def test_chain_of_6000_dropouts() -> None:
    count = 6000
    layers = [layer("InputLayer", "in")]
    layers += [layer("Dropout", f"d{n}", f"d{n - 1}" if n else "in", rate=0.5) for n in range(count)]
    refused(keras(functional(layers, f"d{count - 1}")), "none of its layers")


@pytest.mark.parametrize("kind", ["Activation", "Softmax"])
def test_chain_of_5000_layers_that_run(kind: str) -> None:
    more = {"activation": "softmax"} if kind == "Activation" else {}
    layers = [layer("InputLayer", "in"), layer("Masking", "m", "in")]
    layers += [layer(kind, f"s{n}", f"s{n - 1}" if n else "m", **more) for n in range(5000)]
    bill(keras(functional(layers, "s4999")))


@pytest.mark.parametrize("values", [b"{}, ", b"    "])
def test_configuration_of_64_megabytes(values: bytes) -> None:
    """In a zip of 0.8 MB: weights that do not compress keep it within what a zip may inflate to."""
    text = b'{"class_name": "Sequential", "config": [' + values * (63 * MEGABYTE // 4) + b"{}]}"
    noise = np.random.default_rng(0).integers(0, 256, 700_000, dtype=np.uint8).tobytes()
    content = keras(text, hdf5(lambda file: None) + noise)
    assert len(content) < 850_000
    refused(content, "config.json.*more than the 8388608")


@pytest.mark.parametrize("values", [b"{},", b"[],", b"[[]],", b'{"a":1},', b'"ab",', b"0.25,", b"-12345,"])
def test_configuration_of_many_values(values: bytes) -> None:
    """Within the bound on bytes; an empty object has three letters and takes sixty-four bytes."""
    many = values * (7 * MEGABYTE // len(values)) + values.rstrip(b",")
    refused(keras(b'{"class_name": "Sequential", "config": [' + many + b"]}"), "more values")
    half = values * 150_000 + values.rstrip(b",")
    bill(keras(b'{"class_name": "Sequential", "config": [' + half + b"]}"))


def test_configuration_of_a_legacy_file_is_bounded_too() -> None:
    def fill(file: Any) -> None:
        file.attrs["model_config"] = "[" + " " * (9 * MEGABYTE) + "]"

    refused(hdf5(fill), "letters, more than")


def test_mask_through_3000_nodes() -> None:
    count = 3000
    layers = [layer("InputLayer", "in", batch_shape=[None, None, 3]), layer("Masking", "m", "in")]
    layers += [layer("NotEqual", "a0", "in")]
    layers += [layer("Any", f"a{n}", f"a{n - 1}", axis=[-1]) for n in range(1, count)]
    gru = layer("Activation", "gru", "m", activation="relu")
    gru["inbound_nodes"][0][0][3]["mask"] = [f"a{count - 1}", 0, 0]
    tensor = {"class_name": "__keras_tensor__", "config": {"keras_history": [f"a{count - 1}", 0, 0]}}
    gru["inbound_nodes"][0][0][3]["mask"] = tensor
    refused(keras(functional([*layers, gru], "gru")), "compares something else")


def test_models_that_call_one_another_many_times_over() -> None:
    """Ten models inside one another, each called twenty times by the one around it."""
    inside: dict[str, Any] = layer("Activation", "a", "in", activation="relu")
    for depth in range(10):
        inner = functional([layer("InputLayer", "in", batch_shape=[None, None, 3]), inside], inside["config"]["name"])
        inside = {"class_name": "Functional", "config": {**inner["config"], "name": f"m{depth}"}, "name": f"m{depth}"}
        inside["inbound_nodes"] = [[["in", 0, 0, {}]]] + [[[f"m{depth}", n, 0, {}]] for n in range(19)]
    whole = functional([layer("InputLayer", "in", batch_shape=[None, None, 3]), inside], "m9")
    refused(keras(whole), "more than 20000 times")


def test_places_that_a_node_would_list() -> None:
    layers = [layer("InputLayer", "in", batch_shape=[None, 3]), layer("RepeatVector", "r", "in", n=1 << 20)]
    layers += [layer("UpSampling1D", "u", "r", size=1 << 20)]
    refused(keras(functional(layers, "u")), "lists 1099511627776 places")


@pytest.mark.parametrize("where", ["class_name", "name", "key", "activation", "module"])
def test_words_of_a_million_letters(where: str) -> None:
    word = "x\u202e" * 500_000
    entry: dict[str, Any] = layer("GRU", "gru", None, units=3)
    if where in ("class_name", "module"):
        entry[where] = word
    elif where == "key":
        entry["config"][word] = 1
    else:
        entry["config"][where] = word
    refused(keras({"class_name": "Sequential", "config": {"name": "net", "layers": [entry]}}), "")


# ---- heaps, texts and groups -------------------------------------------------------------------------------


def test_1000_heaps_in_150_megabytes_of_zeros() -> None:
    """Marks of heaps that refer to one another, in a file that a zip makes small."""

    def fill(file: Any) -> None:
        file.create_dataset("layers/x/vars/0", data=np.zeros(150 * MEGABYTE // 4, np.float32))

    raw = bytearray(hdf5(fill))
    noise = np.random.default_rng(0).integers(0, 256, 2 * MEGABYTE, dtype=np.uint8).tobytes()
    raw[8192 : 8192 + len(noise)] = noise
    for number in range(1000):
        at = 4 * MEGABYTE + 140_000 * number
        raw[at : at + 16] = b"GCOL\1\0\0\0" + struct.pack("<Q", 4096)
        raw[at + 64 : at + 72] = struct.pack("<Q", at)
    content = keras({"class_name": "Sequential", "config": {"layers": []}}, bytes(raw))
    assert len(content) < 3 * MEGABYTE
    refused(content, "model.weights.h5.*declares")


@pytest.mark.parametrize("name", ["gru_after.h5", "cudnn_gru.h5"])
@pytest.mark.parametrize("number", [None, 200])
def test_text_that_claims_four_gigabytes(name: str, number: int | None) -> None:
    """A reference is a length, the address of a heap and the number of an object there, or of none."""
    raw = (FOLDER / name).read_bytes()
    config = raw.index(b'{"')
    heap = raw.rindex(b"GCOL", 0, config)
    places = (found.start() for found in re.finditer(re.escape(struct.pack("<Q", heap)), raw))
    at = next(at for at in places if 0 < struct.unpack_from("<I", raw, at - 4)[0] < len(raw) and 0 < raw[at + 8] < 50)
    hostile = bytearray(raw[: at - 4] + b"\xff\xff\xff\xff" + raw[at:])
    hostile[at + 8] = hostile[at + 8] if number is None else number
    refused(bytes(hostile), "declares a text of 4294967295")


def test_fixed_text_that_claims_four_gigabytes() -> None:
    def fill(file: Any) -> None:
        file.attrs["keras_version"] = np.bytes_("0123456789")

    raw = hdf5(fill)
    declared = struct.pack("<BBBBI", 0x13, 1, 0, 0, 10)
    assert raw.count(declared) == 1
    refused(raw.replace(declared, declared[:4] + b"\xff\xff\xff\xff"), "ends early")


def test_many_links_to_one_array() -> None:
    def fill(file: Any) -> None:
        file["layers/a"] = np.zeros(MEGABYTE, np.float32)
        for number in range(3000):
            file[f"layers/{number}"] = file["layers/a"]

    content = hdf5(fill, "latest")
    assert bill(content, cgru.read).ended == "returned"


def test_layers_that_share_one_array() -> None:
    """300 layers whose kernels are links to one array of a megabyte: three hundred copies of it, were they loaded."""

    def fill(file: Any) -> None:
        file["layers/dense/vars/0"] = np.zeros((512, 512), np.float32)
        for number in range(1, 300):
            file[f"layers/dense_{number}/vars/0"] = file["layers/dense/vars/0"]

    layers = [layer("Dense", f"d{n}", units=512, use_bias=False) for n in range(300)]
    config = {"class_name": "Sequential", "config": {"name": "net", "layers": layers}}
    refused(keras(config, hdf5(fill)), "that of another layer")


def test_arrays_that_lie_in_one_place() -> None:
    """Layout messages moved so that many arrays are the same bytes."""

    def fill(file: Any) -> None:
        for number in range(200):
            file[f"a{number}"] = np.full(4096, number, np.float32)

    raw = bytearray(hdf5(fill))
    size = struct.pack("<Q", 16384)
    layouts = [found.start() for found in re.finditer(re.escape(size), bytes(raw)) if raw[found.start() - 10] == 3]
    assert len(layouts) == 200
    for at in layouts:
        raw[at - 8 : at] = raw[layouts[0] - 8 : layouts[0]]
    shorter = bytes(raw[: len(raw) // 2])
    shorter = shorter.replace(struct.pack("<Q", len(raw)), struct.pack("<Q", len(shorter)))
    refused(bytes(raw[:40]) + shorter[40:], "lies where other arrays lie|damaged", cgru.read)


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_many_objects(libver: str) -> None:
    def fill(file: Any) -> None:
        for number in range(2500):
            file.create_group(f"{number}")
        for number in range(700):
            file.attrs[f"weight_names{number}"] = np.bytes_("x")

    assert bill(hdf5(fill, libver), cgru.read).ended == "returned"


def test_groups_of_long_names() -> None:
    """Paths that grow with every level would take the square of the file."""

    def fill(file: Any) -> None:
        group = file
        for _ in range(25):
            group = group.create_group("n" * 900)
        for number in range(500):
            group.create_group(f"{number}")

    refused(hdf5(fill), "path of more than", cgru.read)


def test_node_of_a_tree_that_is_its_own_child() -> None:
    def fill(file: Any) -> None:
        for number in range(500):
            file.create_group(f"{number}")

    raw = bytearray(hdf5(fill))
    nodes = [found.start() for found in re.finditer(b"TREE\0", bytes(raw))]
    top = next(at for at in nodes if raw[at + 5] == 1)
    raw[top + 32 : top + 40] = struct.pack("<Q", top)
    refused(bytes(raw), "level", cgru.read)


def test_header_that_continues_in_itself() -> None:
    def fill(file: Any) -> None:
        for number in range(50):
            file.attrs[f"name{number}"] = "x"

    raw = bytearray(hdf5(fill))
    head = struct.unpack_from("<Q", raw, 64)[0]
    message = next(at for at in range(head + 16, head + 200, 8) if raw[at : at + 2] == b"\x10\0")
    at, size = struct.unpack_from("<QQ", raw, message + 8)
    raw[at : at + 24] = b"\x10\0\x10\0\0\0\0\0" + struct.pack("<QQ", at, size)
    refused(bytes(raw), "refer to one another", cgru.read)


def test_bomb_in_a_bomb() -> None:
    """Zeros packed by HDF5, and those once more by the zip."""

    def fill(file: Any) -> None:
        zeros = np.zeros((16, MEGABYTE // 4), np.float32)
        for number in range(8):
            file.create_dataset(f"optimizer/{number}", data=zeros, chunks=(4, MEGABYTE // 4), compression="gzip")

    content = keras({"class_name": "Sequential", "config": {"layers": []}}, hdf5(fill))
    assert len(content) < MEGABYTE
    refused(content, "out of proportion")


def test_chunks_of_one_number() -> None:
    def fill(file: Any) -> None:
        file.create_dataset("a", data=np.zeros(8000, np.float32), chunks=(1,))

    assert bill(hdf5(fill, "latest"), cgru.read).ended == "returned"


def test_shape_without_numbers_that_units_make_large() -> None:
    """A kernel of no rows and 2 ** 40 columns takes no bytes; a bias of zeros for it would take terabytes."""

    def fill(file: Any) -> None:
        file["layers/dense/vars/0"] = np.zeros((0, 2**40), np.float32)

    entry = layer("Dense", "dense", units=2**40, use_bias=False)
    refused(keras({"class_name": "Sequential", "config": {"name": "n", "layers": [entry]}}, hdf5(fill)), "dense")
