"""What torch.onnx.export writes, of both kinds and with axes open or fixed, against what PyTorch computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cgru
from cgru.errors import UnsupportedError

FIXTURES = Path(__file__).resolve().parent / "fixtures" / "onnx"
GOLDEN = dict(np.load(FIXTURES / "golden.npz").items())
FILES = sorted(path.name for path in FIXTURES.glob("*.onnx"))


@pytest.mark.parametrize("file", [name for name in FILES if not name.startswith("stepped")])
def test_exported_network(file: str) -> None:
    name = file.partition(".")[0]
    inputs = {key.partition("|")[2]: array for key, array in GOLDEN.items() if key.startswith(f"{name}|")}
    wanted = inputs.pop("y")
    # Two sequences of fixed lengths: which of them advances with the network is not in the file.
    net = cgru.load(FIXTURES / file, time_axis={"x": 1, "z": 1} if name == "translator" else None)
    found = net(inputs if len(inputs) > 1 else inputs["x"])
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", ["torchscript", "dynamo"])
def test_exported_step_carries_its_state(kind: str) -> None:
    """From the state that PyTorch began with: the step's output, and the state it ends in."""
    net = cgru.load(FIXTURES / f"stepped.{kind}.onnx")
    begin = {array: GOLDEN[f"stepped|{array}"] for array in "hc"}
    names = list(net.state(batch=3).arrays())
    assert [name[-2:] for name in names] == [".h", ".c"] * 2
    given = {name: begin[name[-1]][i // 2][None] for i, name in enumerate(names)}
    y, state = net.run(GOLDEN["stepped|x"][:, None], given)
    np.testing.assert_allclose(y[:, 0], GOLDEN["stepped|y"], rtol=0, atol=2e-6)
    for i, (name, array) in enumerate(state.arrays().items()):
        np.testing.assert_allclose(array[0], GOLDEN[f"stepped|{name[-1]}n"][i // 2], rtol=0, atol=2e-6)


def test_exported_step_of_a_fixed_batch_is_a_frame_of_rows() -> None:
    x = np.random.default_rng(1).standard_normal((3, 4, 5)).astype(np.float32)
    rows = cgru.load(FIXTURES / "stepped.torchscript.onnx")(x)
    frames = cgru.load(FIXTURES / "stepped.fixed.onnx")(x.transpose(1, 0, 2))
    np.testing.assert_allclose(frames.transpose(1, 0, 2), rows, rtol=0, atol=2e-6)


def test_sequences_of_two_lengths_are_asked_about() -> None:
    with pytest.raises(UnsupportedError, match="time_axis="):
        cgru.load(FIXTURES / "translator.fixed.onnx")
