"""The npz reader against numpy's own."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cgru.errors import FormatError, UnsupportedError
from cgru.formats.containers import npz

FOLDER = Path(__file__).parent / "fixtures" / "containers"


def saved(*, compressed: bool = False, **arrays: Any) -> bytes:
    out = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(out, **arrays)
    return out.getvalue()


@pytest.mark.parametrize("file", ["stored.npz", "deflated.npz", "golden.npz"])
def test_holds_what_numpy_says(file):
    found = npz.read(FOLDER / file)
    assert found.kind == "npz"
    with np.load(FOLDER / file, allow_pickle=False) as expected:
        assert list(found.tensors) == expected.files
        for name in expected.files:
            np.testing.assert_array_equal(found.tensors[name], expected[name], err_msg=name)
            assert found.tensors[name].dtype == expected[name].dtype.newbyteorder("=")
            assert found.tensors[name].flags.c_contiguous
            assert not found.tensors[name].flags.writeable


DTYPES = ["?", "<f4", ">f4", "<f8", "<f2", "<i8", ">i4", "<u2", "|i1", "|u1"]


@settings(max_examples=80, deadline=None)
@given(
    array=st.sampled_from(DTYPES).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    ),
    fortran=st.booleans(),
    compressed=st.booleans(),
)
def test_any_array_survives(array, fortran, compressed):
    array = np.asfortranarray(array) if fortran else array
    found = npz.read(saved(compressed=compressed, **{"a/b": array})).tensors["a/b"]
    np.testing.assert_array_equal(found, array)
    assert found.shape == array.shape


def test_every_header_version_is_read():
    for version in ((1, 0), (2, 0), (3, 0)):
        out = io.BytesIO()
        np.lib.format.write_array(out, np.arange(6.0).reshape(2, 3), version)
        np.testing.assert_array_equal(
            npz.read(zipped({"a.npy": out.getvalue()})).tensors["a"], np.arange(6.0).reshape(2, 3)
        )


def zipped(members: dict[str, bytes]) -> bytes:
    import zipfile

    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def member(header: str, data: bytes = bytes(8)) -> bytes:
    raw = header.encode() + b"\n"
    return zipped({"a.npy": b"\x93NUMPY\x01\x00" + len(raw).to_bytes(2, "little") + raw + data})


def test_headers_as_other_writers_put_them():
    """Python 2's long integers, other key order, double quotes, no final comma."""
    for header in (
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1L,), }",
        "{'shape': (1,), 'fortran_order': False, 'descr': '<f8'}",
        '{"descr": "<f8", "fortran_order": False, "shape": (1,)}',
    ):
        assert npz.read(member(header)).tensors["a"].shape == (1,)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "{}",
        "{'descr': '<f8', 'fortran_order': False}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1,), 'descr': '<f8'}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1,), 'more': (1,)}",
        "{'descr': '<f8', 'fortran_order': 0, 'shape': (1,)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1,)} or 1",
        "{'descr': __import__('os'), 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1,)",
    ],
)
def test_malformed_headers_are_refused(header):
    with pytest.raises(FormatError, match=r"'a.npy' has a malformed header"):
        npz.read(member(header))


@pytest.mark.parametrize(
    "array", [np.array(["word"]), np.array([1j]), np.zeros(2, [("x", "f4")]), np.ones(1, np.longdouble)]
)
def test_arrays_of_no_real_numbers_are_named(array):
    with pytest.raises(UnsupportedError, match=r"'words\.npy'"):
        npz.read(saved(words=array))


def test_looks_like():
    assert npz.looks_like((FOLDER / "stored.npz").read_bytes()[:64])
    assert not npz.looks_like((FOLDER / "library.safetensors").read_bytes()[:64])
    assert npz.read(saved()).tensors == {}
