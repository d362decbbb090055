"""Keras' files that are damaged, hostile or not what they say: each refused by name, in bounded time and memory."""

from __future__ import annotations

import io
import re
import struct
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras_crafted import FOLDER, config_of, edited, golden, keras_zip, layer_of, refused, replace, weights_edited

from cgru import CgruError, FormatError, Model, UnsupportedError
from cgru.formats.containers import hdf5
from cgru.formats.readers import keras_files

h5py = pytest.importorskip("h5py", reason="h5py is not installed: Keras' weights are HDF5")


@pytest.mark.parametrize("name", ["gru_after.keras", "gru_after.h5", "fitted.keras", "keras2_hard_sigmoid.h5"])
def test_truncated(name: str) -> None:
    data = (FOLDER / name).read_bytes()
    for size in sorted({0, 1, 4, 8, 9, 100, *range(0, len(data), 997), len(data) - 1}):
        with pytest.raises(FormatError):
            keras_files.load(data[:size])


@pytest.mark.parametrize(
    "config", [b"", b"{", b"nonsense", b"\xff\xfe", b"[" * 200_000, b'{"a":' * 200_000, b"NaN", b"1" * 5000]
)
def test_config_that_is_not_json(config: bytes) -> None:
    refused(keras_zip(config), FormatError, "config")


@pytest.mark.parametrize(
    "config", [[], 1, "Sequential", {"class_name": "Sequential"}, {"class_name": "Sequential", "config": {"layers": 3}}]
)
def test_config_of_the_wrong_kind(config: Any) -> None:
    refused(keras_zip(config), FormatError, "config|layers")


def test_config_nested_too_deep() -> None:
    config = config_of()
    for _ in range(200):
        config = {"class_name": "Sequential", "config": {"name": "s", "layers": [config]}}
    refused(keras_zip(config), FormatError, "deep")


@pytest.mark.parametrize(
    "nodes",
    [[[["i", 0, 0, 5]]], [[["i", 0, 0, {}, {}]]], [[["i", 0]]], [[5]], [5], 5, [[["i", 0, 0, []]]], [[[[], 0, 0]]]],
)
def test_calls_that_are_malformed(nodes: Any) -> None:
    layers = config_of("functional_masked.keras")
    layer_of(layers, "GRU")["inbound_nodes"] = nodes
    refused(keras_zip(layers, base="functional_masked.keras"), FormatError, "inbound_nodes|expected")


@pytest.mark.parametrize("missing", ["config.json", "metadata.json", "model.weights.h5"])
def test_missing_member(missing: str) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(FOLDER / "gru_after.keras") as old, zipfile.ZipFile(stream, "w") as new:
        for name in old.namelist():
            if name != missing:
                new.writestr(name, old.read(name))
    refused(stream.getvalue(), FormatError, missing.replace(".", r"\."))


def test_other_members_are_refused_by_name() -> None:
    refused(keras_zip(assets__words=b"x"), UnsupportedError, "assets/words")


def test_pickled_npz_is_refused() -> None:
    """Keras' npz store pickles a dict of arrays for every layer; pickles are never opened."""
    held = io.BytesIO()
    np.savez(held, allow_pickle=True, **{"layers/gru/cell": np.array({"0": np.zeros(3)}, dtype=object)})
    stream = io.BytesIO()
    with zipfile.ZipFile(FOLDER / "gru_after.keras") as old, zipfile.ZipFile(stream, "w") as new:
        for name in ("metadata.json", "config.json"):
            new.writestr(name, old.read(name))
        new.writestr("model.weights.npz", held.getvalue())
    refused(stream.getvalue(), FormatError, "pickle")


def test_wrong_shapes(tmp_path: Path) -> None:
    kernel = "layers/gru/cell/vars/0"
    for shape in ((3, 14), (15, 3), (45,), (0, 15), (3, 15, 1)):
        data = weights_edited(partial(replace, path=kernel, data=np.zeros(shape, "f4")), tmp_path)
        refused(data, CgruError, "gru")


def test_missing_and_unused_arrays(tmp_path: Path) -> None:
    def drop(file: Any) -> None:
        del file["layers/gru/cell/vars/1"]

    refused(weights_edited(drop, tmp_path), FormatError, r"layers/gru/cell/vars/1.*missing")

    def add(file: Any) -> None:
        file["layers/gru/cell/vars/3"] = np.zeros(3, "f4")

    refused(weights_edited(add, tmp_path), FormatError, r"uses the array.*vars/3")

    group = config_of("gru_after.h5")["config"]["layers"][-1]["config"]["name"]
    data = edited(
        "gru_after.h5", lambda file: file.create_dataset(f"model_weights/{group}/extra", data=np.zeros(3)), tmp_path
    )
    refused(data, FormatError, "extra")


def test_what_lies_beside_a_legacy_model_is_ignored(tmp_path: Path) -> None:
    """As medaka's files hold it: groups, texts, records, links and attributes that are no part of the model."""

    def add(file: Any) -> None:
        file.create_dataset("meta/decoder", data=np.void(b"pickled, perhaps"))
        file["meta/labels"] = np.array(["A", "C"], dtype=h5py.string_dtype())
        file["meta/records"] = np.zeros(3, np.dtype([("a", "f4"), ("b", "i8")]))
        file["meta/numbers"] = np.arange(5)
        file["meta/away"] = h5py.ExternalLink("nowhere.h5", "/a")
        file["meta/packed"] = file.create_dataset("packed", data=np.zeros(100), compression="lzf")
        file.attrs["training"] = np.zeros((2, 2), np.dtype([("a", "f4")]))
        file.attrs["name"] = np.array([["a", "b"]], dtype=h5py.string_dtype())
        file["model_weights"].attrs["epoch"] = 7

    x, (expected,) = golden("gru_after.h5")
    data = edited("gru_after.h5", add, tmp_path)
    assert np.abs(Model(keras_files.load(data))(x) - expected).max() <= 2e-6
    with pytest.raises(UnsupportedError, match=r"meta/away.*external link"):
        keras_files.read(data)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (np.array(["a", "b"], dtype=object), "dtype text"),
        (h5py.SoftLink("/model_weights"), "soft link"),
        (np.zeros(2, np.dtype([("a", "f4")])), "dtype compound"),
    ],
)
def test_what_is_named_as_weights_must_be_numbers(value: Any, says: str, tmp_path: Path) -> None:
    def spoil(file: Any) -> None:
        group = next(group for group in file["model_weights"].values() if len(group.attrs["weight_names"]))
        path = group.attrs["weight_names"][0]
        del group[path]
        group[path] = value

    refused(edited("gru_after.h5", spoil, tmp_path), UnsupportedError, says)


def test_names_that_belong_to_another_model(tmp_path: Path) -> None:
    def rename(file: Any) -> None:
        file["layers/dense/vars"].attrs["name"] = "someone_else"

    refused(weights_edited(rename, tmp_path), FormatError, "someone_else")


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    data = weights_edited(lambda file: replace(file, "layers/dense/vars/0", data=np.zeros((5, 2), "i1")), tmp_path)
    refused(data, UnsupportedError, "int8")


def test_links_are_never_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["kernel"] = np.ones((3, 15), "f4")
    kernel = "layers/gru/cell/vars/0"
    for link in (
        h5py.ExternalLink(str(secret), "/kernel"),
        h5py.SoftLink("/layers/gru/cell/vars/1"),
        h5py.SoftLink("/nowhere"),
    ):

        def relink(file: Any, link: Any = link) -> None:
            del file[kernel]
            file[kernel] = link

        refused(weights_edited(relink, tmp_path), UnsupportedError, "link, which is never followed")


def test_arrays_in_other_files_are_refused(tmp_path: Path) -> None:
    raw = tmp_path / "raw.bin"
    raw.write_bytes(np.ones(45, "f4").tobytes())
    kernel = "layers/gru/cell/vars/0"
    external = weights_edited(
        lambda file: replace(file, kernel, shape=(3, 15), dtype="f4", external=[(str(raw), 0, 180)]), tmp_path
    )
    refused(external, UnsupportedError, "another file")

    def virtual(file: Any) -> None:
        layout = h5py.VirtualLayout((3, 15), "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "kernel", (3, 15))
        del file[kernel]
        file.create_virtual_dataset(kernel, layout)

    refused(weights_edited(virtual, tmp_path), UnsupportedError, "another file")


def test_groups_that_contain_themselves(tmp_path: Path) -> None:
    def loop(file: Any) -> None:
        file["layers/gru/again"] = file["layers"]

    refused(weights_edited(loop, tmp_path), FormatError, "linked twice")


def test_groups_nested_too_deep(tmp_path: Path) -> None:
    refused(weights_edited(lambda file: file.create_group("/".join("d" * 60)), tmp_path), FormatError, "deep")


def test_compression_bomb(tmp_path: Path) -> None:
    def bomb(file: Any) -> None:
        zeros = np.zeros(1 << 23, "f4")
        file.create_dataset("optimizer/vars/0", data=zeros, chunks=(1 << 20,), compression="gzip")

    refused(weights_edited(bomb, tmp_path), FormatError, "out of proportion")


def test_sizes_declared_but_not_stored(tmp_path: Path) -> None:
    kernel = "layers/gru/cell/vars/0"
    for shape, chunks in (
        ((1 << 40,), None),
        ((1 << 20, 1 << 20), None),
        ((1 << 30,), (1 << 20,)),
        ((1 << 28,), (1 << 28,)),
    ):
        data = weights_edited(partial(replace, path=kernel, shape=shape, dtype="f4", chunks=chunks), tmp_path)
        refused(data, FormatError, "stores|impossible")


def test_plug_in_filters_are_refused(tmp_path: Path) -> None:
    data = weights_edited(
        lambda file: replace(file, "layers/gru/cell/vars/0", data=np.zeros((3, 15), "f4"), compression="lzf"), tmp_path
    )
    refused(data, UnsupportedError, "filter")


def test_plain_compression_is_read(tmp_path: Path) -> None:
    def pack(file: Any) -> None:
        kernel = file["layers/gru/cell/vars/0"][()]
        replace(file, "layers/gru/cell/vars/0", data=kernel, compression="gzip", shuffle=True, fletcher32=True)

    x, (expected,) = golden("gru_after.keras")
    assert np.abs(Model(keras_files.load(weights_edited(pack, tmp_path)))(x) - expected).max() <= 2e-6


@pytest.mark.parametrize("dtype", [object, "c8", np.dtype([("a", "f4")]), "S4"])
def test_arrays_that_are_no_numbers(dtype: Any, tmp_path: Path) -> None:
    options = {"dtype": h5py.string_dtype() if dtype is object else dtype}
    data = weights_edited(lambda file: file.create_dataset("x", shape=(2,), **options), tmp_path)
    refused(data, UnsupportedError, "dtype")


def test_legacy_attributes_that_are_wrong(tmp_path: Path) -> None:
    def spoil(name: str, value: Any, at: str = "/") -> bytes:
        def edit(file: Any) -> None:
            if value is None:
                del file[at].attrs[name]
            else:
                file[at].attrs[name] = value

        return edited("gru_after.h5", edit, tmp_path)

    refused(spoil("model_config", "{"), FormatError, "JSON")
    refused(spoil("model_config", "[" * 300 + "]" * 300), FormatError, "deep")
    refused(spoil("model_config", None), UnsupportedError, "configuration")
    refused(spoil("model_config", b"\xff\xfe\xfa"), FormatError, "UTF-8")
    refused(spoil("layer_names", None, "model_weights"), FormatError, "layer_names")
    refused(spoil("layer_names", np.array([b"nobody"]), "model_weights"), FormatError, "nobody")
    layer = config_of("gru_after.h5")["config"]["layers"][1]["config"]["name"]
    names = keras_files.hdf5.read(memoryview((FOLDER / "gru_after.h5").read_bytes()), "x").listed(
        f"model_weights/{layer}", "weight_names"
    )
    assert names is not None
    swapped = np.array([name.encode() for name in (names[1], names[0], names[2])])
    refused(spoil("weight_names", swapped, f"model_weights/{layer}"), FormatError, "expected")
    twice = np.array([name.encode() for name in (names[0], names[0], names[2])])
    refused(spoil("weight_names", twice, f"model_weights/{layer}"), FormatError, "twice")


def test_many_references_to_one_long_text(tmp_path: Path) -> None:
    """A list of texts that would unpack to gigabytes: every item refers to the same megabyte."""
    path = tmp_path / "texts.h5"
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = "x" * (1 << 20)
        file.attrs["layer_names"] = np.array(["a"] * 4000, dtype=h5py.string_dtype())
    raw = path.read_bytes()
    assert hdf5.read(memoryview(raw), "texts.h5").listed("", "layer_names") == ["a"] * 4000
    starts = [found.start() for found in re.finditer(b"GCOL", raw)]
    long = raw.rindex(b"GCOL", 0, raw.index(b"x" * (1 << 20)))
    at = raw.index(struct.pack("<IQ", 1 << 20, long))
    short = b"|".join(re.escape(struct.pack("<IQ", 1, heap)) for heap in starts)
    hostile, count = re.subn(b"(?:" + short + b")....", lambda _: raw[at : at + 16], raw, flags=re.DOTALL)
    assert count == 4000
    with pytest.raises(FormatError, match="refer to one another"):
        hdf5.read(memoryview(hostile), "texts.h5")


def heap_edited(offset: int, data: bytes) -> bytes:
    """A legacy file with bytes changed at ``offset`` from its first heap of texts."""
    raw = bytearray((FOLDER / "cudnn_gru.h5").read_bytes())
    at = raw.index(b"GCOL\x01") + offset
    assert raw[at : at + len(data)] != data
    raw[at : at + len(data)] = data
    return bytes(raw)


def test_damaged_heaps_of_text() -> None:
    """The size, number and end of an entry, and the size and version of the heap itself."""
    first = int.from_bytes((FOLDER / "cudnn_gru.h5").read_bytes()[2048 + 24 : 2048 + 32], "little")
    second = 16 + 16 + (first + 7 & ~7)
    for offset, data in (
        (second, bytes(16)),
        (24, b"\x7f"),
        (24, b"\xff" * 8),
        (8, b"\xff\xff\xff"),
        (5, b"\xff\xff\xff\x11"),
    ):
        refused(heap_edited(offset, data), FormatError, "heap")


def test_a_text_that_declares_gigabytes() -> None:
    raw = bytearray((FOLDER / "cudnn_gru.h5").read_bytes())
    heap = raw.index(b"GCOL\x01")
    reference = raw.index(heap.to_bytes(8, "little") + b"\x03\0\0\0") - 4
    raw[reference + 3] = 0x80
    refused(bytes(raw), FormatError, "declares a text")


def test_weights_that_look_like_a_heap_are_weights(tmp_path: Path) -> None:
    lookalike = np.frombuffer(b"ABCD" + b"GCOL\x01\xff\xff\xff" * 22, "f4").reshape(3, 15)
    data = weights_edited(partial(replace, path="layers/gru/cell/vars/0", data=lookalike), tmp_path)
    assert np.array_equal(keras_files.read(data).tensors["layers/gru/cell/vars/0"], lookalike, equal_nan=True)


@pytest.mark.parametrize("libver", ["earliest", "v108", "latest"])
def test_every_version_of_hdf5(libver: str, tmp_path: Path) -> None:
    path = tmp_path / "copy.h5"
    with h5py.File(FOLDER / "gru_after.h5") as old, h5py.File(path, "w", libver=libver) as new:
        new.attrs.update(old.attrs)
        old.copy("model_weights", new)
    x, (expected,) = golden("gru_after.h5")
    assert np.abs(Model(keras_files.load(path), backend="reference")(x) - expected).max() <= 2e-6


def test_flipped_bits_never_escape_as_other_errors() -> None:
    """Whatever a flipped bit does, the answer is layers or a CgruError."""
    data = (FOLDER / "cudnn_gru.h5").read_bytes()
    rng = np.random.default_rng(3)
    outcomes = set()
    for position in rng.integers(0, len(data), 300):
        damaged = bytearray(data)
        damaged[position] ^= 1 << int(rng.integers(8))
        try:
            keras_files.load(bytes(damaged))
            outcomes.add("layers")
        except CgruError as error:
            outcomes.add(type(error).__name__)
    assert {"layers", "FormatError"} <= outcomes


def test_a_flipped_bit_in_a_zip_is_always_found() -> None:
    data = bytearray((FOLDER / "gru_after.keras").read_bytes())
    at = bytes(data).index(b"\x89HDF") + 4000
    data[at] ^= 4
    refused(bytes(data), FormatError, "CRC")
