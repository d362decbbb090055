"""Files that ONNX Runtime's quantization tools wrote: codes and scales are kept, rounding is done as the file says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_side import arr, attribute, graph, model, node, ran, tensor, value, weights

import cgru
from cgru.errors import UnsupportedError
from cgru.formats.containers.onnx_file import read_model
from cgru.spec.precision import Stored

FIXTURES = Path(__file__).resolve().parent / "fixtures" / "onnx"
GOLDEN = dict(np.load(FIXTURES / "golden.npz").items())
NAMES = ("normed", "spotter", "residual")


@pytest.fixture(scope="module")
def runtime() -> Any:
    pytest.importorskip("onnx", reason="onnx is not installed")
    return pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


@pytest.fixture(scope="module")
def tools(runtime: Any) -> Any:
    return pytest.importorskip("onnxruntime.quantization", reason="onnxruntime's quantization tools are not there")


class Samples:
    """What a static quantization is measured on."""

    def __init__(self) -> None:
        self.rest: Iterator[dict[str, np.ndarray]] = iter([{"x": arr(2, 9, 5)} for _ in range(3)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.rest, None)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_static(runtime: Any, tools: Any, tmp_path: Path, name: str, form: str) -> None:
    """Each number rounded by the file's scales: equal, but for a rounding that falls on the other side."""
    path = tmp_path / "quantized.onnx"
    tools.quantize_static(str(FIXTURES / f"{name}.torchscript.onnx"), str(path), Samples(),
                          quant_format=tools.QuantFormat[form], weight_type=tools.QuantType.QInt8)  # fmt: skip
    x = GOLDEN[f"{name}|x"]
    (wanted,) = ran(runtime, path, {"x": x})
    found = cgru.load(path)(x)
    differences = np.abs(found - wanted)
    assert np.mean(differences < 2e-6) > 0.9
    assert differences.max() < 0.03
    # The rounding is there: the float network gives something else.
    assert np.mean(np.abs(found - GOLDEN[f"{name}|y"]) < 2e-6) < 0.2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["QInt8", "QUInt8", "per channel"])
def test_dynamic(runtime: Any, tools: Any, tmp_path: Path, name: str, kind: str) -> None:
    """Rounding by what is at hand differs; the weights are the file's."""
    path = tmp_path / "quantized.onnx"
    tools.quantize_dynamic(str(FIXTURES / f"{name}.torchscript.onnx"), str(path), per_channel=kind == "per channel",
                           weight_type=tools.QuantType["QUInt8" if kind == "QUInt8" else "QInt8"])  # fmt: skip
    x, float_y = GOLDEN[f"{name}|x"], GOLDEN[f"{name}|y"]
    (wanted,) = ran(runtime, path, {"x": x})
    net = cgru.load(path)
    found = net(x)
    size = float(np.abs(float_y).max())
    assert np.abs(found - wanted).max() < 0.02 * size
    assert np.abs(found - float_y).max() < max(0.02 * size, 2 * float(np.abs(wanted - float_y).max()))
    assert "rounded to 8 bits" in str(net)
    # What cgru's int8 can hold are the codes and scales of the file.
    file = read_model(path).graph
    codes = {array.tobytes() for array in file.initializers.values() if array.dtype == np.int8 and array.ndim >= 2}
    held = [item for weights_ in net.store.values() for item in weights_.stored().values()
            if isinstance(item, Stored)]  # fmt: skip
    assert bool(held) == (kind != "QUInt8" or name == "spotter")
    scales = np.concatenate([array.reshape(-1) for array in file.initializers.values() if array.dtype == np.float32])
    for item in held:
        assert item.scale is not None
        assert np.isin(item.scale, scales).all()
        if name != "spotter":  # whose gates stand in another order
            assert np.ascontiguousarray(item.values.T).tobytes() in codes


def test_lstm_of_codes_has_the_weights_of_the_file(runtime: Any, tools: Any, tmp_path: Path) -> None:
    """Widened, they are (code − zero point) · scale of each gate in its place."""
    path = tmp_path / "quantized.onnx"
    tools.quantize_dynamic(str(FIXTURES / "spotter.torchscript.onnx"), str(path), weight_type=tools.QuantType.QInt8)
    records = read_model(path).graph
    (item, *_) = [item for item in records.nodes if item.op == "DynamicQuantizeLSTM"]
    of = records.initializers
    net = cgru.load(path)
    scan = next(item for item in net.graph.nodes if item.op == "scan")
    arrays = net.store[scan.weights].arrays()
    for place, scale, key in ((1, 8, "weight_ih"), (2, 10, "weight_hh")):
        wide = of[item.inputs[place]][0].T.astype(np.float64) * of[item.inputs[scale]].reshape(-1)
        i, o, f, c = np.split(wide, 4)
        np.testing.assert_allclose(arrays[key], np.concatenate([i, f, c, o]), rtol=1e-6)


def test_a_scale_of_each_channel(runtime: Any) -> None:
    made = weights(scale=np.array([0.1, 0.02, 0.3, 0.05], np.float32))
    made.append(tensor("zero", data_type=3, dims=[4], raw_data=np.array([0, 3, -5, 0], np.int8).tobytes()))
    nodes = [node("QuantizeLinear", ["x", "scale", "zero"], ["q"], attribute("axis", -1)),
             node("DequantizeLinear", ["q", "scale", "zero"], ["y"], attribute("axis", -1))]  # fmt: skip
    content = model(graph(nodes, [value("y", ("b", "t", 4))], [value("x", ("b", "t", 4))], initializer=made))
    x = 5 * arr(2, 6, 4)
    np.testing.assert_allclose(cgru.load(content)(x), ran(runtime, content, {"x": x})[0], rtol=0, atol=1e-6)


def test_codes_that_something_else_is_done_with_are_refused() -> None:
    def refused(says: str, *nodes: Any, **arrays: Any) -> None:
        first = node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])
        content = model(graph([first, *nodes], [value("y", ("b", "t", 4))], [value("x", ("b", "t", 4))],
                              initializer=weights(**arrays)))  # fmt: skip
        with pytest.raises(UnsupportedError, match=says):
            cgru.load(content)

    refused("not scaled back", node("DequantizeLinear", ["q", "s", "z"], ["y"]))
    refused("codes that more is done with", node("Mul", ["x", "s"], ["y"]))
    product = node("MatMulInteger", ["q", "w", "z"], ["p"])
    refused("not scaled back", product, node("Cast", ["p"], ["y"], attribute("to", 1)), w=np.eye(4, dtype=np.int64))
    refused("not scaled back", product, node("Cast", ["p"], ["c"], attribute("to", 1)),
            node("Mul", ["c", "k"], ["y"]), w=np.eye(4, dtype=np.int64), k=np.array(2.0))  # fmt: skip
    back = node("Mul", ["c", "s"], ["m"])
    refused("codes that more is done with", product, node("Cast", ["p"], ["c"], attribute("to", 1)), back,
            node("Mul", ["m", "s2"], ["y"]), node("Mul", ["s", "x"], ["s2"]), w=np.eye(4, dtype=np.int64))  # fmt: skip
