"""Cases of the operations that carry something from step to step, each with its formula for one row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from operation_table import Array, Given, arr, built, case, each, stacked

import cgru


def running(x: Array) -> Array:
    """y_t = x_t + y_{t − 1} / 2."""
    y, rows = np.zeros(x.shape[1:]), []
    for frame in x:
        y = frame + y / 2
        rows.append(y)
    return stacked(rows, *x.shape[1:])


def sums(g: cgru.Graph, x: str) -> str:
    held = g.carried(x, features=(2, 3))
    half = g.constant(features=(1,), weights={"value": np.array([0.5], np.float32)})
    return g.carry(g.add(x, g.mul(held, half)), held)


built("carried", [(2, 3)], running, sums)
built("carry", [(2, 3)], running, sums)


def gru(x: Array, weights: Mapping[str, Array], h: Array | None = None, seen: Array | None = None) -> Array:
    """torch.nn.GRU over one row, gate by gate; where ``seen`` is False the state holds and comes out."""
    w, r, b, d = (weights[key].astype(float) for key in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    units = r.shape[1]
    h = np.zeros(units) if h is None else h
    begun, rows = False, []
    for t, frame in enumerate(x):
        if seen is None or seen[t]:
            from_x, from_h = (w @ frame + b).reshape(3, -1), (r @ h + d).reshape(3, -1)
            reset, keep = (1 / (1 + np.exp(-from_x[i] - from_h[i])) for i in (0, 1))
            h = keep * h + (1 - keep) * np.tanh(from_x[2] + reset * from_h[2])
            begun = True
        rows.append(h if begun else np.zeros(units))
    return stacked(rows, units)


_gru = {"weight_ih": arr(15, 4), "weight_hh": arr(15, 5), "bias_ih": arr(15), "bias_hh": arr(15)}
_scan: dict[str, Any] = {"cell": "gru_reset_after", "units": 5, "weights": _gru}
case("scan", [(4,)], lambda x: gru(x, _gru), **_scan)
case("scan", [(4,)], lambda x, m: gru(x, _gru, seen=m), mask=True, **_scan)
case("scan", [(4,)], lambda x: gru(x[::-1], _gru)[::-1], whole=True, reverse=True, **_scan)
case("scan", [(4,)], lambda x: gru(x[::-1], _gru), whole=True, reverse=True, flip=True, **_scan)
built(
    "scan", [(4,), Given((5,), timed=False)], lambda x, h: gru(x, _gru, h),
    lambda g, x, h: g.scan(x, "", h, **_scan),
)  # fmt: skip
built(
    "last_state", [(4,)], lambda x: gru(x, _gru)[-1] if len(x) else np.zeros(5),
    lambda g, x: g.last_state(g.scan(x, **_scan), size=5), whole=True,
)  # fmt: skip
_rows: dict[str, Any] = {"cell": "gru_after", "units": 5, "activations": ("sigmoid", "tanh"), "weights": _gru}
case("scan_rows", [(3, 4)], lambda x: np.stack([gru(x[:, r], _gru) for r in range(3)], axis=1), **_rows)
case(
    "scan_rows", [(3, 4)],
    lambda x, m: np.stack([gru(x[:, r], _gru, seen=m) * m[: len(x), None] for r in range(3)], axis=1), mask=True,
    **_rows,
)  # fmt: skip
case(
    "scan_rows", [(3, 4)], lambda x: np.stack([gru(x[::-1, r], _gru)[::-1] for r in range(3)], axis=1), reverse=True,
    whole=True, **_rows,
)  # fmt: skip
built(
    "scan_rows", [(3, 4), Given((3, 5), timed=False)],
    lambda x, h: np.stack([gru(x[:, r], _gru, h[r]) for r in range(3)], axis=1),
    lambda g, x, h: g.scan_rows(x, "", h, **_rows),
)  # fmt: skip
case("scan_inner", [(3, 6, 4)], each(lambda x: np.array([gru(row, _gru) for row in x])), **_rows)
case(
    "scan_inner", [(6, 4), (5,)], each(lambda x, h: gru(x[::-1], _gru, h)[::-1]), reverse=True, **_rows,
)  # fmt: skip


def lstm(x: Array, weights: Mapping[str, Array]) -> tuple[Array, Array]:
    """LSTM with peepholes over one row: outputs and memories. Gates i, f, g, o; peepholes i, f, o."""
    w, r, b, d = (weights[key].astype(float) for key in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    pi, pf, po = weights["weight_ph"].astype(float).reshape(3, -1)
    h, c, out, memory = np.zeros(r.shape[1]), np.zeros(r.shape[1]), [], []
    for frame in x:
        i, f, g, o = (w @ frame + b + r @ h + d).reshape(4, -1)
        c = c / (1 + np.exp(-f - pf * c)) + np.tanh(g) / (1 + np.exp(-i - pi * c))
        h = np.tanh(c) / (1 + np.exp(-o - po * c))
        out.append(h)
        memory.append(c)
    return stacked(out, len(h)), stacked(memory, len(h))


_lstm = {
    "weight_ih": arr(20, 4), "weight_hh": arr(20, 5), "bias_ih": arr(20), "bias_hh": arr(20), "weight_ph": arr(15),
}  # fmt: skip
for _emit in ("h", "c"):
    case(
        "scan_inner", [(2, 7, 4)], each(lambda x, e=_emit: np.array([lstm(row, _lstm)[e == "c"] for row in x])),
        cell="lstm", units=5, activations=("sigmoid", "tanh", "tanh"), weights=_lstm, emit=_emit,
    )  # fmt: skip
