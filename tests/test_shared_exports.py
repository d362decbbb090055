"""Ordinary PyTorch modules and Keras architectures, as people write them, come over live: right, or refused by name.

Their definitions are no part of this repository: they are read from ``../shared/models/exports`` beside the checkout.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cgru

EXPORTS = Path(__file__).resolve().parents[2] / "shared" / "models" / "exports"
if not EXPORTS.is_dir():
    pytest.skip("the definitions are not here (../shared/models beside the checkout)", allow_module_level=True)
os.environ.setdefault("KERAS_BACKEND", "torch")
torch = pytest.importorskip("torch", reason="PyTorch is not installed; pip install cgru[parity]")
keras = pytest.importorskip("keras", reason="Keras is not installed; pip install cgru[parity]")

pytestmark = pytest.mark.filterwarnings("ignore")


def definitions(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXPORTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MODULES, ARCHITECTURES = definitions("torch_modules"), definitions("keras_models").MODELS

#: What cannot stream, because it reads the whole sequence: backwards, or all of it at once.
WHOLE = {"KWS", "Attn"} | {
    "imdb_bilstm", "imdb_mask", "imdb_mask_fixed", "globalmax", "returnstate_only", "reset_before", "attention",
    "bidir_sum",
}  # fmt: skip


def agrees(net: cgru.Model, x: np.ndarray, want: np.ndarray) -> None:
    np.testing.assert_allclose(net(x), want, rtol=0, atol=2e-6)


def streams(name: str, net: cgru.Model, x: np.ndarray) -> None:
    """To the bit, or refused."""
    if name in WHOLE:
        with pytest.raises(cgru.UnsupportedError, match=r"cannot stream"):
            net.stream(len(x))
        return
    stream, whole = net.stream(len(x)), net(x)
    parts = [stream.feed(x[:, cut]) for cut in (slice(0, 1), slice(1, 4), slice(4, None))]
    # What hangs on the last state alone is given whole by every chunk, of the steps so far.
    last = parts[-1].shape == whole.shape
    np.testing.assert_array_equal(parts[-1] if last else np.concatenate(parts, axis=1), whole)


@pytest.mark.parametrize("name", MODULES.kinds)
def test_torch(name: str) -> None:
    torch.manual_seed(0)
    module, shape = getattr(MODULES, name)().eval(), MODULES.kinds[name]
    x = torch.randint(0, 30, (4, 9)) if shape is None else torch.randn(*shape)
    with torch.no_grad():
        y = module(x).numpy()
    net, given = cgru.from_torch(module, example=x), x.numpy()
    if name == "NotBatchFirst":  # it takes (T, B, I); cgru always has rows first
        given, y = given.swapaxes(0, 1), y.swapaxes(0, 1)
    agrees(net, given, y)
    streams(name, net, given)


@pytest.mark.parametrize("frames", [9, 6])
def test_torch_with_two_inputs(frames: int) -> None:
    """An encoder over 9 frames, whose last state begins a decoder over as many, or others."""
    torch.manual_seed(1)
    module, x, z = MODULES.Seq2Seq().eval(), torch.randn(3, 9, 8), torch.randn(3, frames, 4)
    with torch.no_grad():
        y = module(x, z).numpy()
    net: Any = cgru.from_torch(module, example=(x, z))
    np.testing.assert_allclose(net({"x": x.numpy(), "z": z.numpy()}), y, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_keras(name: str) -> None:
    model, x = ARCHITECTURES[name]()
    many = x if isinstance(x, (list, tuple)) else [x]
    made = model(x)
    want = [keras.ops.convert_to_numpy(y) for y in (made if isinstance(made, (list, tuple)) else [made])]
    net: Any = cgru.from_keras(model)
    if len(many) > 1 or len(want) > 1:
        found = net(dict(zip(net.input_names, many, strict=True)) if len(many) > 1 else x)
        for y, expected in zip(found.values() if isinstance(found, dict) else [found], want, strict=True):
            np.testing.assert_allclose(y, expected, rtol=0, atol=2e-6)
        return
    agrees(net, x, want[0])
    streams(name, net, x)
