"""A GRU in float64, written from the papers and the documentation of torch and Keras, row by row.

It shares no code with cgru. Every row of a batch goes through on its own, and only the steps that count are
fed to the cell: lengths and masks are handled by leaving steps out and then filling the gaps, not by selecting
between an old and a new state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import erf

import numpy as np

Array = np.ndarray
Function = Callable[[Array], Array]

_ERF = np.vectorize(erf, otypes=[float])

FUNCTIONS: dict[str, Function] = {
    "sigmoid": lambda a: 0.5 * (1.0 + np.tanh(0.5 * a)),
    "tanh": np.tanh,
    "linear": lambda a: a,
    "relu": lambda a: np.where(a > 0.0, a, 0.0),
    # Keras 3 and torch: relu6(a + 3) / 6; Keras 1 and 2: 0.2 a + 0.5, cut off at 0 and 1.
    "hard_sigmoid": lambda a: np.minimum(np.maximum(a + 3.0, 0.0), 6.0) / 6.0,
    "hard_sigmoid_keras2": lambda a: np.minimum(1.0, np.maximum(0.0, 0.2 * a + 0.5)),
    "softsign": lambda a: a / (1.0 + np.abs(a)),
    "softplus": lambda a: np.maximum(a, 0.0) + np.log1p(np.exp(-np.abs(a))),
    "elu": lambda a: np.where(a > 0.0, a, np.exp(np.minimum(a, 0.0)) - 1.0),
    "hard_tanh": lambda a: np.where(np.abs(a) > 1.0, np.sign(a), a),
    "relu6": lambda a: np.minimum(6.0, np.where(a > 0.0, a, 0.0)),
    "selu": lambda a: 1.0507009873554805 * np.where(a > 0.0, a, 1.6732632423543772 * (np.exp(np.minimum(a, 0.0)) - 1)),
    "silu": lambda a: a / (1.0 + np.exp(-a)),
    "gelu": lambda a: 0.5 * a * (1.0 + _ERF(a / np.sqrt(2.0))),
    "gelu_tanh": lambda a: 0.5 * a * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (a + 0.044715 * a**3))),
    "mish": lambda a: a * np.tanh(np.log1p(np.exp(a))),
    "hard_swish": lambda a: a * np.minimum(np.maximum(a + 3.0, 0.0), 6.0) / 6.0,
    "log_sigmoid": lambda a: -np.log1p(np.exp(-a)),
}


def cell(
    x: Array, h: Array, part: Mapping[str, Array], reset: str, write: bool, gate: Function, candidate: Function
) -> Array:
    """One row, one step. ``part`` holds for each gate g of r, z, n: Wg, Rg and the two biases bg, cg."""
    r = gate(part["Wr"] @ x + part["br"] + part["Rr"] @ h + part["cr"])
    z = gate(part["Wz"] @ x + part["bz"] + part["Rz"] @ h + part["cz"])
    if reset == "after":  # torch.nn.GRU
        n = candidate(part["Wn"] @ x + part["bn"] + r * (part["Rn"] @ h + part["cn"]))
    else:  # Cho et al. 2014, arXiv:1406.1078, equation 8
        n = candidate(part["Wn"] @ x + part["bn"] + part["Rn"] @ (r * h) + part["cn"])
    keep = 1.0 - z if write else z
    return keep * h + (1.0 - keep) * n


def parts(arrays: Mapping[str, Array], suffix: str, gates: str = "rzn") -> dict[str, Array]:
    """One direction's stacked arrays, under torch's names, taken apart gate by gate."""
    hidden = arrays["weight_hh" + suffix].shape[1]
    taken: dict[str, Array] = {}
    for symbol, stem in (("W", "weight_ih"), ("R", "weight_hh"), ("b", "bias_ih"), ("c", "bias_hh")):
        stacked = arrays.get(stem + suffix)
        for place, letter in enumerate(gates):
            if stacked is None:
                taken[symbol + letter] = np.zeros(hidden)
            else:
                taken[symbol + letter] = stacked[place * hidden : (place + 1) * hidden].astype(np.float64)
    return taken


def gru(
    arrays: Mapping[str, Array],
    x: Array,
    h0: Array,
    lengths: Sequence[int] | Array | None = None,
    mask: Array | None = None,
    *,
    layers: int = 1,
    directions: int = 1,
    reset: str = "after",
    write: bool = False,
    gates: str = "rzn",
    activation: str = "tanh",
    recurrent_activation: str = "sigmoid",
    zero_masked: bool = False,
) -> tuple[Array, Array]:
    """x (B, T, I), h0 (L·D, B, H) → out (B, T, D·H), h_n (L·D, B, H), all in float64."""
    batch, steps, _ = x.shape
    hidden = h0.shape[2]
    gate, candidate = FUNCTIONS[recurrent_activation], FUNCTIONS[activation]
    out = np.zeros((batch, steps, directions * hidden))
    h_n = np.array(h0, dtype=np.float64)
    for b in range(batch):
        end = steps if lengths is None else int(lengths[b])
        sequence = x[b].astype(np.float64)
        for layer in range(layers):
            emitted = np.zeros((steps, directions * hidden))
            for d in range(directions):
                part = parts(arrays, f"_l{layer}" + ("_reverse" if d else ""), gates)
                order = range(end - 1, -1, -1) if d else range(end)
                h = h_n[layer * directions + d, b]
                shown = np.zeros(hidden)
                for t in order:
                    counts = mask is None or bool(mask[b, t])
                    if counts:
                        h = shown = cell(sequence[t], h, part, reset, write, gate, candidate)
                    hide = zero_masked and not counts
                    emitted[t, d * hidden : (d + 1) * hidden] = 0.0 if hide else shown
                h_n[layer * directions + d, b] = h
            sequence = emitted
        out[b] = sequence
    return out, h_n
