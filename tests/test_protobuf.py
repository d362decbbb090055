"""The strict protobuf parser: every scalar type against Google's own library, and one test for each kind of damage."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgru.errors import FormatError
from cgru.formats.containers.protobuf import SCALARS, Limits, Message, parse

TYPES = [*SCALARS, "string", "bytes"]
#: One message with every scalar type once and repeated, and itself.
SCHEMA = {
    "Every": {
        **{number: (f"one_{name}", name) for number, name in enumerate(TYPES, 1)},
        **{number: (f"many_{name}", f"{name}*") for number, name in enumerate(TYPES, 21)},
        40: ("inner", "Every"),
        41: ("inners", "Every*"),
    }
}
ENUM = "int32"  # what an enumeration is on the wire
WHOLE = {
    "bool": st.booleans(), "int32": st.integers(-(2**31), 2**31 - 1), "enum": st.integers(-(2**31), 2**31 - 1),
    "int64": st.integers(-(2**63), 2**63 - 1), "uint32": st.integers(0, 2**32 - 1), "uint64": st.integers(0, 2**64 - 1),
    "float": st.floats(width=32, allow_nan=False), "double": st.floats(allow_nan=False),
    "string": st.text(st.characters(exclude_categories=["Cs"])), "bytes": st.binary(),
}  # fmt: skip


@pytest.fixture(scope="module")
def every() -> Any:
    """The same message as Google's library makes it; repeated scalars packed or not."""
    pb2 = pytest.importorskip("google.protobuf.descriptor_pb2", reason="protobuf is not installed")
    descriptor_pool = pytest.importorskip("google.protobuf.descriptor_pool")
    message_factory = pytest.importorskip("google.protobuf.message_factory")

    file = pb2.FileDescriptorProto(name="every.proto", package="t", syntax="proto2")
    for packed in (True, False):
        message = file.message_type.add(name=f"Every{packed}")
        for number, (name, type_) in SCHEMA["Every"].items():
            base = type_.rstrip("*")
            field = message.field.add(name=name, number=number, label=3 if type_.endswith("*") else 1)
            if base == "Every":
                field.type, field.type_name = 11, f".t.Every{packed}"
            else:
                field.type = getattr(pb2.FieldDescriptorProto, f"TYPE_{(ENUM if base == 'enum' else base).upper()}")
                if type_.endswith("*") and base in SCALARS:
                    field.options.packed = packed
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        packed: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"t.Every{packed}"))
        for packed in (True, False)
    }


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def field(number: int, value: int | bytes, wire: int | None = None) -> bytes:
    if isinstance(value, int):
        return varint(number << 3 | (wire or 0)) + varint(value)
    return varint(number << 3 | (2 if wire is None else wire)) + (varint(len(value)) if wire is None else b"") + value


def read(data: bytes, **limits: int) -> Message:
    return parse(data, "Every", SCHEMA, shown="a.onnx", limits=Limits(**limits))


def number_of(name: str) -> int:
    return next(number for number, entry in SCHEMA["Every"].items() if entry[0] == name)


def refused(data: bytes, says: str, **limits: int) -> None:
    with pytest.raises(FormatError, match=says) as caught:
        read(data, **limits)
    assert str(caught.value).startswith("a.onnx: byte ")


@given(data=st.data(), packed=st.booleans())
def test_every_scalar_type_is_read_as_protobuf_wrote_it(every: Any, data: st.DataObject, packed: bool) -> None:
    values = {name: data.draw(st.lists(WHOLE[name], max_size=40), label=name) for name in TYPES}
    written = every[packed]()
    for name, many in values.items():
        getattr(written, f"many_{name}").extend(many)
        if many:
            setattr(written, f"one_{name}", many[0])
    written.inner.one_int32 = -5
    written.inners.add().one_string = "a"
    written.inners.add()
    found = read(written.SerializeToString())
    for name, many in values.items():
        if name in SCALARS:
            array = np.asarray(found.many(f"many_{name}"), SCALARS[name][1])
            np.testing.assert_array_equal(array, np.array(many, SCALARS[name][1]))
        else:
            assert [bytes(item) if name == "bytes" else item for item in found.many(f"many_{name}")] == many
        assert found.get(f"one_{name}") == (many[0] if many else None)
    assert found.get("inner").get("one_int32") == -5
    assert [inner.get("one_string") for inner in found.many("inners")] == ["a", None]


@pytest.mark.parametrize("name", [name for name, (wire, _) in SCALARS.items() if wire == 0])
def test_long_packed_runs_cross_blocks(every: Any, name: str) -> None:
    rng = np.random.default_rng(3)
    dtype = np.dtype(SCALARS[name][1])
    info = np.iinfo(dtype if name != "bool" else np.uint8)
    values = rng.integers(info.min, info.max, 60_000, info.dtype, endpoint=True)
    values[::3] >>= info.bits - 9 if info.bits > 8 else 7  # short varints among long ones
    values = (values & 1).astype(dtype) if name == "bool" else values
    written = every[True]()
    getattr(written, f"many_{name}").extend(values.tolist())
    np.testing.assert_array_equal(read(written.SerializeToString()).many(f"many_{name}"), values)


def test_packed_and_single_numbers_keep_the_order_of_the_file() -> None:
    number = number_of("many_int64")
    data = field(number, 7) + field(number, varint(1) + varint(300)) + field(number, 8) + field(number, b"")
    assert read(data).many("many_int64").tolist() == [7, 1, 300, 8]


def test_unknown_fields_are_skipped() -> None:
    unknown = field(99, 5) + field(100, b"anything") + field(101, bytes(8), 1) + field(102, bytes(4), 5)
    assert read(unknown + field(number_of("one_int32"), 3) + unknown).fields == {"one_int32": 3}


# Damage ---------------------------------------------------------------------------------------------------------


def test_truncated_varint() -> None:
    refused(field(number_of("one_int64"), 1)[:-1] + b"\x80\x80", "varint is truncated")


def test_truncated_key() -> None:
    refused(b"\x80", "varint is truncated")


def test_varint_of_eleven_bytes() -> None:
    refused(b"\x10" + b"\x80" * 10 + b"\x01", "longer than 64 bits")


def test_varint_beyond_64_bits() -> None:
    refused(b"\x10" + b"\xff" * 9 + b"\x02", "longer than 64 bits")


@pytest.mark.parametrize("count", [3, 500])
def test_packed_varint_beyond_64_bits(count: int) -> None:
    number = number_of("many_int64")
    refused(field(number, varint(9) * count + b"\xff" * 9 + b"\x02"), "longer than 64 bits")
    refused(field(number, varint(9) * count + b"\x80" * 11 + b"\x01"), "longer than 64 bits")
    refused(field(number, varint(9) * count + b"\x80"), "truncated")


def test_packed_varint_that_never_ends() -> None:
    refused(field(number_of("many_int64"), b"\x80" * (1 << 20) + b"\x01"), "longer than 64 bits")


def test_length_beyond_the_file() -> None:
    refused(varint(number_of("one_bytes") << 3 | 2) + varint(2**62) + b"abc", "truncated")


def test_length_beyond_the_message_around_it() -> None:
    inner = varint(number_of("one_bytes") << 3 | 2) + varint(5) + b"abc"
    refused(field(40, inner) + bytes(16), "truncated")


def test_fixed_number_cut_off() -> None:
    refused(field(number_of("one_double"), bytes(7), 1), "truncated")


@pytest.mark.parametrize("wire", [3, 4, 6, 7])
def test_groups_and_unassigned_wire_types(wire: int) -> None:
    refused(bytes([1 << 3 | wire, 0]), f"wire type {wire}")


def test_field_number_zero() -> None:
    refused(b"\x00\x01", "field number 0")


def test_field_number_beyond_29_bits() -> None:
    refused(varint(1 << 32) + b"\x01", "field number")


def test_a_known_field_of_another_wire_type() -> None:
    refused(field(number_of("one_string"), 5), "one_string has wire type 0; expected string")
    refused(field(number_of("one_float"), bytes(8), 1), "one_float has wire type 1; expected float")
    refused(field(number_of("many_int32"), bytes(8), 1), "many_int32 has wire type 1; expected int32")
    refused(field(40, 5), "inner has wire type 0; expected Every")


def test_a_single_field_twice() -> None:
    refused(field(number_of("one_int32"), 1) * 2, "two fields 'one_int32'")


def test_text_that_is_not_utf8() -> None:
    refused(field(number_of("one_string"), b"\xff\xfe"), "not UTF-8")


@pytest.mark.parametrize(
    ("name", "value"), [("int32", 2**31), ("int32", 2**64 - 2**31 - 1), ("bool", 2), ("uint32", 2**32), ("enum", 2**40)]
)
def test_numbers_outside_their_type(name: str, value: int) -> None:
    refused(field(number_of(f"one_{name}"), value), f"expected {name}")
    refused(field(number_of(f"many_{name}"), varint(1) + varint(value)), f"expected {name}")
    refused(field(number_of(f"many_{name}"), varint(1) * 100 + varint(value)), f"expected {name}")


def test_packed_floats_of_odd_size() -> None:
    refused(field(number_of("many_float"), bytes(7)), "expected a multiple of 4")


def test_messages_nested_too_deep() -> None:
    data = b""
    for _ in range(100):
        data = field(40, data)
    assert read(data).kind == "Every"
    refused(field(40, data), "deeper than 100")


def test_more_fields_than_are_read() -> None:
    refused(field(99, 1) * 1001, "more than 1000 fields", fields=1000)


@pytest.mark.parametrize(
    ("name", "value"), [("inners", b""), ("many_string", b""), ("many_int64", 1), ("many_int64", b"\x01"), ("", 1)]
)
def test_many_small_fields_take_bounded_time_and_memory(name: str, value: int | bytes) -> None:
    data = field(number_of(name) if name else 99, value) * 120_000
    start = time.process_time()
    refused(data, "more than 100000 fields", fields=100_000)
    assert time.process_time() - start < 20
    tracemalloc.start()
    try:
        read(data[: len(data) // 6])
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < (20 << 20) + 32 * len(data) // 6
