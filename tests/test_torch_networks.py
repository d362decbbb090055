"""Networks as people write them in PyTorch come over whole, right on other sizes than the example's, or by name not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch_networks import CASES, Case

import cgru
from cgru.errors import UnsupportedError

torch: Any = pytest.importorskip("torch", reason="PyTorch is not installed: pip install cgru[parity]")
nn: Any = torch.nn

#: What cgru has no equal of, and what it says of it.
REFUSED = {
    "WaveRNN": r"inputs have different numbers of frames.*|cat \(torch_networks\.py:\d+: x = torch\.cat",
    "AWD-LSTM": r"torch\.export cannot follow its forward\(\): .*weight_hh_l0",
}


def made(case: str) -> tuple[Case, Any]:
    torch.manual_seed(3)
    found = CASES[case]
    module = found.make().eval()
    for part in module.modules():
        if getattr(part, "running_mean", None) is not None:
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    return found, module


def ours(array: Any, axes: str) -> np.ndarray:
    """torch's array with rows first, then frames, then features."""
    order = [axes.index(c) for c in "BT" if c in axes] + [i for i, c in enumerate(axes) if c == "F"]
    return np.ascontiguousarray(array.detach().numpy().transpose(order))


def outputs(found: Any) -> list[Any]:
    return list(found.values()) if isinstance(found, dict) else list(found) if isinstance(found, tuple) else [found]


def exact(module: Any, inputs: tuple[Any, ...]) -> list[Any]:
    """What the module gives in float64; tensors that it makes are float64 as well."""
    torch.set_default_dtype(torch.float64)
    try:
        wide = [x.double() if x.is_floating_point() else x for x in inputs]
        with torch.no_grad():
            return outputs(module.double()(*wide))
    finally:
        torch.set_default_dtype(torch.float32)
        module.float()


@pytest.mark.parametrize("case", [case for case in CASES if case not in REFUSED])
def test_the_network_is_the_module_on_other_rows_and_steps(case: str) -> None:
    found, module = made(case)
    net: Any = cgru.from_torch(module, example=found.inputs(4, found.steps[0]))
    assert "verified against the module on the example" in str(net)
    inputs = found.inputs(3, found.steps[1])
    with torch.no_grad():
        want = outputs(module(*inputs))
    right = exact(module, inputs)
    counts = next((x.numpy() for x, axes in zip(inputs, found.takes, strict=True) if axes == "L"), None)
    arrays = [ours(x, axes) for x, axes in zip(inputs, found.takes, strict=True) if axes != "L"]
    given = dict(zip(net.input_names, arrays, strict=True)) if len(arrays) > 1 else arrays[0]
    got = outputs(net(given, lengths=counts))
    for mine, theirs, true, axes in zip(got, want, right, found.gives, strict=False):
        axes = f"{axes}F"[: theirs.ndim]
        near, best = ours(theirs, axes), ours(true, axes)
        mine = mine.reshape(near.shape)
        shown: Any = slice(None)
        if counts is not None and "T" in axes:
            shown = np.arange(near.shape[1]) < counts[:, None]
        error = np.abs(mine - best)[shown].max()
        assert error <= max(2e-6, 2 * np.abs(near - best)[shown].max())
    assert len(got) >= len(found.gives)


@pytest.mark.parametrize("case", REFUSED)
def test_what_cgru_has_no_equal_of_is_named(case: str) -> None:
    found, module = made(case)
    with pytest.raises(UnsupportedError, match=REFUSED[case]):
        cgru.from_torch(module, example=found.inputs(4, found.steps[0]))
