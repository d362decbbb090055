"""Networks written as ONNX files: checked by onnx, run by ONNX Runtime, and read back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_side import ran
from operation_cases import CASES
from test_operations import drawn, graph_of

import cgru
from cgru.errors import CgruError, UnsupportedError
from cgru.formats.writers.onnx import to_bytes

FIXTURES = Path(__file__).resolve().parent / "fixtures" / "onnx"
RNG = np.random.default_rng(23)


def arr(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) * 0.4).astype(np.float32)


def rnn(kind: Any, gates: int, inputs: int, units: int, **options: Any) -> Any:
    arrays = (arr(gates * units, inputs), arr(gates * units, units), arr(gates * units), arr(gates * units))
    return kind.from_arrays(*arrays, **options)


def branched() -> cgru.Graph:
    g = cgru.Graph()
    x = g.input(6)
    left = {"weight": arr(6, 1, 3), "bias": arr(6)}
    y = g.conv1d(x, units=6, width=3, groups=6, left=2, activation="relu", weights=left)
    y = g.scale_shift(g.add(x, y), weights={"scale": arr(6), "shift": arr(6)})
    h = g.layer(rnn(cgru.GRU, 3, 6, 8), y)
    h = g.layer_norm(g.concat(h, g.slice(x, start=1, stop=4)), weights={"weight": arr(11), "bias": arr(11)})
    half = g.constant(features=(1,), weights={"value": np.array([0.5], np.float32)})
    h = g.mul(g.clip(h, low=-1.0, high=1.0), half)
    folded = g.reshape(g.transpose(g.reshape(h, features=(11, 1)), order=(1, 0)), features=(11,))
    g.output(g.sub(folded, g.unary(h, kind="abs"), name="y"), g.pool_whole(h, kind="mean", name="mean"))
    return g


NETWORKS: dict[str, Callable[[], cgru.Model]] = {
    "gru": lambda: cgru.Model([rnn(cgru.GRU, 3, 5, 7), cgru.Dense(arr(3, 7), arr(3), activation="sigmoid")]),
    "gru_before": lambda: cgru.Model([rnn(cgru.GRU, 3, 5, 7, reset="before")]),
    "lstm": lambda: cgru.Model([rnn(cgru.LSTM, 4, 5, 7), rnn(cgru.LSTM, 4, 7, 4)]),
    "rnn": lambda: cgru.Model([rnn(cgru.RNN, 1, 5, 7), cgru.Dense(arr(2, 7), None, activation="softmax")]),
    "branched": lambda: cgru.Model(branched()),
}


@pytest.fixture(scope="module")
def onnx() -> Any:
    return pytest.importorskip("onnx", reason="onnx is not installed")


@pytest.fixture(scope="module")
def runtime() -> Any:
    return pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


def same(onnx: Any, runtime: Any, net: cgru.Model, path: Path, x: np.ndarray) -> None:
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: x})
    back, wanted = cgru.load(path)(x), net(x)
    wanted = list(wanted.values()) if isinstance(wanted, dict) else [wanted]
    back = list(back.values()) if isinstance(back, dict) else [back]
    for one, other, array in zip(found, back, wanted, strict=True):
        np.testing.assert_allclose(one, array, rtol=0, atol=2e-6)
        np.testing.assert_allclose(other, array, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_saved_network_runs_elsewhere(onnx: Any, runtime: Any, tmp_path: Path, name: str) -> None:
    net = NETWORKS[name]()
    net.save(tmp_path / "net.onnx")
    same(onnx, runtime, net, tmp_path / "net.onnx", arr(3, 9, 6 if name == "branched" else 5))


#: What ONNX has no words for: cases under a mask, and these.
NOT_IN_ONNX = {
    "atan2": "atan2 cannot be written", "carried": "cannot be written", "carry": "cannot be written",
    "mask_and": "a mask has no place", "pad_time": "gone round", "scan_inner": "the memory at every step",
    "positions": "cannot be written", "unary": "cannot be written",
}  # fmt: skip


@pytest.mark.parametrize("op", sorted(CASES))
def test_every_operation(onnx: Any, runtime: Any, op: str) -> None:
    """Every case of the table of operations: checked by onnx, and ONNX Runtime gives what cgru gives."""
    written = 0
    for case in CASES[op]:
        net = cgru.Model(graph_of(case))
        inputs, _ = drawn(case, 3)
        problem, content = "", b""
        try:
            content = to_bytes(net)
        except UnsupportedError as error:
            problem = str(error)
        if problem:
            assert case.mask or NOT_IN_ONNX.get(op, "?") in problem, problem
            continue
        written += 1
        onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
        (found,) = ran(runtime, content, inputs)
        wanted: Any = net(inputs if len(inputs) > 1 else inputs["a"])
        np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=3e-6, err_msg=f"{op} {case}")
    assert written or op in ("atan2", "carried", "carry", "mask_and", "apply_mask", "positions")


@pytest.mark.parametrize("name", ["normed", "spotter", "residual", "causal"])
def test_what_was_read_is_written_again(onnx: Any, runtime: Any, tmp_path: Path, name: str) -> None:
    net = cgru.load(FIXTURES / f"{name}.torchscript.onnx")
    net.save(tmp_path / "net.onnx")
    same(onnx, runtime, net, tmp_path / "net.onnx", np.load(FIXTURES / "golden.npz")[f"{name}|x"])


def test_what_onnx_cannot_say_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="int8; save float32"):
        cgru.Model([rnn(cgru.GRU, 3, 5, 7)]).quantize("int8").save(tmp_path / "net.onnx")
    with pytest.raises(UnsupportedError, match="mgu"):
        cgru.Model([cgru.MGU.from_arrays(arr(14, 5), arr(14, 7), arr(14), arr(14))]).save(tmp_path / "net.onnx")
    with pytest.raises(CgruError, match="cannot be written"):
        cgru.Model([rnn(cgru.GRU, 3, 5, 7)]).save(tmp_path / "no" / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_convert_from_and_to_onnx(onnx: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cgru.cli.commands import main

    source, native, back = FIXTURES / "normed.torchscript.onnx", tmp_path / "a.safetensors", tmp_path / "b.onnx"
    assert main(["convert", str(source), str(native)]) == 0
    assert main(["convert", str(native), str(back)]) == 0
    assert main(["info", str(back)]) == 0
    assert "scan" in capsys.readouterr().out
    x = np.load(FIXTURES / "golden.npz")["normed|x"]
    np.testing.assert_array_equal(cgru.load(native)(x), cgru.load(source)(x))
    np.testing.assert_allclose(cgru.load(back)(x), cgru.load(source)(x), rtol=0, atol=1e-6)
    onnx.checker.check_model(onnx.load(back))
