"""Loop and Scan: over time a recurrence of the network's own, of a fixed number written out, anything else refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_side import arr, attribute, graph, model, node, ran, value, weights

import cgru
from cgru.errors import UnsupportedError

FIXTURES = Path(__file__).resolve().parent / "fixtures" / "onnx_keras"
GOLDEN = {key: array for path in sorted(FIXTURES.glob("golden*")) for key, array in np.load(path).items()}
FILES = sorted(path.stem for path in FIXTURES.glob("*.onnx"))
TRACED = [name for name in FILES if name.startswith("traced")]
#: What each of tf2onnx' files becomes: its recurrences, and whether one stays as it is written out.
SCANS = {
    "gru": 1, "gru_fixed": 1, "gru_before": 1, "gru_no_bias": 1, "gru_hard": 1, "gru_backwards": 1, "two_grus": 2,
    "both_ways_gru": 2, "both_ways_lstm": 2, "simple_rnn": 1, "masked_gru": 0, "masked_lstm": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def runtime() -> Any:
    return pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


@pytest.mark.parametrize("name", [name for name in FILES if name not in TRACED])
def test_keras_network(name: str) -> None:
    net = cgru.load(FIXTURES / f"{name}.onnx")
    found = net(GOLDEN[f"{name}|x"])
    np.testing.assert_allclose(found.reshape(GOLDEN[f"{name}|y"].shape), GOLDEN[f"{name}|y"], rtol=0, atol=2e-6)
    if name in SCANS:
        operations = [item.op for item in net.graph.nodes]
        assert operations.count("scan") == SCANS[name]
        assert ("carry" in operations) == (not SCANS[name])
        assert net.backends[0] == "packed"


@pytest.mark.parametrize("name", ["gru", "gru_hard", "masked_gru"])
def test_keras_recurrence_streams(name: str) -> None:
    net = cgru.load(FIXTURES / f"{name}.onnx")
    x, y = GOLDEN[f"{name}|x"], GOLDEN[f"{name}|y"]
    stream = net.stream(2)
    parts = [stream.feed(part) for part in np.split(x, [1, 4], axis=1)]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), y, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", TRACED)
def test_a_recurrence_traced_with_one_step_is_refused(runtime: Any, name: str) -> None:
    """Keras on torch over an open number of steps: the file itself gives something else than Keras does."""
    x, y = GOLDEN[f"{name}|x"], GOLDEN[f"{name}|y"]
    (found,) = ran(runtime, FIXTURES / f"{name}.onnx", {"x": x})
    assert found.shape != y.shape or np.abs(found - y).max() > 0.05
    with pytest.raises(UnsupportedError, match="the first step alone"):
        cgru.load(FIXTURES / f"{name}.onnx")


# By hand --------------------------------------------------------------------------------------------------------------

W, R, B = arr(5, 4), arr(4, 4), arr(4)


def looped(
    body: list[Any], states: dict[str, Any], more: list[str], shape: tuple[Any, ...] = ("batch", "time", 5),
    condition: list[Any] | None = None, **constants: Any,
) -> bytes:  # fmt: skip
    """x → frames (T, B, 5) → Loop of T over ``body``, which reads ``i``, ``states`` (name → its first value) and gives
    ``name_next`` of each, and ``more``; outputs are the states at the end and ``more`` over time."""
    inner = graph(
        [*(condition or [node("Identity", ["go"], ["on"])]), *body],
        [value("on", (), 9), *(value(f"{name}_next", ("batch", 4)) for name in states), *(value(n, ()) for n in more)],
        [value("i", (), 7), value("go", (), 9), *(value(name, ("batch", 4)) for name in states)],
    )
    nodes = [
        node("Transpose", ["x"], ["frames"], attribute("perm", [1, 0, 2])), node("Shape", ["frames"], ["shape"]),
        node("Gather", ["shape", "zero"], ["count"]),
        node("Loop", ["count", "yes", *states.values()], [*(f"{name}_last" for name in states),
             *(f"{name}_all" for name in more)], {"name": "body", "type": 5, "g": inner}, name="loop"),
    ]  # fmt: skip
    nodes += [node("Transpose", [f"{name}_all"], [f"{name}_out"], attribute("perm", [1, 0, 2])) for name in more]
    made = weights(zero=np.array(0), one=np.array(1), yes=np.array(True), w=W, r=R, b=B, **constants)
    outputs = [value(f"{name}_last", ("batch", 4)) for name in states]
    outputs += [value(f"{name}_out", ("batch", "time", 4)) for name in more]
    return model(graph(nodes, outputs, [value("x", shape)], initializer=made))


RNN = [
    node("Gather", ["frames", "i"], ["x_t"]), node("MatMul", ["x_t", "w"], ["wx"]), node("MatMul", ["h", "r"], ["rh"]),
    node("Add", ["wx", "rh"], ["s"]), node("Add", ["s", "b"], ["sb"]), node("Tanh", ["sb"], ["h_next"]),
    node("Identity", ["h_next"], ["y"]),
]  # fmt: skip


def agrees(runtime: Any, content: bytes, x: np.ndarray) -> cgru.Model:
    wanted = ran(runtime, content, {"x": x})
    net = cgru.load(content)
    found = net(x)
    for one, other in zip(found.values(), wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-6)
    return net


@pytest.mark.parametrize(
    ("start", "shape"),
    [*((start, ("batch", "time", 5)) for start in ("zeros", "one row", "computed")),
     *((start, (3, 6, 5)) for start in ("zeros", "one row", "numbers"))],
)  # fmt: skip
def test_a_loop_begins_with_any_state(runtime: Any, start: str, shape: tuple[Any, ...]) -> None:
    first = {"zeros": np.zeros((1, 4)), "one row": arr(1, 4), "numbers": np.repeat(arr(1, 4), 3, 0)}.get(start)
    content = looped(RNN, {"h": "h0" if first is not None else "start"}, ["y"], shape, h0=first if first is not None
                     else np.zeros((1, 4)))  # fmt: skip
    if start == "computed":  # what the first frame gives
        import onnx

        made = onnx.load_from_string(content)
        extra = [onnx.helper.make_node("Gather", ["frames", "zero"], ["x_0"]),
                 onnx.helper.make_node("MatMul", ["x_0", "w"], ["start"])]  # fmt: skip
        for item in extra[::-1]:
            made.graph.node.insert(1, item)
        content = made.SerializeToString()
    elif start != "numbers":  # (1, 4) becomes (B, 4) after a step: ONNX Runtime takes it, cgru wants a shape that stays
        import onnx

        made = onnx.load_from_string(content)
        spread = [onnx.helper.make_node("Shape", ["x"], ["xs"]),
                  onnx.helper.make_node("Slice", ["xs", "zeros1", "ones1"], ["rows"]),
                  onnx.helper.make_node("Concat", ["rows", "four"], ["hs"], axis=0),
                  onnx.helper.make_node("Expand", ["h0", "hs"], ["start"])]  # fmt: skip
        for name, number in (("zeros1", 0), ("ones1", 1), ("four", 4)):
            made.graph.initializer.append(onnx.numpy_helper.from_array(np.array([number]), name))
        for item in spread[::-1]:
            made.graph.node.insert(1, item)
        made.graph.node[-2].input[2] = "start"
        content = made.SerializeToString()
    net = agrees(runtime, content, arr(3, 6, 5))
    assert "scan" in [item.op for item in net.graph.nodes]


def test_a_cell_that_is_none_is_carried(runtime: Any) -> None:
    body = [*RNN[:5], node("Sin", ["sb"], ["h_next"]), RNN[6]]
    content = looped(body, {"h": "h0"}, ["y"], (3, 6, 5), h0=np.zeros((3, 4)))
    net = agrees(runtime, content, arr(3, 6, 5))
    operations = [item.op for item in net.graph.nodes]
    assert "carry" in operations
    assert "scan" not in operations


def test_a_state_that_is_read_elsewhere_stays_carried(runtime: Any) -> None:
    """The state of the step before is given: no scan has that."""
    content = looped([*RNN[:6], node("Identity", ["h"], ["y"])], {"h": "h0"}, ["y"], (3, 6, 5), h0=np.zeros((3, 4)))
    net = agrees(runtime, content, arr(3, 6, 5))
    assert "carry" in [item.op for item in net.graph.nodes]


def test_what_is_no_recurrence_over_time_is_refused() -> None:
    def refused(says: str, body: list[Any], **more: Any) -> None:
        with pytest.raises(UnsupportedError, match=says):
            cgru.load(looped(body, {"h": "h0"}, ["y"], h0=np.zeros((1, 4)), **more))

    far = [node("ReduceMax", ["wx"], ["m"]), node("Less", ["m", "limit"], ["on"])]
    refused("end it before its last", [*RNN], condition=far, limit=np.array(3.0))
    # Less(i, 3): three iterations, whatever the number of steps is.
    refused("end it before its last", [*RNN], condition=[node("Less", ["i", "three"], ["on"])], three=np.array(3))
    whole = node("ReduceSum", ["frames", "axis"], ["x_sum"], attribute("keepdims", 0))
    refused("whole sequence 'frames' at each step", [whole, *RNN], axis=np.array([0]))


def test_a_loop_of_a_fixed_number_is_written_out(runtime: Any) -> None:
    """Three iterations of a power of a matrix, inside every frame; what each gave is kept."""
    inner = graph(
        [node("Identity", ["go"], ["on"]), node("MatMul", ["a", "r"], ["p"]), node("Tanh", ["p"], ["a_next"]),
         node("Identity", ["a_next"], ["kept"])],
        [value("on", (), 9), value("a_next", ("batch", "time", 4)), value("kept", ("batch", "time", 4))],
        [value("i", (), 7), value("go", (), 9), value("a", ("batch", "time", 4))],
    )  # fmt: skip
    body = {"name": "body", "type": 5, "g": inner}
    nodes = [node("Loop", ["three", "", "x"], ["y", "all"], body), node("ReduceMax", ["all"], ["z"],
             attribute("axes", [0]), attribute("keepdims", 0))]  # fmt: skip
    outputs = [value(name, ("batch", "time", 4)) for name in "yz"]
    made = weights(three=np.array(3), r=R)
    content = model(graph(nodes, outputs, [value("x", ("batch", "time", 4))], initializer=made))
    agrees(runtime, content, arr(2, 6, 4))


@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("back", [0, 1])
def test_scan(runtime: Any, reverse: int, back: int) -> None:
    inner = graph(
        [*RNN[1:6], node("Identity", ["h_next"], ["y"])], [value("h_next", ("batch", 4)), value("y", ("batch", 4))],
        [value("h", ("batch", 4)), value("x_t", ("batch", 5))],
    )  # fmt: skip
    nodes = [
        node("Shape", ["x"], ["xs"]), node("Slice", ["xs", "zeros", "ones"], ["rows"]),
        node("Concat", ["rows", "four"], ["hs"], attribute("axis", 0)), node("ConstantOfShape", ["hs"], ["h0"]),
        node("Scan", ["h0", "x"], ["h_last", "y_all"], {"name": "body", "type": 5, "g": inner},
             attribute("num_scan_inputs", 1), attribute("scan_input_axes", [1]), attribute("scan_output_axes", [1]),
             attribute("scan_input_directions", [reverse]), attribute("scan_output_directions", [back])),
    ]  # fmt: skip
    made = weights(zeros=np.array([0]), ones=np.array([1]), four=np.array([4]), w=W, r=R, b=B)
    outputs = [value("h_last", ("batch", 4)), value("y_all", ("batch", "time", 4))]
    content = model(graph(nodes, outputs, [value("x", ("batch", "time", 5))], initializer=made))
    net = agrees(runtime, content, arr(3, 6, 5))
    assert "scan" in [item.op for item in net.graph.nodes]


def test_sequences_turned_round(runtime: Any) -> None:
    """ReverseSequence over time, and along an axis of each frame; of a part of either it is refused."""
    nodes = [
        node("Shape", ["x"], ["xs"]), node("Gather", ["xs", "zero"], ["b"]), node("Gather", ["xs", "one"], ["t"]),
        node("Unsqueeze", ["b", "front"], ["b1"]), node("Expand", ["t", "b1"], ["lengths"]),
        node("ReverseSequence", ["x", "lengths"], ["y"], attribute("batch_axis", 0), attribute("time_axis", 1)),
    ]  # fmt: skip
    made = weights(zero=np.array(0), one=np.array(1), front=np.array([0]))
    content = model(graph(nodes, [value("y", ("batch", "time", 4))], [value("x", ("batch", "time", 4))],
                          initializer=made))  # fmt: skip
    x = arr(2, 6, 4)
    np.testing.assert_array_equal(cgru.load(content)(x), ran(runtime, content, {"x": x})[0])
    back = [node("Slice", ["x", "last", "none", "axis", "last"], ["y"])]
    content = model(graph(back, [value("y", ("batch", "time", 4))], [value("x", ("batch", "time", 4))],
                          initializer=weights(last=np.array([-1]), none=np.array([-(2**63)]), axis=np.array([1])))
                    )  # fmt: skip
    np.testing.assert_array_equal(cgru.load(content)(x), x[:, ::-1])
    part = model(graph([node("ReverseSequence", ["x", "lengths"], ["y"], attribute("batch_axis", 0), attribute(
        "time_axis", 1))], [value("y", (2, 6, 4))], [value("x", (2, 6, 4))], initializer=weights(
            lengths=np.array([6, 3]))))  # fmt: skip
    with pytest.raises(UnsupportedError, match="sequence_lens other than"):
        cgru.load(part, time_axis=1)


# One step of a cell, written out -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["GRUCell", "LSTMCell", "RNNCell"])
def test_a_step_of_a_cell_becomes_a_recurrence(tmp_path: Path, kind: str) -> None:
    """torch.onnx.export writes torch.nn.GRUCell and its kin as products, slices and activations."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    pytest.importorskip("onnx", reason="onnx is not installed")
    torch.manual_seed(5)
    cell = getattr(torch.nn, kind)(5, 6)
    states = [torch.zeros(3, 6) for _ in range(1 + (kind == "LSTMCell"))]

    class Step(torch.nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.cell = cell

        def forward(self, x: Any, *states: Any) -> Any:
            made = self.cell(x, states if len(states) > 1 else states[0])
            made = made if isinstance(made, tuple) else (made,)
            return (made[0] * 2, *made)

    module, names = Step().eval(), ["x", "h", "c"][: 1 + len(states)]
    outputs = ["y", "hn", "cn"][: 1 + len(states)]
    torch.onnx.export(module, (torch.randn(3, 5), *states), str(tmp_path / "step.onnx"), input_names=names,
                      output_names=outputs, dynamic_axes={n: {0: "batch"} for n in names}, dynamo=False)  # fmt: skip
    x, wanted = torch.randn(3, 7, 5), []
    with torch.no_grad():
        for t in range(7):
            y, *states = module(x[:, t], *states)
            wanted.append(y.numpy())
    net = cgru.load(tmp_path / "step.onnx")
    assert [item.op for item in net.graph.nodes].count("scan") == 1
    assert "carry" not in [item.op for item in net.graph.nodes]
    np.testing.assert_allclose(net(x.numpy()), np.stack(wanted, axis=1), rtol=0, atol=2e-6)
