"""The HDF5 reader against h5py and pyfive, over committed files and every form that h5py writes."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgru import FormatError, UnsupportedError
from cgru.formats.containers import hdf5
from cgru.formats.containers.hdf5.source import checksum

FIXTURES = Path(__file__).parent / "fixtures"
FILES = sorted(path for path in FIXTURES.glob("*/*") if path.suffix in (".h5", ".keras"))
OWN = sorted((FIXTURES / "hdf5").glob("*.h5"))
#: Words of h5py for the versions of the format; "earliest" is what Keras asks for.
VERSIONS = ["earliest", "v108", "v110", "v112", "latest"]


def content(path: Path) -> bytes:
    """The HDF5 file at ``path``, or in the archive there."""
    if path.suffix == ".h5":
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        return archive.read("model.weights.h5")


def read(raw: bytes) -> hdf5.Contents:
    return hdf5.read(memoryview(raw), "x.h5")


def written(fill: Any, libver: str = "earliest", **options: Any) -> bytes:
    h5py = pytest.importorskip("h5py", reason="h5py is not installed: it writes the file of this test")
    out = io.BytesIO()
    with h5py.File(out, "w", libver=libver, **options) as file:
        fill(file)
    return out.getvalue()


def by_h5py(raw: bytes) -> tuple[dict[str, np.ndarray], dict[tuple[str, str], Any]]:
    """Every array by path, and every attribute by path and name."""
    h5py = pytest.importorskip("h5py", reason="h5py is not installed: it is what this test compares with")
    arrays: dict[str, np.ndarray] = {}
    attributes: dict[tuple[str, str], Any] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = np.asarray(item[()])
        attributes.update({(name, key): item.attrs[key] for key in item.attrs})

    with h5py.File(io.BytesIO(raw)) as file:
        visit("", file)
        file.visititems(visit)
    return arrays, attributes


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        if values.dtype == np.dtype("V2"):
            values = (np.frombuffer(values.tobytes(), "<u2").astype(np.uint32) << 16).view(np.float32)
        ours = found[name]
        assert ours.dtype == values.dtype.newbyteorder("=")
        assert ours.tobytes() == values.astype(ours.dtype).tobytes()
        assert ours.flags.c_contiguous
        assert ours.flags.aligned
        assert not ours.flags.writeable


def assert_texts(contents: hdf5.Contents, attributes: dict[tuple[str, str], Any]) -> int:
    """What was read of attributes is what h5py says; how many there were."""
    count = 0
    for path, texts in contents.texts.items():
        for name, value in texts.items():
            expected = attributes[path, name]
            listed = [item.decode() if isinstance(item, bytes) else item for item in np.atleast_1d(expected)]
            assert value == (listed if isinstance(value, list) else listed[0])
            count += 1
    return count


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_committed_files_as_h5py_reads_them(path: Path) -> None:
    raw = content(path)
    arrays, attributes = by_h5py(raw)
    contents = read(raw)
    assert_same(contents.tensors, arrays)
    assert not contents.unread
    known = [name for _, name in attributes if name.startswith(("model_config", "keras_version", "name"))]
    assert assert_texts(contents, attributes) >= len(known)


@pytest.mark.parametrize(
    # pyfive reads no layout of version 4.
    "path",
    [path for path in FILES if path.stem not in ("v110", "latest")],
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_committed_files_as_pyfive_reads_them(path: Path) -> None:
    pyfive = pytest.importorskip("pyfive", reason="pyfive is not installed: it is what this test compares with")
    contents = read(content(path))
    with pyfive.File(io.BytesIO(content(path))) as file:
        for name, ours in contents.tensors.items():
            theirs = np.asarray(file[name][()])
            if ours.dtype != bool and theirs.dtype.kind != "V":
                np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.stem)
def test_committed_files_against_their_golden_arrays(path: Path) -> None:
    assert_same(read(path.read_bytes()).tensors, dict(np.load(FIXTURES / "hdf5" / "golden.npz")))


@pytest.mark.parametrize("libver", VERSIONS)
@pytest.mark.parametrize("in_order", [False, True])
def test_groups_and_attributes_of_many_things(libver: str, in_order: bool) -> None:
    """Symbol tables of several levels; links and attributes in fractal heaps of several rows; huge objects."""

    def fill(file: Any) -> None:
        for number in range(700):
            file.create_group(f"many/{number}" + "x" * (number % 50))
        for number in range(60):
            file.attrs[f"weight_names{number}"] = np.array([f"weight {number}".encode()] * (number + 1))
        file.attrs["layer_names"] = np.array([b"long" * 40] * 300)
        file.attrs["model_config"] = "é" * 20_000
        file.attrs["other"] = np.arange(3)

    raw = written(fill, libver, track_order=in_order)
    _, attributes = by_h5py(raw)
    contents = read(raw)
    assert assert_texts(contents, attributes) == 62
    assert contents.text("", "model_config") == "é" * 20_000


@pytest.mark.parametrize("libver", VERSIONS)
@pytest.mark.parametrize("filters", ["plain", "gzip", "shuffle", "all"])
def test_chunks(libver: str, filters: str) -> None:
    """Every index: B-trees of both versions, one chunk, fixed and extensible arrays, each in pages as well."""
    known: dict[str, dict[str, Any]] = {
        "plain": {},
        "gzip": {"compression": "gzip"},
        "shuffle": {"shuffle": True},
        "all": {"compression": "gzip", "shuffle": True, "fletcher32": True},
    }
    options = known[filters]
    rng = np.random.default_rng(1)
    cases: list[tuple[tuple[int, ...], tuple[int, ...], Any]] = [
        ((10, 7), (3, 4), None),
        ((10, 7), (3, 4), (20, 30)),
        ((10, 7), (3, 4), (None, 7)),
        ((10, 7), (3, 4), (10, None)),
        ((10, 7), (3, 4), (None, None)),
        ((10, 7), (10, 7), None),
        ((3, 3, 3), (2, 2, 2), (None, 3, 3)),
        ((2500,), (1,), None),
        ((6000,), (2,), (None,)),
        ((40, 60), (1, 2), (None, None)),
        ((0, 3), (1, 3), (None, 3)),
    ]

    def fill(file: Any) -> None:
        for number, (shape, chunk, limits) in enumerate(cases):
            data = (rng.normal(size=shape) * 99).astype((np.float32, ">f8", np.int16)[number % 3])
            file.create_dataset(f"{number}", data=data, chunks=chunk, maxshape=limits, **options)

    raw = written(fill, libver)
    assert_same(read(raw).tensors, by_h5py(raw)[0])


@pytest.mark.parametrize("libver", VERSIONS)
def test_kinds_of_numbers(libver: str) -> None:
    def fill(file: Any) -> None:
        import h5py

        for number, code in enumerate(["?", "i1", "u1", "<i2", ">u2", ">i4", "<u8", "<f2", ">f2", ">f4", "<f8"]):
            file[f"{number}"] = (np.random.default_rng(number).normal(size=(3, 2)) * 99).astype(code)
        file["compact"] = np.float32(3)
        file.create_dataset("enum", data=[1, 2], dtype=h5py.enum_dtype({"ONE": 1, "TWO": 2}, basetype="u2"))
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((5,))
        made = h5py.h5d.create(file.id, b"in the header", h5py.h5t.IEEE_F32LE, space, dcpl=plan)
        made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.arange(5, dtype=np.float32))

    raw = written(fill, libver)
    contents = read(raw)
    assert_same(contents.tensors, by_h5py(raw)[0])
    assert contents.tensors["0"].dtype == bool


def test_what_is_not_read_is_named() -> None:
    def fill(file: Any) -> None:
        import h5py

        file["texts"] = np.array(["a", "b"], dtype=h5py.string_dtype())
        file["records"] = np.zeros(2, np.dtype([("a", "f4")]))
        file["complex"] = np.zeros(2, "c8")
        file["lzf"] = file.create_dataset("packed", data=np.zeros(100), compression="lzf")
        file["offset"] = file.create_dataset("scaled", data=np.arange(100), scaleoffset=0)
        file["soft"] = h5py.SoftLink("/plain")
        file["away"] = h5py.ExternalLink("other.h5", "/plain")
        file["kind"] = np.dtype("f4")
        file.create_dataset("of that kind", data=np.zeros(2), dtype=file["kind"])
        file["plain"] = np.zeros(2)

    contents = read(written(fill))
    assert contents.tensors.keys() == {"plain"}
    said = {
        "texts": "text",
        "records": "compound",
        "complex": "compound",
        "packed": "number 32000, lzf",
        "lzf": "number 32000, lzf",
        "scaled": "number 6, scaleoffset",
        "offset": "number 6, scaleoffset",
        "soft": "soft link",
        "away": "external link",
        "kind": "neither a group nor an array",
        "of that kind": "stored apart",
    }
    assert contents.unread.keys() == said.keys()
    for path, error in contents.unread.items():
        assert isinstance(error, UnsupportedError)
        assert said[path] in str(error)


def test_values_of_booleans_are_true_or_false() -> None:
    raw = written(lambda file: file.__setitem__("a", np.array([True, False] * 40)))
    at = raw.index(b"\1\0" * 40)
    found = read(raw[:at] + b"\7\0" * 40 + raw[at + 80 :]).tensors["a"]
    assert found.view(np.uint8).tolist() == [1, 0] * 40


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.stem)
def test_flipped_bits_under_a_checksum_are_found(path: Path) -> None:
    """Every structure of the newer versions but object data and heaps of texts is under a checksum."""
    raw = path.read_bytes()
    places = [at for mark in (b"OHDR", b"FRHP", b"FHDB", b"BTHD", b"BTLF", b"FAHD", b"FADB", b"EAHD", b"EAIB", b"EADB")
              for at in range(len(raw)) if raw[at : at + 4] == mark]  # fmt: skip
    assert places or path.stem == "earliest"
    for at in places[::4]:
        with pytest.raises((FormatError, UnsupportedError)):
            read(raw[: at + 7] + bytes([raw[at + 7] ^ 16]) + raw[at + 8 :])


def test_truncated_files() -> None:
    for path in OWN:
        raw = path.read_bytes()
        for size in range(8, len(raw), 4177):
            with pytest.raises(FormatError):
                read(raw[:size])


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        (8, b"\x04", "superblock is of version 4"),
        (13, b"\x04", "not of 8 bytes"),
        (24, b"\x01", "not of 8 bytes"),
        (40, b"\xff\xff\xff\xff", "truncated"),
        (48, b"\x08", "not of 8 bytes"),
        (64, b"\xff\xff\xff\xff", "past the end"),
    ],
)
def test_superblocks_that_are_wrong(field: int, value: bytes, says: str) -> None:
    raw = (FIXTURES / "keras" / "gru_after.h5").read_bytes()
    with pytest.raises((FormatError, UnsupportedError), match=says):
        read(raw[:field] + value + raw[field + len(value) :])


def test_file_that_was_not_closed() -> None:
    raw = bytearray((FIXTURES / "hdf5" / "v110.h5").read_bytes())
    raw[11] = 1
    raw[44:48] = struct.pack("<I", checksum(bytes(raw[:44])))
    with pytest.raises(FormatError, match="not closed"):
        read(bytes(raw))


def test_published_checksum() -> None:
    """Bob Jenkins' own example: lookup3.c, driver5, "Four score and seven years ago" with initial value 0."""
    assert checksum(b"Four score and seven years ago") == 0x17770551
    assert checksum(b"") == 0xDEADBEEF
