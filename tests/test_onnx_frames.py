"""What ordinary exports do along open axes: attention, sums, resampling, pooling, statistics, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_axes
import pytest
from onnx_side import arr, attribute, graph, model, node, ran, value, weights

import cgru
from cgru.errors import CgruError, FormatError, UnsupportedError
from cgru.formats.containers.onnx_file import read_model
from cgru.formats.readers.onnx_network import network
from cgru.formats.readers.onnx_values import BATCH, Count, Unfolded

Nodes = Sequence[dict[str, Any]]


@pytest.fixture(scope="module")
def runtime() -> Any:
    return pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


def built(nodes: Nodes, shape: Sequence[Any], rank: int, *more: Any, **arrays: Any) -> bytes:
    """A graph from x of this shape to y of so many axes."""
    inputs = [value("x", shape), *more]
    return model(graph(nodes, [value("y", [f"d{i}" for i in range(rank)])], inputs, initializer=weights(**arrays)))


def agrees(
    runtime: Any, content: bytes, shapes: Sequence[tuple[int, ...]], near: float = 5e-6,
    make: Callable[..., np.ndarray] = arr, **load: Any,
) -> cgru.Model:  # fmt: skip
    made = network(read_model(content), **load)
    for shape in shapes:
        x = make(*shape)
        (wanted,) = ran(runtime, content, {"x": x})
        found = onnx_axes.run(made, {"x": x}, {"y": wanted.shape})["y"]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=near)
    return cgru.Model(made.graph)


def streams(net: cgru.Model, features: int, steps: int = 20) -> None:
    """In chunks as whole, to the bit."""
    x, stream = arr(1, steps, features), net.stream(1)
    parts = [stream.feed(x[:, :3]), stream.feed(x[:, 3:4]), stream.feed(x[:, 4:]), stream.flush()]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), net(x))


OPEN = ("batch", "time", 6)
SIZES = [(2, 9, 6), (3, 5, 6), (1, 1, 6)]

# Attention among frames ---------------------------------------------------------------------------------------------


def heads_of(masked: str) -> tuple[list[Any], dict[str, Any]]:
    """softmax(q kᵀ / √3 + mask) v of two heads, which stand with the rows in one axis, as nn.MultiheadAttention has
    them."""
    nodes = [node("Shape", ["x"], ["s"]), node("Gather", ["s", "zero"], ["b"]), node("Gather", ["s", "one"], ["t"]),
             node("Mul", ["b", "two"], ["bh"])]  # fmt: skip
    nodes += [node("Concat", ["b", "t", "two", "three"], ["split"], attribute("axis", 0)),
              node("Concat", ["bh", "t", "three"], ["rows"], attribute("axis", 0)),
              node("Concat", ["b", "two", "t", "three"], ["apart"], attribute("axis", 0)),
              node("Concat", ["t", "t"], ["tt"], attribute("axis", 0))]  # fmt: skip
    for name in "qkv":
        nodes += [node("MatMul", ["x", f"w{name}"], [f"{name}0"]), node("Reshape", [f"{name}0", "split"], [f"{name}1"]),
                  node("Transpose", [f"{name}1"], [f"{name}2"], attribute("perm", [0, 2, 1, 3])),
                  node("Reshape", [f"{name}2", "rows"], [name])]  # fmt: skip
    nodes += [node("Transpose", ["k"], ["kt"], attribute("perm", [0, 2, 1])), node("MatMul", ["q", "kt"], ["raw"]),
              node("Div", ["raw", "root"], ["scores"])]  # fmt: skip
    nodes += [node("Expand", ["unit", "tt"], ["ones"])]
    if masked == "where":
        nodes += [node("Trilu", ["ones", "one0"], ["later"], attribute("upper", 1)),
                  node("Equal", ["later", "unit"], ["hide"]),
                  node("Where", ["hide", "low", "scores"], ["shown"])]  # fmt: skip
    elif masked == "add":
        nodes += [node("Trilu", ["ones"], ["earlier"], attribute("upper", 0)), node("Sub", ["unit", "earlier"], ["in"]),
                  node("Mul", ["in", "low"], ["mask"]), node("Add", ["scores", "mask"], ["shown"])]  # fmt: skip
    else:
        nodes += [node("Identity", ["scores"], ["shown"])]
    nodes += [node("Softmax", ["shown"], ["a"], attribute("axis", -1)), node("MatMul", ["a", "v"], ["o"]),
              node("Reshape", ["o", "apart"], ["o4"]),
              node("Transpose", ["o4"], ["ot"], attribute("perm", [0, 2, 1, 3])),
              node("Concat", ["b", "t", "six"], ["back"], attribute("axis", 0)),
              node("Reshape", ["ot", "back"], ["y"])]  # fmt: skip
    constants: dict[str, Any] = {f"w{name}": arr(6, 6) * 2 for name in "qkv"}
    constants |= {name: np.array([i]) for name, i in (("zero", 0), ("one", 1), ("two", 2), ("three", 3), ("six", 6))}
    constants |= {"root": np.array(3**0.5), "unit": np.array(1.0), "low": np.array(-1e9), "one0": np.array(1)}
    return nodes, constants


@pytest.mark.parametrize("masked", ["", "where", "add"])
def test_attention_of_every_frame_to_others(runtime: Any, masked: str) -> None:
    nodes, constants = heads_of(masked)
    net = agrees(runtime, built(nodes, OPEN, 3, **constants), SIZES)
    attends = [item for item in net.graph.nodes if item.op == "attend"]
    assert len(attends) == 2
    assert all(item.options["causal"] == bool(masked) for item in attends)


@pytest.mark.parametrize(("scored", "weighs"), [("bqd,bkd->bqk", "bqk,bkd->bqd"), ("bqd,bkd->bqk", "bqk,bkd->bdq")])
def test_attention_by_letters(runtime: Any, scored: str, weighs: str) -> None:
    nodes = [
        node("Einsum", ["x", "x"], ["s"], attribute("equation", scored)), node("Softmax", ["s"], ["a"]),
        node("Einsum", ["a", "x"], ["y"], attribute("equation", weighs)),
    ]  # fmt: skip
    agrees(runtime, built(nodes, OPEN, 3), SIZES)


def test_attention_by_letters_of_heads(runtime: Any) -> None:
    nodes = [
        node("Reshape", ["x", "split"], ["h"]),
        node("Einsum", ["h", "h"], ["s"], attribute("equation", "bqhd,bkhd->bhqk")),
        node("Softmax", ["s"], ["a"]), node("Einsum", ["a", "h"], ["o"], attribute("equation", "bhqk,bkhd->bqhd")),
        node("Reshape", ["o", "back"], ["y"]),
    ]  # fmt: skip
    arrays = {"split": np.array([0, 0, 2, 3]), "back": np.array([0, 0, 6])}
    agrees(runtime, built(nodes, OPEN, 3, **arrays), SIZES)


def test_attention_to_another_sequence_streams(runtime: Any) -> None:
    """Each frame of z attends to all of x, which is given once."""
    nodes = [node("Transpose", ["x"], ["xt"], attribute("perm", [0, 2, 1])), node("MatMul", ["z", "xt"], ["s"]),
             node("Softmax", ["s"], ["a"], attribute("axis", 2)), node("MatMul", ["a", "x"], ["y"])]  # fmt: skip
    content = built(nodes, ("batch", "source", 6), 3, value("z", ("batch", "target", 6)))
    net = cgru.load(content, time_axis={"x": 1, "z": 1})
    x, z = arr(2, 7, 6), arr(2, 4, 6)
    (wanted,) = ran(runtime, content, {"x": x, "z": z})
    np.testing.assert_allclose(net({"x": x, "z": z}), wanted, rtol=0, atol=2e-6)


def test_what_is_no_attention_is_refused() -> None:
    def refused(says: str, *tail: Any, **arrays: Any) -> None:
        nodes = [node("Transpose", ["x"], ["xt"], attribute("perm", [0, 2, 1])), node("MatMul", ["x", "xt"], ["s"])]
        with pytest.raises(UnsupportedError, match=says):
            cgru.load(built([*nodes, *tail], OPEN, 3, **arrays))

    soft = node("Softmax", ["s"], ["a"], attribute("axis", 2))
    refused("'y' is a matrix of every frame with every other", soft, node("Identity", ["a"], ["y"]))
    refused("without a softmax", node("MatMul", ["s", "x"], ["y"]))
    refused("rather than those attended to", node("Softmax", ["s"], ["a"], attribute("axis", 1)),
            node("MatMul", ["a", "x"], ["y"]))  # fmt: skip
    refused("a bias of their distance", node("Add", ["s", "k"], ["n"]), node("Softmax", ["n"], ["a"]),
            node("MatMul", ["a", "x"], ["y"]), k=np.array(0.5))  # fmt: skip
    refused("follows one through factors and masks", node("Tanh", ["s"], ["y"]))
    nodes = [node("Transpose", ["x"], ["xt"], attribute("perm", [0, 2, 1])), node("MatMul", ["x", "xt"], ["s"])]
    with pytest.raises(FormatError, match="where it takes something else"):
        cgru.load(built([*nodes, node("Reshape", ["x", "s"], ["y"])], OPEN, 3))
    refused("a number above 0", node("Mul", ["s", "k"], ["n"]), node("Softmax", ["n"], ["y"]), k=np.array(-1.0))


# Sums, numbers of frames, statistics ----------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize(("exclusive", "reverse"), [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_sums_so_far(runtime: Any, axis: int, exclusive: int, reverse: int) -> None:
    more = [attribute("exclusive", exclusive), attribute("reverse", reverse)]
    nodes = [node("CumSum", ["x", "k"], ["y"], *more)]
    net = agrees(runtime, built(nodes, OPEN, 3, k=np.array(axis)), SIZES)
    if not (reverse and axis == 1):
        streams(net, 6)
    # The same of a constant, which is computed when the file is read.
    nodes = [node("CumSum", ["c", "k"], ["s"], *more), node("Add", ["x", "s"], ["y"])]
    agrees(runtime, built(nodes, OPEN, 3, c=arr(1, 1, 6), k=np.array(axis)), SIZES)


def test_the_number_of_each_frame_and_of_all(runtime: Any) -> None:
    """x / (t + 1) · T, as of a mean so far."""
    nodes = [
        node("Shape", ["x"], ["s"]), node("Gather", ["s", "one"], ["t"]),
        node("Range", ["zero", "t", "one"], ["r"]), node("Add", ["r", "one"], ["n"]),
        node("Cast", ["n"], ["f"], attribute("to", 1)), node("Unsqueeze", ["f", "axes"], ["u"]),
        node("Div", ["x", "u"], ["d"]), node("Cast", ["t"], ["tf"], attribute("to", 1)),
        node("Mul", ["d", "tf"], ["y"]),
    ]  # fmt: skip
    constants = {"zero": np.array(0), "one": np.array(1), "axes": np.array([0, 2])}
    agrees(runtime, built(nodes, OPEN, 3, **constants), SIZES)
    nodes[4] = node("Div", ["n", "two"], ["f"])
    with pytest.raises(UnsupportedError, match="as whole numbers"):
        cgru.load(built(nodes, OPEN, 3, two=np.array(2), **constants))


def test_deviation_of_a_sequence(runtime: Any) -> None:
    """√(mean((x − m)²) · T / (T − 1)): torch's std as it is exported."""
    nodes = [
        node("ReduceMean", ["x"], ["m"], attribute("axes", [1])), node("Sub", ["x", "m"], ["c"]),
        node("Mul", ["c", "c"], ["q"]), node("ReduceMean", ["q"], ["v"], attribute("axes", [1])),
        node("Shape", ["x"], ["s"]), node("Gather", ["s", "one"], ["t"]),
        node("Cast", ["t"], ["n"], attribute("to", 1)),
        node("Mul", ["v", "n"], ["vn"]),
        node("Sub", ["n", "unit"], ["less"]),
        node("Div", ["vn", "less"], ["var"]),
        node("Sqrt", ["var"], ["sd"]), node("Div", ["c", "sd"], ["y"]),
    ]  # fmt: skip
    agrees(runtime, built(nodes, OPEN, 3, one=np.array(1), unit=np.array(1.0)), [(2, 9, 6), (3, 5, 6)])


def test_counts_times_fractions_are_not_rounded() -> None:
    rows = Count(1, (BATCH,))
    for made in (lambda: rows * 0.5, lambda: rows + 0.5, lambda: rows // 1.5, lambda: rows % 1.5):
        with pytest.raises(Unfolded):
            made()
    assert rows * 2.0 == Count(2, (BATCH,))


@pytest.mark.parametrize("op", ["ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum"])
def test_reductions_over_time(runtime: Any, op: str) -> None:
    for axes in ([1], [1, 2]):
        nodes = [node("Exp", ["x"], ["e"]), node(op, ["e"], ["y"], attribute("axes", axes), attribute("keepdims", 0))]
        agrees(runtime, built(nodes, OPEN, 2 if axes == [1] else 1), SIZES, near=2e-5)


# Frames made more, fewer or others ---------------------------------------------------------------------------------


def resize(how: Sequence[Any], scales: Sequence[float], rank: int = 3) -> tuple[list[Any], dict[str, Any]]:
    return [node("Resize", ["x", "", "scales"], ["y"], *how)], {"scales": np.array(scales)}


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("coordinates", ["half_pixel", "asymmetric"])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_frames_resampled(runtime: Any, factor: int, coordinates: str, mode: str) -> None:
    """(B, C, T): as torch.nn.functional.interpolate is exported."""
    how = [attribute("mode", mode), attribute("coordinate_transformation_mode", coordinates),
           attribute("nearest_mode", "floor" if coordinates == "asymmetric" else "round_prefer_floor")]  # fmt: skip
    nodes, constants = resize(how, [1.0, 1.0, float(factor)])
    net = agrees(runtime, built(nodes, ("batch", 6, "time"), 3, **constants), [(2, 6, 7), (3, 6, 4), (1, 6, 1)])
    if mode == "nearest":
        streams(net, 6)
    # Within a frame by any factor, more or fewer.
    for scale in (1.5, 0.5, float(factor)):
        nodes, constants = resize(how, [1.0, scale, 1.0])
        agrees(runtime, built(nodes, ("batch", 6, "time"), 3, **constants), [(2, 6, 7)])


def test_frames_resampled_unevenly_are_refused() -> None:
    def refused(says: str, how: dict[str, Any], factor: float = 3.0) -> None:
        nodes, constants = resize([attribute(key, item) for key, item in how.items()], [1.0, 1.0, factor])
        with pytest.raises(UnsupportedError, match=says):
            cgru.load(built(nodes, ("batch", 6, "time"), 3, **constants))

    refused("repeated unevenly", {"coordinate_transformation_mode": "asymmetric"})
    refused("hang on the number of frames", {"mode": "linear", "coordinate_transformation_mode": "align_corners"})
    refused("a whole number of times", {}, 1.5)
    refused("cubic interpolation", {"mode": "cubic"})


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize(("kernel", "strides", "pads"), [
    ((1, 2), (1, 2), (0, 0, 0, 0)), ((2, 2), (2, 2), (0, 0, 0, 0)), ((3, 2), (1, 2), (1, 0, 1, 0)),
    ((2, 1), (1, 1), (0, 0, 0, 0)), ((3, 3), (2, 1), (1, 1, 1, 1)),
])  # fmt: skip
def test_pooling_over_frames_and_their_numbers(
    runtime: Any, op: str, kernel: tuple[int, int], strides: tuple[int, int], pads: tuple[int, ...]
) -> None:
    how = [attribute("kernel_shape", list(kernel)), attribute("strides", list(strides)), attribute("pads", list(pads))]
    content = built([node(op, ["x"], ["y"], *how)], ("batch", 2, "time", 6), 4)
    agrees(runtime, content, [(2, 2, 9, 6), (1, 2, 4, 6)])


@pytest.mark.parametrize(("width", "stride"), [(3, 2), (2, 2), (3, 3)])
def test_pooling_over_time_that_ends_beyond_it(runtime: Any, width: int, stride: int) -> None:
    how = [attribute("kernel_shape", [width]), attribute("strides", [stride]), attribute("ceil_mode", 1)]
    content = built([node("MaxPool", ["x"], ["y"], *how)], ("batch", 6, "time"), 3)
    agrees(runtime, content, [(2, 6, steps) for steps in (5, 6, 7, 8, 9)])


@pytest.mark.parametrize("mode", ["edge", "reflect", "wrap"])
@pytest.mark.parametrize("axis", [1, 2])
def test_padding_with_frames_of_its_own(runtime: Any, mode: str, axis: int) -> None:
    pads = np.zeros(6, np.int64)
    pads[axis], pads[3 + axis] = 2, 1
    content = model(
        graph([node("Pad", ["x", "p"], ["y"], attribute("mode", mode))], [value("y", ("b", "u", "v"))],
              [value("x", OPEN)], initializer=weights(p=pads)), opset_import=[{"version": 19}],
    )  # fmt: skip
    agrees(runtime, content, [(2, 9, 6), (3, 4, 6)])


@pytest.mark.parametrize(("shape", "rank"), [([0, -1, 12], 3), ([-1, 0, 2, 3], 4), ([0, -1, 3], 3), ([0, -1, 2, 1], 4)])
def test_frames_side_by_side_and_in_parts(runtime: Any, shape: list[int], rank: int) -> None:
    content = built([node("Reshape", ["x", "s"], ["y"])], OPEN, rank, s=np.array(shape))
    net = agrees(runtime, content, [(2, 8, 6), (3, 4, 6)])
    x, stream = arr(1, 8, 6), net.stream(1)
    np.testing.assert_array_equal(np.concatenate([stream.feed(x[:, :3]), stream.feed(x[:, 3:])], axis=1), net(x))


def test_frames_by_arithmetic_on_their_number(runtime: Any) -> None:
    """Half as many of twice the size: T // 2 in the shape; and the last T − 3 frames, counted from the end."""
    head = [node("Shape", ["x"], ["s"]), node("Gather", ["s", "zero"], ["b"]), node("Gather", ["s", "one"], ["t"])]
    nodes = [*head, node("Div", ["t", "two"], ["h"]), node("Concat", ["b", "h", "twelve"], ["w"], attribute("axis", 0)),
             node("Reshape", ["x", "w"], ["y"])]  # fmt: skip
    constants = {name: np.array([i]) for name, i in (("zero", 0), ("one", 1), ("two", 2), ("three", 3), ("twelve", 12))}
    agrees(runtime, built(nodes, OPEN, 3, **constants), [(2, 8, 6), (3, 4, 6)])
    nodes = [*head, node("Sub", ["three", "t"], ["n"]), node("Slice", ["x", "n", "end", "one"], ["y"])]
    agrees(runtime, built(nodes, OPEN, 3, end=np.array([2**62]), **constants), [(2, 8, 6), (3, 5, 6)])


# Constants and states -----------------------------------------------------------------------------------------------


def test_weights_computed_from_others(runtime: Any) -> None:
    """g · v / ‖v‖, weight normalisation as exporters without constant folding write it."""
    nodes = [
        node("ReduceL2", ["v", "axes"], ["n"]), node("Div", ["v", "n"], ["u"]), node("Mul", ["u", "g"], ["w"]),
        node("Transpose", ["x"], ["xt"], attribute("perm", [0, 2, 1])), node("Conv", ["xt", "w"], ["c"]),
        node("Transpose", ["c"], ["y"], attribute("perm", [0, 2, 1])),
    ]  # fmt: skip
    arrays = {"v": arr(4, 6, 3), "g": arr(4, 1, 1), "axes": np.array([1, 2])}
    content = model(graph(nodes, [value("y", ("b", "u", 4))], [value("x", OPEN)], initializer=weights(**arrays)),
                    opset_import=[{"version": 18}])  # fmt: skip
    assert [item.op for item in agrees(runtime, content, [(2, 9, 6), (3, 5, 6)]).graph.nodes] == ["conv1d"]


@pytest.mark.parametrize("op", ["Tile", "Expand"])
def test_states_and_values_repeated(runtime: Any, op: str) -> None:
    """A learned initial state for every row, and one number of each row at every frame."""
    nodes = [
        node("Shape", ["x"], ["s"]), node("Gather", ["s", "zero"], ["b"]), node("Gather", ["s", "one"], ["t"]),
        node("Concat", ["one", "b", "one"], ["rows"], attribute("axis", 0)), node(op, ["h", "rows"], ["h0"]),
        node("ReduceMax", ["x"], ["m"], attribute("axes", [1])),
        node("Concat", ["one", "t", "one"], ["steps"], attribute("axis", 0)), node(op, ["m", "steps"], ["mt"]),
        node("Concat", ["x", "mt"], ["both"], attribute("axis", 2)),
        node("Transpose", ["both"], ["xt"], attribute("perm", [1, 0, 2])),
        node("GRU", ["xt", "w", "r", "", "", "h0"], ["y4", "unread"], attribute("hidden_size", 5)),
        node("Squeeze", ["y4", "one"], ["y"]),
    ]  # fmt: skip
    arrays = {"zero": np.array([0]), "one": np.array([1]), "h": arr(1, 1, 5), "w": arr(1, 15, 12), "r": arr(1, 15, 5)}
    agrees(runtime, built(nodes, OPEN, 3, **arrays), SIZES)


def test_an_initial_state_of_another_size_is_refused() -> None:
    """As the exporter of PyTorch 2.13 writes an LSTM with a projection, which it leaves out."""
    nodes = [node("GRU", ["x", "w", "r", "", "", "h"], ["y4"]), node("Squeeze", ["y4", "one"], ["y"])]
    arrays = {"one": np.array([1]), "h": np.zeros((1, 1, 7)), "w": arr(1, 15, 6), "r": arr(1, 15, 5)}
    with pytest.raises(FormatError, match=r"initial_h has the shape \(1, 1, 7\); expected \(1, 'rows', 5\)"):
        cgru.load(built(nodes, ("time", "batch", 6), 3, **arrays))


@pytest.mark.parametrize("shape", [("batch", "time"), (2, 7)])
def test_ids_that_are_padding_are_left_out(runtime: Any, shape: tuple[Any, ...]) -> None:
    """The mean of the rows of a table of those ids that are not 0; of sizes that the file leaves open, or fixes."""
    nodes = [
        node("Gather", ["table", "x"], ["e"]), node("Equal", ["x", "zero"], ["none"]), node("Not", ["none"], ["some"]),
        node("Cast", ["some"], ["f"], attribute("to", 1)), node("Unsqueeze", ["f", "two"], ["m"]),
        node("Mul", ["e", "m"], ["em"]), node("ReduceSum", ["em", "one"], ["total"]),
        node("ReduceSum", ["m", "one"], ["n"]), node("Clip", ["n", "unit"], ["n1"]),
        node("Div", ["total", "n1"], ["y"]),
    ]  # fmt: skip
    arrays = {
        "table": arr(5, 3),
        "zero": np.array(0),
        "one": np.array([1]),
        "two": np.array([2]),
        "unit": np.array(1.0),
    }
    inputs = [value("x", shape, 7)]
    content = model(graph(nodes, [value("y", ("b", 1, 3))], inputs, initializer=weights(**arrays)))
    ids = np.array([[1, 0, 3, 4, 0, 0, 2], [0, 0, 0, 0, 0, 0, 0]])
    net = cgru.load(content, time_axis=1)
    np.testing.assert_allclose(net(ids), ran(runtime, content, {"x": ids})[0][:, 0], rtol=0, atol=1e-6)


def test_several_ids_a_frame(runtime: Any) -> None:
    """Words of the same number of letters, without a time axis; each frame's, with one."""
    for shape, rank in (((2, 4), 3), (("batch", "time", 4), 4)):
        nodes = [node("Gather", ["table", "x"], ["e"]), node("Tanh", ["e"], ["y"])]
        out = value("y", [f"d{i}" for i in range(rank)])
        content = model(graph(nodes, [out], [value("x", shape, 7)], initializer=weights(table=arr(5, 3))))
        made = network(read_model(content), time_axis="frame" if rank == 3 else 1)
        ids = np.arange(8 if rank == 3 else 24).reshape((2, 4) if rank == 3 else (2, 3, 4)) % 5
        (wanted,) = ran(runtime, content, {"x": ids})
        found = onnx_axes.run(made, {"x": ids}, {"y": wanted.shape}, frame=rank == 3)["y"]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


def test_ids_one_hot(runtime: Any) -> None:
    nodes = [node("OneHot", ["x", "depth", "values"], ["y"])]
    arrays = {"depth": np.array(5), "values": np.array([-0.5, 2.0])}
    content = model(graph(nodes, [value("y", ("b", "t", 5))], [value("x", ("batch", "time"), 7)],
                          initializer=weights(**arrays)))  # fmt: skip
    ids = np.array([[1, 0, 3], [4, 0, 2]])
    np.testing.assert_array_equal(cgru.load(content)(ids), ran(runtime, content, {"x": ids})[0])


@pytest.mark.parametrize(
    ("op", "says"),
    [("ArgMax", "numpy.argmax"), ("RandomNormalLike", "every call gives other numbers"), ("NonZero", "how many")],
)
def test_operators_without_an_equal_say_why(op: str, says: str) -> None:
    with pytest.raises(UnsupportedError, match=f"cgru does not run the operator '{op}': .*{says}"):
        cgru.load(built([node(op, ["x"], ["y"])], OPEN, 3))


def test_ids_beside_features_of_the_same_steps(runtime: Any) -> None:
    """Sizes that the file fixes: the ids advance with the features."""
    nodes = [node("Gather", ["table", "k"], ["e"]), node("Concat", ["x", "e"], ["y"], attribute("axis", 2))]
    content = built(nodes, (2, 7, 6), 3, value("k", (2, 7), 7), table=arr(5, 3))
    x, k = arr(2, 7, 6), np.arange(14).reshape(2, 7) % 5
    net = cgru.load(content, time_axis=1)
    np.testing.assert_array_equal(net({"x": x, "k": k}), ran(runtime, content, {"x": x, "k": k})[0])


def of_lengths(out: Sequence[str], *tail: Any, lengths: str = "n") -> bytes:
    """h (T, B, 5) of a GRU that is given the lengths n of rows, and what comes behind; g of one that may not be."""
    nodes = [
        node("GRU", ["x", "w", "r", "", "n"], ["y4"], attribute("hidden_size", 5)),
        node("Squeeze", ["y4", "one"], ["h"]),
        node("GRU", ["h", "r", "r", "", lengths], ["g4", "g_end"], attribute("hidden_size", 5)),
        node("Squeeze", ["g4", "one"], ["g"]), node("Transpose", ["h"], ["hc"], attribute("perm", [1, 2, 0])), *tail,
    ]  # fmt: skip
    arrays = {"one": np.array([1]), "zero": np.array([0]), "w": arr(1, 15, 6), "r": arr(1, 15, 5), "k": arr(5, 5, 3),
              "b": arr(5) + 1, "q": arr(5, 5)}  # fmt: skip
    inputs = [value("x", ("time", "batch", 6)), value("n", ("batch",), 6)]
    return model(graph(nodes, [value("y", out)], inputs, initializer=weights(**arrays)))


CONV = node("Conv", ["hc", "k", "b"], ["c"], attribute("pads", [1, 1]))


@pytest.mark.parametrize(
    ("out", "tail", "lengths"),
    [
        ("bf", [node("ReduceSum", ["h", "zero"], ["y"], attribute("keepdims", 0))], "n"),
        ("tbf", [node("MatMul", ["h", "q"], ["p"]), node("Sigmoid", ["p"], ["y"])], "n"),
        ("bft", [CONV, node("Relu", ["c"], ["y"])], "n"),
        ("tbf", [node("Add", ["g", "h"], ["y"])], ""),
        ("dbf", [node("Identity", ["g_end"], ["y"])], "n"),
    ],
)
def test_rows_of_several_lengths(runtime: Any, out: str, tail: Nodes, lengths: str) -> None:
    """Up to each row's end as ONNX Runtime has it, though it computes behind that too."""
    content, x, n = of_lengths(list(out), *tail, lengths=lengths), arr(7, 3, 6), np.array([7, 4, 2], np.int32)
    (wanted,) = ran(runtime, content, {"x": x, "n": n})
    found = cgru.load(content)(x.transpose(1, 0, 2), lengths=n)
    if "t" not in out:
        np.testing.assert_allclose(found, wanted.reshape(found.shape), rtol=0, atol=2e-6)
        return
    wanted = wanted.transpose([out.index(c) for c in "btf"])
    for i, count in enumerate(n):
        np.testing.assert_allclose(found[i, :count], wanted[i, :count], rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("tail", "lengths"),
    [
        ([node("ReduceMean", ["h"], ["y"], attribute("axes", [0]))], "n"),
        ([node("ReduceMax", ["h"], ["y"], attribute("axes", [0]))], "n"),
        ([node("Softmax", ["h"], ["y"], attribute("axis", 0))], "n"),
        ([CONV, node("Conv", ["c", "k"], ["y"], attribute("pads", [1, 1]))], "n"),
        ([node("MaxPool", ["hc"], ["y"], attribute("kernel_shape", [3]), attribute("pads", [1, 1]))], "n"),
        ([node("ReduceSum", ["g", "zero"], ["y"])], ""),
        ([node("Identity", ["g_end"], ["y"])], ""),
        ([node("Transpose", ["h"], ["hb"], attribute("perm", [1, 0, 2])), node("MatMul", ["hb", "hc"], ["s"]),
          node("Softmax", ["s"], ["a"], attribute("axis", 2)), node("MatMul", ["a", "hb"], ["y"])], "n"),
    ],
)  # fmt: skip
def test_what_counts_behind_the_ends_of_rows_is_refused(tail: Nodes, lengths: str) -> None:
    with pytest.raises(UnsupportedError, match="behind a row's end"):
        cgru.load(of_lengths(["a", "b", "c"], *tail, lengths=lengths))


def test_matrices_that_would_fill_memory_are_refused() -> None:
    """Of identities, triangles and lines, as large as a file cares to say."""
    wide = ("batch", "time", 100_000)
    for nodes, arrays in (
        ([node("CumSum", ["x", "k"], ["y"])], {"k": np.array(1)}),
        ([node("CumSum", ["x", "k"], ["y"])], {"k": np.array(2)}),
        ([node("Tile", ["x", "k"], ["y"])], {"k": np.array([1, 1, 2**40])}),
        ([node("Resize", ["x", "", "k"], ["y"], attribute("mode", "linear"))], {"k": np.array([1.0, 1.0, 2.0])}),
        ([node("Resize", ["x", "", "k"], ["y"])], {"k": np.array([1.0, 2.0**40, 1.0])}),
        ([node("Reshape", ["x", "k"], ["y"])], {"k": np.array([0, -1, 50_000])}),
    ):
        with pytest.raises(CgruError, match=r"at most \d+ are made"):
            cgru.load(built(nodes, wide, 3, **arrays))
