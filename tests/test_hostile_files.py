"""Files made to harm: each is refused by a CgruError that names it, in bounded memory.

One named test per kind; pickles that try to run code have a file of their own, test_pickle_exploits.py.
"""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from crafted import MEGABYTE, checkpoint, integer, mapping, refused, storage, tensor, text, write, zipped

from cgru.errors import CgruError, FormatError, UnsupportedError
from cgru.formats.containers import npz, safetensors, torch_zip
from cgru.formats.containers.pickle_data import read_pickle
from cgru.formats.containers.pickle_values import Limits
from cgru.formats.containers.zip_members import ZipMembers

FOLDER = Path(__file__).parent / "fixtures" / "containers"
READERS = {"torch": torch_zip.read, "safetensors": safetensors.read, "npz": npz.read}
SAMPLES = [
    ("torch", "checkpoint.pt"),
    ("torch", "state_dict.pt"),
    ("safetensors", "library.safetensors"),
    ("npz", "stored.npz"),
    ("npz", "deflated.npz"),
]


def test_the_builders_make_a_readable_file(tmp_path):
    found = torch_zip.read(write(tmp_path, checkpoint(mapping(("w", tensor((2, 2), (2, 1)))))))
    np.testing.assert_array_equal(found.tensors["w"], [[0, 1], [2, 3]])


# Damage


@pytest.mark.parametrize(("reader", "file"), SAMPLES)
def test_truncated(reader, file, tmp_path):
    content = (FOLDER / file).read_bytes()
    for length in sorted({*range(0, len(content), max(1, len(content) // 150)), len(content) - 1}):
        path = write(tmp_path, content[:length], f"cut-{file}")
        with pytest.raises(CgruError, match="cut-"):
            READERS[reader](path)


@pytest.mark.parametrize(("reader", "file"), SAMPLES)
def test_bit_flipped(reader, file):
    """A flipped bit is either refused or harmless: for zips the values then stay what they were."""
    content = (FOLDER / file).read_bytes()
    whole = READERS[reader](content).tensors
    rng = np.random.default_rng(7)
    refusals = 0
    for position in rng.integers(0, 8 * len(content), 400):
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << (position % 8)
        try:
            found = READERS[reader](bytes(flipped)).tensors
        except CgruError:
            refusals += 1
            continue
        if reader != "safetensors":  # which carries no checksum
            same = {name: np.array_equal(values, whole[name]) for name, values in found.items() if name in whole}
            assert all(same.values())
    assert refusals > 20


@pytest.mark.parametrize(("reader", "file"), SAMPLES)
def test_appended_bytes(reader, file, tmp_path):
    path = write(tmp_path, (FOLDER / file).read_bytes() + b"\0", file)
    with refused(path, error=FormatError):
        READERS[reader](path)


@pytest.mark.parametrize("reader", READERS)
def test_empty_file(reader, tmp_path):
    path = write(tmp_path, b"")
    with refused(path, error=FormatError):
        READERS[reader](path)


@pytest.mark.parametrize("reader", READERS)
def test_directory_in_place_of_a_file(reader, tmp_path):
    path = tmp_path / "folder.pt"
    path.mkdir()
    with refused(path, "regular file", FormatError):
        READERS[reader](path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this platform has no FIFOs")
@pytest.mark.parametrize("reader", READERS)
def test_pipe_in_place_of_a_file(reader, tmp_path):
    path = tmp_path / "pipe.pt"
    os.mkfifo(path)
    with refused(path, "regular file", FormatError):
        READERS[reader](path)


# Zip archives


def test_zip_bomb(tmp_path):
    bomb = zipped([("a.npy", bytes(40 * MEGABYTE))], zipfile.ZIP_DEFLATED)
    path = write(tmp_path, bomb, "bomb.npz")
    assert len(bomb) < MEGABYTE // 10
    with refused(path, "zip bomb", FormatError):
        npz.read(path)


def test_zip_bomb_in_many_members(tmp_path):
    """Each member is modest; their sum is not."""
    header = io.BytesIO()
    np.lib.format.write_array(header, np.zeros(MEGABYTE, np.float32))
    bomb = zipped([(f"{i}.npy", header.getvalue()) for i in range(40)], zipfile.ZIP_DEFLATED)
    path = write(tmp_path, bomb, "bomb.npz")
    with refused(path, "zip bomb", FormatError, peak=60 * MEGABYTE):
        npz.read(path)


def test_zip_bomb_of_overlapping_members(tmp_path):
    """One payload that two directory entries share, as in overlapping-file bombs."""
    content = bytearray(zipped([("a.npy", b"0" * 64), ("b.npy", b"1" * 64)]))
    second = content.rfind(b"PK\x01\x02")
    content[second + 42 : second + 46] = bytes(4)
    path = write(tmp_path, bytes(content), "overlap.npz")
    with refused(path, "overlaps", FormatError):
        npz.read(path)


def test_zip_member_that_inflates_past_its_declared_size(tmp_path):
    content = bytearray(zipped([("a.npy", bytes(4 * MEGABYTE))], zipfile.ZIP_DEFLATED))
    entry = content.rfind(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = struct.pack("<I", 100)
    path = write(tmp_path, bytes(content), "lies.npz")
    with refused(path, "does not inflate to the 100 bytes", FormatError, peak=2 * MEGABYTE):
        npz.read(path)


def test_zip_that_declares_a_huge_member(tmp_path):
    content = bytearray(zipped([("a.npy", b"x" * 64)]))
    entry = content.rfind(b"PK\x01\x02")
    content[entry + 20 : entry + 28] = struct.pack("<II", 2**31, 2**31)
    path = write(tmp_path, bytes(content), "huge.npz")
    with refused(path, "reaches past the end", FormatError):
        npz.read(path)


def test_zip_that_declares_a_huge_member_count(tmp_path):
    content = bytearray(zipped([("a.npy", b"x" * 64)]))
    end = content.rfind(b"PK\x05\x06")
    content[end + 8 : end + 12] = struct.pack("<HH", 0xFFFF, 0xFFFF)
    path = write(tmp_path, bytes(content), "many.npz")
    with refused(path, "directory", FormatError):
        npz.read(path)


@pytest.mark.parametrize(
    "name", ["../escape.npy", "a/../../escape.npy", "/etc/escape.npy", "C:/escape.npy", "a\\..\\b.npy"]
)
def test_path_traversing_member(name, tmp_path):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        entry = zipfile.ZipInfo("x")
        entry.filename = name
        archive.writestr(entry, b"x")
    path = write(tmp_path, out.getvalue(), "traversal.npz")
    with refused(path, "points outside", FormatError):
        npz.read(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zip_with_two_members_of_one_name(tmp_path):
    path = write(tmp_path, zipped([("a.npy", b"first"), ("a.npy", b"second")]), "twice.npz")
    with refused(path, "two members named 'a.npy'", FormatError):
        npz.read(path)


def test_encrypted_zip(tmp_path):
    content = bytearray(zipped([("a.npy", b"x" * 64)]))
    entry = content.rfind(b"PK\x01\x02")
    content[entry + 8] |= 1
    path = write(tmp_path, bytes(content), "locked.npz")
    with refused(path, "encrypted", FormatError):
        npz.read(path)


def test_zip_with_an_unusual_compression(tmp_path):
    path = write(tmp_path, zipped([("a.npy", b"x" * 64)], zipfile.ZIP_BZIP2), "bzip2.npz")
    with refused(path, "zip method 12", FormatError):
        npz.read(path)


def test_zip_whose_local_header_disagrees(tmp_path):
    content = bytearray(zipped([("aa.npy", b"x" * 64)]))
    content[30:32] = b"bb"
    path = write(tmp_path, bytes(content), "two-faced.npz")
    with refused(path, "does not agree", FormatError):
        npz.read(path)


def test_zip_with_something_before_it(tmp_path):
    path = write(tmp_path, b"#!/bin/sh\n" + zipped([("a.npy", b"x")]), "polyglot.npz")
    with refused(path, error=FormatError):
        npz.read(path)


def test_zip_with_a_wrong_checksum(tmp_path):
    content = bytearray(checkpoint(mapping(("w", tensor()))))
    at = content.find(np.arange(4, dtype="<f4").tobytes())
    content[at] ^= 1
    path = write(tmp_path, bytes(content))
    with refused(path, "CRC", FormatError):
        torch_zip.read(path)


def test_zip64_sizes_are_read_and_checked():
    """A directory that moves its sizes to the zip64 field, right and wrong."""
    name, data = b"a.npy", io.BytesIO()
    np.lib.format.write_array(data, np.arange(3.0))
    payload = data.getvalue()
    crc, size = zlib.crc32(payload), len(payload)

    def archive(claimed: int) -> bytes:
        local = struct.pack("<4s5H3I2H", b"PK\3\4", 45, 0, 0, 0, 0, crc, size, size, len(name), 0) + name + payload
        extra = struct.pack("<HHQQ", 1, 16, claimed, claimed)
        entry = struct.pack(
            "<4s6H3I5H2I",
            b"PK\1\2",
            45,
            45,
            0,
            0,
            0,
            0,
            crc,
            2**32 - 1,
            2**32 - 1,
            5,
            len(extra),
            0,
            0,
            0,
            0,
            0,
        )
        entry += name + extra
        return local + entry + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(entry), len(local), 0)

    np.testing.assert_array_equal(npz.read(archive(size)).tensors["a"], np.arange(3.0))
    with pytest.raises(FormatError, match="reaches past"):
        npz.read(archive(2**62))


# Tensors that are not what they say


@pytest.mark.parametrize(
    ("shape", "stride", "offset"),
    [
        ((5,), (1,), 0),
        ((4,), (1,), 1),
        ((2, 2), (3, 1), 0),
        ((1,), (1,), 4),
        ((2,), (2**61,), 0),
        ((2**61, 2**61), (1, 1), 0),
        ((0, 2**61), (1, 1), 0),
        ((1,) * 40, (1,) * 40, 0),
    ],
)
def test_wrong_shape_torch(shape, stride, offset, tmp_path):
    path = write(tmp_path, checkpoint(mapping(("w", tensor(shape, stride, offset)))))
    with refused(path, "'w'.*past its storage", FormatError):
        torch_zip.read(path)


@pytest.mark.parametrize(
    ("shape", "stride", "offset"), [((-1,), (1,), 0), ((4,), (-1,), 3), ((4,), (1,), -1), ((4,), (), 0)]
)
def test_malformed_shape_torch(shape, stride, offset, tmp_path):
    path = write(tmp_path, checkpoint(mapping(("w", tensor(shape, stride, offset)))))
    with refused(path, "'w'.*malformed", FormatError):
        torch_zip.read(path)


def test_wrong_shape_npz(tmp_path):
    out = io.BytesIO()
    np.savez(out, w=np.zeros((2, 3)))
    content = npz_with_header(out.getvalue(), b"(2, 3)", b"(2, 4)")
    path = write(tmp_path, content, "shape.npz")
    with refused(path, "'w.npy'.*takes 64 bytes; the member has 48", FormatError):
        npz.read(path)


def npz_with_header(content: bytes, old: bytes, new: bytes) -> bytes:
    """The same npz with its first member's header changed and the checksums right."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return zipped([(name, archive.read(name).replace(old, new)) for name in archive.namelist()])


def test_wrong_dtype_torch(tmp_path):
    path = write(tmp_path, checkpoint(mapping(("w", tensor(held=storage(kind="DoubleStorage"))))))
    with refused(path, "'w' declares 4 elements of 8 bytes.*has 16 bytes", FormatError):
        torch_zip.read(path)


def test_unknown_dtype_torch(tmp_path):
    path = write(tmp_path, checkpoint(mapping(("w", tensor(held=storage(kind="QInt8Storage"))))))
    with refused(path, "'w' is stored as QInt8Storage", UnsupportedError):
        torch_zip.read(path)


def test_wrong_dtype_npz(tmp_path):
    out = io.BytesIO()
    np.savez(out, w=np.zeros((2, 3)))
    path = write(tmp_path, npz_with_header(out.getvalue(), b"'<f8'", b"'<f4'"), "dtype.npz")
    with refused(path, "'w.npy'", FormatError):
        npz.read(path)


def test_object_array_npz(tmp_path):
    path = tmp_path / "object.npz"
    np.savez(path, w=np.array([{"a": 1}], dtype=object))
    with refused(path, "'w.npy' holds pickled Python objects", FormatError):
        npz.read(path)


@pytest.mark.parametrize("numel", [2**40, 2**62])
def test_huge_declared_storage_torch(numel, tmp_path):
    path = write(tmp_path, checkpoint(mapping(("w", tensor((4,), (1,), 0, storage(numel=numel))))))
    with refused(path, "declares", FormatError):
        torch_zip.read(path)


def test_huge_expanded_tensor_torch(tmp_path):
    """Stride 0 makes a terabyte out of four numbers."""
    path = write(tmp_path, checkpoint(mapping(("w", tensor((2**20, 2**20), (0, 0))))))
    with refused(path, "unfolds", FormatError):
        torch_zip.read(path)


def test_many_expanded_tensors_torch(tmp_path):
    items = [(f"w{i}", tensor((2**20 + i,), (0,))) for i in range(200)]
    path = write(tmp_path, checkpoint(mapping(*items)))
    with refused(path, "unfolds", FormatError, peak=80 * MEGABYTE):
        torch_zip.read(path)


def test_huge_declared_size_npz(tmp_path):
    out = io.BytesIO()
    np.savez(out, w=np.zeros((2, 3)))
    for shape in (b"(1099511627776, 3)", b"(9999999999999999999, 0)"):
        old = b"(2, 3), }" + b" " * (len(shape) - 6)
        path = write(tmp_path, npz_with_header(out.getvalue(), old, shape + b", }"), "huge.npz")
        with refused(path, "'w.npy'", FormatError):
            npz.read(path)


def test_huge_declared_sizes_in_the_pickle(tmp_path):
    for opcode in (
        b"X\xff\xff\xff\x7f",
        b"\x8d" + b"\xff" * 8,
        b"\x8e" + b"\xff" * 7 + b"\x7f",
        b"\x8b\xff\xff\xff\x7f",
    ):
        path = write(tmp_path, checkpoint(opcode))
        with refused(path, "declares|integer of", FormatError):
            torch_zip.read(path)


def test_storage_that_is_missing(tmp_path):
    path = write(tmp_path, checkpoint(mapping(("w", tensor())), storages={}))
    with refused(path, "no member 'm/data/0'", FormatError):
        torch_zip.read(path)


def test_path_traversing_storage_key(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(16))
    path = write(tmp_path, checkpoint(mapping(("w", tensor(held=storage("../../secret"))))))
    with refused(path, "no member", FormatError):
        torch_zip.read(path)


def test_unknown_byte_order(tmp_path):
    path = write(tmp_path, checkpoint(mapping(("w", tensor())), extra=[("m/byteorder", b"middle")]))
    with refused(path, "byteorder", FormatError):
        torch_zip.read(path)


def test_two_pickles_in_one_archive(tmp_path):
    path = write(tmp_path, checkpoint(mapping(("w", tensor())), extra=[("n/data.pkl", b"\x80\x02}.")]))
    with refused(path, "2 members data.pkl", FormatError):
        torch_zip.read(path)


def test_boolean_that_is_neither(tmp_path):
    held = storage(kind="BoolStorage")
    path = write(tmp_path, checkpoint(mapping(("w", tensor(held=held))), {"0": b"\0\1\2\1"}))
    with refused(path, "'w' is boolean", FormatError):
        torch_zip.read(path)


# Nesting and cycles


def test_deeply_nested_dicts(tmp_path):
    depth = 20_000
    program = b"}" + (text("a") + b"}") * depth + text("w") + tensor() + b"s" * (depth + 1)
    path = write(tmp_path, checkpoint(program))
    with refused(path, "nests", FormatError, peak=64 * MEGABYTE):
        torch_zip.read(path)


def test_deeply_nested_marks(tmp_path):
    path = write(tmp_path, checkpoint(b"(" * 100_000))
    with refused(path, "nests", FormatError):
        torch_zip.read(path)


def test_deeply_nested_tuples(tmp_path):
    path = write(tmp_path, checkpoint(b")" + b"\x85" * 60_000))
    with refused(path, "nests", FormatError, peak=64 * MEGABYTE):
        torch_zip.read(path)


def test_deeply_nested_records(tmp_path):
    """Calls of calls of calls, whose description and release must not recurse either."""
    path = write(tmp_path, checkpoint(b"cmade.up\nName\n" + b")R" * 60_000))
    with refused(path, "neither a state_dict", UnsupportedError, peak=128 * MEGABYTE):
        torch_zip.read(path)


def test_cyclic_dict(tmp_path):
    program = b"}q\x00(" + text("w") + tensor() + text("me") + b"h\x00u"
    path = write(tmp_path, checkpoint(program))
    with refused(path, "contains itself", FormatError):
        torch_zip.read(path)


def test_cyclic_list(tmp_path):
    path = write(tmp_path, checkpoint(mapping(("w", tensor()), ("list", b"]q\x00h\x00a"))))
    with refused(path, "contains itself", FormatError):
        torch_zip.read(path)


def test_doubling_dicts(tmp_path):
    """Thirty levels, each holding the one below twice: small in the file, a billion when unfolded."""
    program = mapping(("w", tensor())) + b"q\x00"
    for level in range(30):
        below = b"h" + bytes([level])
        program += b"0" + mapping(("a", below), ("b", below)) + b"q" + bytes([level + 1])
    path = write(tmp_path, checkpoint(program))
    with refused(path, "more than", FormatError, peak=64 * MEGABYTE):
        torch_zip.read(path)


def test_doubling_tuple_as_key(tmp_path):
    """Hashing this key would take 2^60 steps; it stays unhashed, and the tensor under it has no name."""
    program = b"}" + b")" + b"2\x86" * 60 + tensor() + b"s"
    path = write(tmp_path, checkpoint(program))
    with refused(path, "no usable name", FormatError):
        torch_zip.read(path)


def test_colliding_integer_keys(tmp_path):
    """Multiples of 2^61-1 all hash alike in Python; a dict of them would take quadratic time."""
    items = b"".join(integer((2**61 - 1) * (i % 16)) + b"N" for i in range(20_000))
    path = write(tmp_path, checkpoint(b"}(" + items + b"u"))
    with refused(path, "no tensors", FormatError, peak=64 * MEGABYTE):
        torch_zip.read(path)


def test_limits_of_size_and_memo(tmp_path):
    path = write(tmp_path, b"N0" * 50_000)
    with refused(path, "pickle of 100000 bytes", FormatError, peak=MEGABYTE):
        read_pickle(path.read_bytes(), shown=str(path), limits=Limits(size=1000))
    path = write(tmp_path, b"N\x94" * 50_000)
    with refused(path, "makes more than 100 values", FormatError, peak=MEGABYTE):
        read_pickle(path.read_bytes(), shown=str(path), limits=Limits(values=100))


def test_endless_pickle(tmp_path):
    path = write(tmp_path, b"N0" * 50_000)
    with refused(path, "more than 10000 opcodes", FormatError, peak=MEGABYTE):
        read_pickle(path.read_bytes(), shown=str(path), limits=Limits(opcodes=10_000))


# Too little on the stack, wrong kinds, bad numbers.
MALFORMED = [
    b"",
    *b"0 t u s a e R b Q N ( NN (NNu ]Nb }Na NNa".split(b" "),
    b"h\x07",
    b"q\x00",
    b"\xff",
    b"\x93",
]
MALFORMED += [
    b"I1x\n",
    b"L\n",
    b"Fx\n",
    b"S'\n",
    b"p-1\n",
    b"\x80\x09",
    b"\x81",
    b"X\1\0\0\0\xff",
    b"\x8c\x01\xff",
]


@pytest.mark.parametrize("program", MALFORMED)
def test_malformed_pickle(program, tmp_path):
    path = write(tmp_path, checkpoint(program))
    with refused(path):
        torch_zip.read(path)


def test_pickle_with_something_after_it(tmp_path):
    path = write(tmp_path, checkpoint(b"}.}"))
    with refused(path, "after its STOP", FormatError):
        torch_zip.read(path)


def test_control_characters_do_not_reach_the_message(tmp_path):
    """A name that would repaint the terminal."""
    path = write(tmp_path, checkpoint(mapping(("\x1b[2Jw", tensor()))))
    with refused(path, "no usable name", FormatError):
        torch_zip.read(path)


def test_unused_members_are_never_inflated(tmp_path):
    """A checkpoint may carry anything beside its weights; only what is asked for is unpacked."""
    out = io.BytesIO(checkpoint(mapping(("w", tensor()))))
    with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/bomb", bytes(64 * MEGABYTE))
    path = write(tmp_path, out.getvalue())
    tracemalloc.start()
    try:
        assert list(torch_zip.read(path).tensors) == ["w"]
        assert tracemalloc.get_traced_memory()[1] < 4 * MEGABYTE
    finally:
        tracemalloc.stop()
    with refused(path, "zip bomb", FormatError):
        ZipMembers(path).read("m/bomb")
