"""The safetensors module against the safetensors library, in both directions."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cgru.errors import CgruError, FormatError, ShapeError, UnsupportedError
from cgru.formats.containers import safetensors as ours

FOLDER = Path(__file__).parent / "fixtures" / "containers"


@pytest.fixture
def library():
    return pytest.importorskip("safetensors.numpy", reason="the safetensors library, the oracle, is not installed")


def packed(header: object, data: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def entry(dtype: str = "F32", shape: list[Any] | None = None, begin: int = 0, end: int = 8) -> dict[str, object]:
    return {"dtype": dtype, "shape": [2] if shape is None else shape, "data_offsets": [begin, end]}


def test_holds_what_the_library_wrote():
    with np.load(FOLDER / "golden.npz") as values:
        expected = {n.split(":")[1]: values[n] for n in values if n.startswith("library.safetensors:")}
    found = ours.read(FOLDER / "library.safetensors")
    assert found.kind == "safetensors"
    assert found.metadata == {"made by": "the library"}
    assert found.tensors.keys() == expected.keys()
    for name, values in expected.items():
        assert found.tensors[name].dtype == values.dtype, name
        np.testing.assert_array_equal(found.tensors[name], values, err_msg=name)
        assert not found.tensors[name].flags.writeable
        assert found.tensors[name].flags.aligned


def test_bfloat16_can_stay_as_it_is_stored():
    wide = ours.read(FOLDER / "library.safetensors").tensors["f_bfloat16"]
    bits = ours.read(FOLDER / "library.safetensors", widen=False).tensors["f_bfloat16"]
    assert bits.dtype == np.uint16
    np.testing.assert_array_equal(bits.astype(np.uint32) << 16, wide.view(np.uint32))
    kinds = ours.dtypes(FOLDER / "library.safetensors")
    assert (kinds["f_bfloat16"], kinds["i_uint16"], kinds["f_float32"]) == ("BF16", "U16", "F32")


ARRAYS = st.sampled_from(["?", "f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">f4"]).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9))
)
TENSORS = st.dictionaries(st.text(max_size=12).filter(lambda t: t != "__metadata__"), ARRAYS, max_size=6)
NOTES = st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3)


@settings(max_examples=80, deadline=None)
@given(tensors=TENSORS, notes=NOTES)
def test_the_library_reads_what_we_write_and_so_do_we(tmp_path_factory, tensors, notes):
    library = pytest.importorskip("safetensors", reason="the safetensors library, the oracle, is not installed")
    path = tmp_path_factory.mktemp("st") / "x.safetensors"
    ours.write(path, tensors, notes)
    found = ours.read(path)
    assert list(found.tensors) == list(tensors)
    assert found.metadata == notes
    with library.safe_open(path, "np") as other:
        assert (other.metadata() or {}) == notes
        assert set(other.keys()) == set(tensors)
        for name, values in tensors.items():
            for read_back in (found.tensors[name], other.get_tensor(name)):
                assert read_back.dtype == values.dtype.newbyteorder("=")
                np.testing.assert_array_equal(read_back, values)


@settings(max_examples=60, deadline=None)
@given(tensors=TENSORS)
def test_we_read_what_the_library_writes(tensors):
    library = pytest.importorskip("safetensors.numpy", reason="the safetensors library is not installed")
    tensors = {name: np.ascontiguousarray(a, a.dtype.newbyteorder("=")).reshape(a.shape) for name, a in tensors.items()}
    found = ours.read(library.save(tensors)).tensors
    assert found.keys() == tensors.keys()
    for name, values in tensors.items():
        np.testing.assert_array_equal(found[name], values)


@settings(max_examples=60, deadline=None)
@given(tensors=TENSORS)
def test_data_is_aligned_as_far_as_sizes_allow(tmp_path_factory, tensors):
    path = tmp_path_factory.mktemp("st") / "x.safetensors"
    ours.write(path, tensors)
    raw = path.read_bytes()
    (length,) = struct.unpack_from("<Q", raw)
    assert (8 + length) % 64 == 0
    for name, item in json.loads(raw[8 : 8 + length]).items():
        size = tensors[name].nbytes
        at = 8 + length + item["data_offsets"][0]
        assert at % (size & -size if 0 < size & -size < 64 else 64) == 0
        assert at % tensors[name].itemsize == 0


def test_a_header_of_odd_length_still_gives_aligned_arrays():
    for pad in range(8):
        raw = json.dumps({"w": entry()}).encode() + b" " * pad
        values = ours.read(packed(raw, np.array([1, 2], "<f4").tobytes())).tensors["w"]
        assert values.flags.aligned
        np.testing.assert_array_equal(values, [1, 2])


def test_equal_input_gives_equal_bytes_whatever_the_layout(tmp_path):
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    ours.write(tmp_path / "a", {"w": values, "b": values[0]}, {"k": "v"})
    ours.write(tmp_path / "b", {"w": np.asfortranarray(values), "b": values.astype(">f4")[0]}, {"k": "v"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_bfloat16_bit_patterns_are_written_as_such(tmp_path):
    bits = np.array([0x3F80, 0xC000, 0x7F80], np.uint16)
    ours.write(tmp_path / "x", {"w": bits, "u": bits}, {}, dtypes={"w": "BF16"})
    np.testing.assert_array_equal(ours.read(tmp_path / "x").tensors["w"], np.array([1, -2, np.inf], np.float32))
    np.testing.assert_array_equal(ours.read(tmp_path / "x").tensors["u"], bits)
    np.testing.assert_array_equal(ours.read(tmp_path / "x", widen=False).tensors["w"], bits)


@pytest.mark.parametrize(
    ("tensors", "notes", "kinds", "error"),
    [
        ({"w": np.array([None])}, {}, {}, ShapeError),
        ({"w": np.array(["x"])}, {}, {}, ShapeError),
        ({"w": np.array([1j])}, {}, {}, ShapeError),
        ({"w": [1.0]}, {}, {}, ShapeError),
        ({"__metadata__": np.zeros(2)}, {}, {}, CgruError),
        ({3: np.zeros(2)}, {}, {}, CgruError),
        ({"\ud800": np.zeros(2)}, {}, {}, CgruError),
        ({"w": np.zeros(2)}, {"k": 3}, {}, CgruError),
        ({"w": np.zeros(2, np.float32)}, {}, {"w": "BF16"}, ShapeError),
        ({"w": np.zeros(2, np.uint16)}, {}, {"v": "BF16"}, CgruError),
    ],
)
def test_what_cannot_be_written_leaves_everything_as_it_was(tmp_path, tensors, notes, kinds, error):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"what was there")
    with pytest.raises(error, match=r"x\.safetensors"):
        ours.write(path, tensors, notes, dtypes=kinds)
    assert path.read_bytes() == b"what was there"
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_a_write_that_fails_midway_loses_nothing_and_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    ours.write(path, {"w": np.ones(4, np.float32)})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        ours.write(path, {"w": np.zeros(400, np.float32)})
    np.testing.assert_array_equal(ours.read(path).tensors["w"], np.ones(4))
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_a_file_that_is_replaced_keeps_its_old_values(tmp_path):
    path = tmp_path / "x.safetensors"
    ours.write(path, {"w": np.ones(4, np.float32)})
    before = ours.read(path).tensors["w"]
    ours.write(path, {"w": np.zeros(4, np.float32)})
    np.testing.assert_array_equal(before, np.ones(4))
    np.testing.assert_array_equal(ours.read(path).tensors["w"], np.zeros(4))


TWO = bytes(8)
BAD_FILES = {
    "empty file": (b"", "0 bytes"),
    "header longer than the file": (struct.pack("<Q", 100) + b"{}", "truncated"),
    "header of 2^63 bytes": (struct.pack("<Q", 2**63) + b"{}", "declares a header"),
    "header not an object": (packed(b"[]"), "begins with"),
    "header with leading space": (packed(b" {}"), "begins with"),
    "header not JSON": (packed(b"{'w'}"), "not valid JSON"),
    "header not UTF-8": (packed(b'{"\xff":1}'), "not valid JSON"),
    "two JSON values": (packed(b"{} {}"), "not valid JSON"),
    "duplicate tensor": (
        packed(b'{"w":%s,"w":%s}' % ((json.dumps(entry()).encode(),) * 2), TWO),
        "'w' twice",
    ),
    "duplicate field": (
        packed(b'{"w":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', TWO),
        "'dtype' twice",
    ),
    "overlapping tensors": (packed({"a": entry(), "b": entry(begin=4, end=12)}, bytes(12)), "overlaps"),
    "a gap": (packed({"a": entry(), "b": entry(begin=12, end=20)}, bytes(20)), "gap"),
    "a gap at the start": (packed({"a": entry(begin=4, end=12)}, bytes(12)), "gap"),
    "trailing bytes": (packed({"a": entry()}, bytes(9)), "appended"),
    "missing bytes": (packed({"a": entry()}, bytes(7)), "truncated"),
    "size against shape": (packed({"a": entry(shape=[3])}, TWO), "do not agree"),
    "size against dtype": (packed({"a": entry("F64")}, TWO), "do not agree"),
    "offsets reversed": (packed({"a": entry(begin=8, end=0)}, TWO), "do not agree"),
    "negative size": (packed({"a": entry(shape=[-2])}, TWO), "malformed"),
    "huge shape": (packed({"a": entry(shape=[2**40, 2**40])}, TWO), "impossible"),
    "huge empty shape": (packed({"a": entry(shape=[0, 2**61, 2**61], end=0)}), "impossible"),
    "float size": (packed({"a": entry(shape=[2.0])}, TWO), "number"),
    "boolean size": (
        packed(b'{"a":{"dtype":"F32","shape":[true],"data_offsets":[0,4]}}', bytes(4)),
        "malformed",
    ),
    "endless number": (packed(b'{"a":{"dtype":"F32","shape":[%s]}}' % (b"9" * 5000)), "number"),
    "NaN": (packed(b'{"a":NaN}'), "number"),
    "unknown field": (packed({"a": entry() | {"more": 1}}, TWO), "exactly"),
    "missing field": (packed({"a": {"dtype": "F32"}}), "exactly"),
    "entry not an object": (packed({"a": 3}), "exactly"),
    "metadata not strings": (packed({"__metadata__": {"k": 1}}), "strings"),
    "metadata not an object": (packed({"__metadata__": "k"}), "strings"),
    "nested metadata": (packed({"__metadata__": {"k": {"k": "v"}}}), "strings"),
    "deep nesting": (packed(b'{"a":' + b"[" * 200_000), "nests too deep"),
    "lone surrogate": (packed(b'{"__metadata__":{"k":"\\ud800"}}'), "surrogate"),
    "boolean of 2": (packed({"a": entry("BOOL", [1], 0, 1)}, b"\x02"), "BOOL"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_malformed_file_is_refused(case, tmp_path):
    content, says = BAD_FILES[case]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=says) as refused:
        ours.read(path)
    assert "bad.safetensors" in str(refused.value)


# The library takes these; the format's text rules out the second, the rest are never written by anyone.
STRICTER_THAN_THE_LIBRARY = {
    "boolean of 2",
    "duplicate tensor",
    "header with leading space",
    "unknown field",
}


@pytest.mark.parametrize("case", [case for case in BAD_FILES if case not in STRICTER_THAN_THE_LIBRARY])
def test_the_library_refuses_it_too(case, library):
    from safetensors import SafetensorError

    with pytest.raises((SafetensorError, ValueError)):
        library.load(BAD_FILES[case][0])


def test_dtypes_without_a_counterpart_are_named():
    with pytest.raises(UnsupportedError, match="'a' has dtype 'F8_E4M3'"):
        ours.read(packed({"a": entry("F8_E4M3", [8])}, TWO))


def test_looks_like():
    assert ours.looks_like((FOLDER / "library.safetensors").read_bytes()[:64])
    assert not ours.looks_like((FOLDER / "state_dict.pt").read_bytes()[:64])
    assert not ours.looks_like(b"{")
