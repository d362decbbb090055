"""PyTorch's own networks for the cases of strategies.py and cell_oracle.py, and what agreeing with them means.

Importing this skips the module that does, where the PyTorch that the comparison is made with is not installed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cell_oracle import Net
from hypothesis import event
from strategies import Case

torch = pytest.importorskip("torch", reason="PyTorch is not installed; pip install cgru[parity]")
if torch.__version__.split("+")[0] != "2.13.0":
    pytest.skip(f"the comparison is with PyTorch 2.13.0, found {torch.__version__}", allow_module_level=True)

torch.set_num_threads(1)

#: What is promised for weights as torch initialises them, normal x and T ≤ 50.
CLOSE = 2e-6


def module(case: Case | Net, dtype: str = "float32") -> Any:
    options: dict[str, Any] = {"batch_first": True, "bias": case.bias, "bidirectional": case.directions == 2}
    kind = torch.nn.GRU
    if isinstance(case, Net):
        kind = torch.nn.RNN if case.name.startswith("rnn") else torch.nn.LSTM
        if case.name.startswith("rnn"):
            options["nonlinearity"] = case.kind.options.get("nonlinearity", "tanh")
        if case.kind.projected:
            options["proj_size"] = case.kind.emitted(case.hidden)
    net = kind(case.inputs, case.hidden, case.layers, dtype=getattr(torch, dtype), **options)
    net.load_state_dict({key: torch.from_numpy(array) for key, array in case.arrays.items()})
    return net.eval()


def run(case: Case | Net, dtype: str = "float32") -> list[np.ndarray]:
    """out, h_n and for an LSTM c_n. A row of no steps, which torch refuses, emits nothing and keeps its state."""
    net, x = module(case, dtype), torch.from_numpy(case.x).to(getattr(torch, dtype))
    given = [case.begin[name] for name in case.kind.carried] if isinstance(case, Net) else [case.h0]
    begin = [torch.from_numpy(array).to(x.dtype) for array in given]

    def called(x: Any, state: list[Any]) -> list[Any]:
        out, after = net(x, tuple(state) if len(state) > 1 else state[0])
        return [out, *(after if isinstance(after, tuple) else (after,))]

    with torch.no_grad():
        if case.lengths is None:
            return [array.numpy() for array in called(x, begin)]
        out = torch.zeros(case.batch, case.steps, case.directions * begin[0].shape[2], dtype=x.dtype)
        after = [array.clone() for array in begin]
        rows = [b for b, n in enumerate(case.lengths) if n]
        if rows:
            packed = torch.nn.utils.rnn.pack_padded_sequence(
                x[rows], [case.lengths[b] for b in rows], batch_first=True, enforce_sorted=False
            )
            y, *last = called(packed, [array[:, rows].contiguous() for array in begin])
            out[rows], _ = torch.nn.utils.rnn.pad_packed_sequence(y, batch_first=True, total_length=case.steps)
            for array, part in zip(after, last, strict=True):
                array[:, rows] = part
        return [array.numpy() for array in (out, *after)]


def error(got: list[np.ndarray], want: list[np.ndarray]) -> float:
    """The largest difference there is, in outputs or last states."""
    return max(float(np.abs(a - b).max(initial=0)) for a, b in zip(got, want, strict=True))


def results(layer: Any, case: Case | Net, backend: str) -> list[np.ndarray]:
    """What ``layer`` gives, in the order of :func:`run`."""
    begin = case.given() if isinstance(case, Net) else case.h0
    out, after = layer(case.x, begin, case.lengths, backend=backend)
    return [out, *(after if isinstance(after, tuple) else (after,))]


def assert_agrees(ours: list[np.ndarray], case: Case | Net) -> None:
    """Within 2e-6 of PyTorch wherever PyTorch is within half of that of the truth.

    It is not everywhere: torch initialises by the hidden size alone, so that 154 inputs into 1 to 3 units make
    sums far out of proportion, and PyTorch itself is up to 2.1e-6 from float64 there. In such a network cgru is
    at most twice as far as PyTorch.
    """
    theirs, exact = run(case), run(case, "float64")
    assert [a.shape for a in ours] == [a.shape for a in theirs]
    if error(theirs, exact) <= CLOSE / 2:
        assert error(ours, theirs) <= CLOSE
    else:
        event("PyTorch is more than 1e-6 from float64")
        assert error(ours, exact) <= 2 * error(theirs, exact) + 1e-7
