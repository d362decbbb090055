"""Frozen TensorFlow graphs: their constants by name, as OpenVINO has them; SavedModel and TFLite are named."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bounded import cost, memory_bound, time_bound

import cgru
from cgru.errors import CgruError, FormatError, UnsupportedError
from cgru.formats.containers.protobuf_write import varint

RNG = np.random.default_rng(2)
W = RNG.normal(size=(3, 4)).astype("<f4")


def field(number: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def shaped(*sizes: int) -> bytes:
    return field(2, b"".join(field(2, field(1, size)) for size in sizes))


def tensor(dtype: int, shape: tuple[int, ...], data: bytes) -> bytes:
    return field(1, dtype) + shaped(*shape) + data


def content(array: np.ndarray) -> bytes:
    return field(4, array.tobytes())


def attr(key: str, value: bytes) -> bytes:
    return field(5, field(1, key.encode()) + field(2, value))


def node(name: str, op: str, inputs: tuple[str, ...] = (), attrs: bytes = b"") -> bytes:
    takes = b"".join(field(3, given.encode()) for given in inputs)
    return field(1, field(1, name.encode()) + field(2, op.encode()) + takes + attrs)


def constant(name: str, dtype: int, value: bytes) -> bytes:
    return node(name, "Const", (), attr("dtype", field(6, dtype)) + attr("value", field(8, value)))


def graph(*nodes: bytes) -> bytes:
    return b"".join(nodes) + field(4, field(1, 27))


FLOAT = attr("T", field(6, 1))
SHAPE = attr("shape", field(7, field(2, field(1, 2)) + field(2, field(1, 3))))
NET = graph(
    node("x", "Placeholder", (), attr("dtype", field(6, 1)) + SHAPE),
    constant("dense/kernel", 1, tensor(1, (3, 4), content(W))),
    constant("dense/bias", 1, tensor(1, (4,), field(5, struct.pack("<2f", 0.5, -2.0)))),
    node("dense/MatMul", "MatMul", ("x", "dense/kernel"), FLOAT),
    node("dense/BiasAdd", "BiasAdd", ("dense/MatMul", "dense/bias"), FLOAT),
)  # fmt: skip


def test_constants_by_name() -> None:
    found = cgru.read(NET)
    np.testing.assert_array_equal(found["dense/kernel"], W)
    # Where fewer numbers stand than there are, the last is the rest.
    np.testing.assert_array_equal(found["dense/bias"], np.array([0.5, -2, -2, -2], np.float32))


def test_they_are_those_that_openvino_computes_with(tmp_path: Path) -> None:
    openvino: Any = pytest.importorskip("openvino", reason="OpenVINO, which reads frozen graphs too, is not installed")
    (tmp_path / "net.pb").write_bytes(NET)
    core = openvino.Core()
    run = core.compile_model(core.read_model(tmp_path / "net.pb"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    x = RNG.normal(size=(2, 3)).astype(np.float32)
    theirs = next(iter(run([x]).values()))
    found = cgru.read(tmp_path / "net.pb")
    np.testing.assert_allclose(theirs, x @ found["dense/kernel"] + found["dense/bias"], atol=1e-5)


VALUES = {
    "float64": (2, np.array([1.5, -2]), b""), "int32": (3, np.array([1, -2], "<i4"), b""),
    "uint8": (4, np.array([1, 255], "u1"), b""), "int8": (6, np.array([-128, 2], "i1"), b""),
    "int64": (9, np.array([1, 1 << 40], "<i8"), b""), "bool": (10, np.array([True, False]), b""),
    "float16": (19, np.array([1.5, -2], "<f2"), b""),
    "one by one, int32": (3, np.array([7, 7], "<i4"), field(7, 7)),
    "one by one, int64": (9, np.array([7, 9], "<i8"), field(10, 7) + field(10, 9)),
    "one by one, half": (19, np.array([1.5, 1.5], "<f2"), field(13, int(np.float16(1.5).view(np.uint16)))),
    "one by one, bfloat16": (14, np.array([1.5, 1.5], "<f4"), field(13, 0x3FC0)),
    "none at all": (1, np.zeros(2, "<f4"), b""),
}  # fmt: skip


@pytest.mark.parametrize("what", VALUES)
def test_every_type(what: str) -> None:
    dtype, wanted, data = VALUES[what]
    if not data and what != "none at all":
        data = content(wanted)
    found = cgru.read(graph(constant("a", dtype, tensor(dtype, (2,), data))))["a"]
    np.testing.assert_array_equal(found, wanted)
    assert found.dtype == (np.float32 if what.endswith("bfloat16") else wanted.dtype)


FIXTURES = Path(__file__).parent / "fixtures" / "tensorflow"


def test_what_tensorflow_wrote() -> None:
    """Made by make_fixtures/tensorflow_graphs.py: as arrays went in, they come out."""
    wanted, found = np.load(FIXTURES / "frozen.npz"), cgru.read(FIXTURES / "frozen.pb")
    assert set(found) == set(wanted.files)
    for name in wanted.files:
        np.testing.assert_array_equal(found[name], wanted[name])
        assert (found[name].shape, found[name].dtype) == (wanted[name].shape, wanted[name].dtype)
    with pytest.raises(UnsupportedError, match="a TensorFlow SavedModel"):
        cgru.load(FIXTURES / "saved_model.pb")


def test_its_graph_is_not_run_and_says_what_to_do() -> None:
    with pytest.raises(UnsupportedError, match=r"cgru\.read\(…\)|cgru\.read\(\.\.\.\) gives its 2 constants"):
        cgru.load(NET)


def test_a_saved_model_and_a_tflite_file_are_named() -> None:
    meta = field(1, field(4, b"serve")) + NET
    with pytest.raises(UnsupportedError, match="SavedModel"):
        cgru.load(field(1, 1) + field(2, meta))
    with pytest.raises(UnsupportedError, match="TensorFlow Lite"):
        cgru.load(b"\x1c\0\0\0TFL3" + bytes(64))


REFUSED = {
    "bytes that are missing": (constant("a", 1, tensor(1, (3,), field(4, b"\0" * 8))), "takes 12 bytes; found 8"),
    "too many numbers": (constant("a", 3, tensor(3, (1,), field(7, 1) + field(7, 2))), "holds 2 numbers"),
    "a shape below nothing": (constant("a", 1, tensor(1, (-1,), b"")), "impossible shape"),
    "a shape beyond memory": (constant("a", 1, tensor(1, (1 << 20, 1 << 19), b"")), "far more than the file holds"),
    "a shape beyond numbers": (constant("a", 1, tensor(1, (1 << 40, 1 << 40), b"")), "impossible shape"),
    "many that unfold": (b"".join(constant(f"a{i}", 1, tensor(1, (1 << 20,), b"")) for i in range(9)), "far more"),
    "no value": (node("a", "Const"), "has no value"),
    "one name twice": (constant("a", 1, tensor(1, (1,), b"")) * 2, "stands twice"),
    "a type that is not read": (constant("a", 8, tensor(8, (1,), b"")), "type 8"),
    "a number beyond its type": (constant("a", 6, tensor(6, (1,), field(7, 300))), "beyond its type"),
    "truth that is seven": (constant("a", 10, tensor(10, (1,), field(4, b"\7"))), "other bytes than 0 and 1"),
    "no constants": (node("abc", "NoOp"), "without constants"),
    "cut short": (constant("dense/kernel", 1, tensor(1, (3, 4), content(W)))[:-5], ""),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_within_bounds(what: str) -> None:
    nodes, says = REFUSED[what]
    found = cost(lambda: cgru.read(nodes), limit=4 * time_bound(len(nodes)))
    assert found.ended in ("FormatError", "UnsupportedError"), (found.ended, found.message)
    assert says in found.message
    assert found.seconds < time_bound(len(nodes))
    assert found.grew < memory_bound(len(nodes))


def test_any_beginning_of_one_is_read_or_refused() -> None:
    """How a file is told from others looks at its first bytes: there may be few."""
    for end in range(1, 40):
        with pytest.raises(CgruError):
            cgru.read(NET[:end])
    with pytest.raises(CgruError):
        cgru.read(b"\n" * 9)


def test_any_byte_changed_is_read_or_refused() -> None:
    rng = np.random.default_rng(0)
    refusals = 0
    for at in rng.integers(0, len(NET), 300):
        changed = bytearray(NET)
        changed[at] = rng.integers(256)
        try:
            cgru.read(bytes(changed))
        except (FormatError, UnsupportedError):
            refusals += 1
    assert refusals > 20
