"""Small files, large bills: what a hostile file may cost in processor time, in memory and in words."""

from __future__ import annotations

import struct
import sys
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
from bounded import MEGABYTE, assert_bounded, cost, time_bound
from crafted import checkpoint, integer, mapping, numbers, storage, tensor, text, zipped

import cgru

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from Linux's /proc")


def bill(content: bytes, task: Callable[[bytes], Any] = cgru.load) -> Any:
    """What ``task`` of a file costs; it keeps within the bounds."""
    def run() -> None:
        task(content)

    # Neighbours on the same core cost processor time as well, so the quickest of three counts.
    for _ in range(3):
        found = cost(run, limit=4 * time_bound(len(content)))
        if found.seconds <= time_bound(len(content)):
            break
    assert_bounded(found, len(content))
    return found


def refused(content: bytes, says: str, task: Callable[[bytes], Any] = cgru.load) -> None:
    found = bill(content, task)
    assert found.ended in ("FormatError", "UnsupportedError"), f"{found.ended}: {found.message}"
    assert says in found.message


def safetensors(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


# PyTorch


def test_one_dict_referred_to_5000_times():
    inner = b"}(" + b"".join(text(f"{i:03x}") + b"N" for i in range(600)) + b"uq\x01"
    program = mapping(("w", tensor())) + text("x") + b"](" + inner + b"h\x01" * 5000 + b"es"
    assert bill(checkpoint(program), cgru.read).ended == "returned"


def test_one_dict_referred_to_by_5000_keys():
    inner = b"}(" + b"".join(text(f"{i:03x}") + b"N" for i in range(600)) + b"uq\x01"
    program = b"}(" + text("first") + inner + b"".join(text(f"k{i}") + b"h\x01" for i in range(5000)) + b"u"
    refused(checkpoint(program), "holds no tensors")


def test_one_dict_of_dicts_referred_to_5000_times():
    """Each reference could hold a tensor below it, so the walk itself is bounded."""
    inner = b"}(" + b"".join(text(f"{i:03x}") + b"}" for i in range(600)) + b"uq\x01"
    refused(checkpoint(b"](" + inner + b"h\x01" * 5000 + b"e"), "nests")


def test_shape_of_40000_huge_numbers():
    shape = (2**61 - 1,) * 40_000
    many = b"(" + integer(2**61 - 1) + b"2" * (len(shape) - 1) + b"tq\x05"
    program = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage() + integer(0) + many + b"h\x05\x89}tR"
    content = zipped([("m/data.pkl", b"\x80\x02" + b"}" + text("w") + program + b"s.")], zipfile.ZIP_DEFLATED)
    assert len(content) < 3000
    refused(content, "reaches past its storage")


def test_empty_tensors_with_colliding_strides():
    """0 and 2^61 - 1 hash alike in Python: 13 strides make 8,192 keys of one hash."""
    prime = 2**61 - 1
    strides = [tuple(prime if i >> bit & 1 else 0 for bit in range(13)) for i in range(8000)]
    head = text("s") + b"0" + storage() + b"q\x01" + b"0" + integer(prime) + b"q\x02" + b"0"
    head += numbers((0,) * 13) + b"q\x03" + b"0" + b"ctorch._utils\n_rebuild_tensor_v2\nq\x04" + b"0"
    items = []
    for i, stride in enumerate(strides):
        steps = b"(" + b"".join(b"h\x02" if step else b"K\0" for step in stride) + b"t"
        items.append(text(f"{i}") + b"h\x04(h\x01K\0h\x03" + steps + b"\x89}tR")
    program = head + b"}(" + b"".join(items) + b"u"
    found = bill(checkpoint(program), cgru.read)
    assert found.ended == "returned"


@pytest.mark.parametrize("opcode", [b"\x8f", b"}", b"(\x91", b"]\x94"])
def test_millions_of_empty_values_in_a_compressed_pickle(opcode):
    """EMPTY_SET and its kin: a few kilobytes that unpack to millions of objects."""
    body = b"\x80\x04" + opcode * (3_900_000 // len(opcode)) + b"."
    refused(zipped([("m/data.pkl", body)], zipfile.ZIP_DEFLATED), "the pickle")


@pytest.mark.parametrize("opcode", [b"(\x91", b"N0"])
def test_millions_of_empty_values_in_a_pickle(opcode):
    """The same as it lies in a file of that size: what leaves most behind, and what leaves nothing."""
    body = b"\x80\x04" + opcode * (4_000_000 // len(opcode)) + b"."
    refused(zipped([("m/data.pkl", body)]), "the pickle")


def test_16000_modules_and_an_unused_tensor():
    items = [(f"{i:05}.weight", tensor((2, 2), (2, 1))) for i in range(16_000)]
    refused(checkpoint(mapping(*items, ("odd", tensor()))), "nothing uses odd")


def test_16000_modules_in_no_order():
    items = [(f"{i:05}.weight", tensor((2, 2), (2, 1))) for i in range(16_000)]
    refused(checkpoint(mapping(*items)), "16000 modules are too many")


def test_16000_unused_tensors():
    items = [(f"{i:05}.odd", tensor()) for i in range(16_000)]
    refused(checkpoint(mapping(("gru.weight", tensor((2, 2), (2, 1))), *items)), "and 15")


def test_one_storage_that_20000_tensors_unfold():
    items = [(f"{i:05}", tensor((64,), (0,))) for i in range(20_000)]
    assert bill(checkpoint(mapping(*items)), cgru.read).ended == "returned"


# safetensors


def test_20000_names_and_one_twice():
    names = [f"n{i}" for i in range(20_000)] + ["n19999"]
    entries = ",".join(f'"{name}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for name in names)
    refused(safetensors(b"{" + entries.encode() + b"}"), "names 'n19999' twice")


def test_largest_header_of_small_tensors():
    """16 MB of names: read within a quarter of a gigabyte, or refused."""
    each = '"%06d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    entries = ",".join(each % i for i in range((16 << 20) // 58))
    content = safetensors(b"{" + entries.encode() + b"}")
    found = bill(content)
    assert found.ended == "FormatError"
    assert found.grew < 256 * MEGABYTE


@pytest.mark.parametrize("inner", ["{}", "-1"])
def test_largest_header_of_anything(inner):
    body = ",".join([inner] * ((16 << 20) // (len(inner) + 1) - 10))
    found = bill(safetensors(b'{"a":[' + body.encode() + b"]}"))
    assert found.ended == "FormatError"


def test_largest_metadata_of_a_native_file():
    spec = '{\\"layers\\":[' + ",".join(["{}"] * 5_000_000) + "]}"
    header = f'{{"__metadata__":{{"format":"cgru","version":"1","spec":"{spec}"}}}}'
    refused(safetensors(header.encode()), "layer 0")
