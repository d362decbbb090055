"""The other cells in float64, one row and one unit's gates at a time, and the networks the tests run on them.

Like oracle.py it shares no code with cgru: the equations are written from the papers and the frameworks' documentation,
gate by gate, and only the steps that count are fed to a cell.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from hypothesis import strategies as st
from oracle import FUNCTIONS
from strategies import Sized, sizes

import cgru

Array = np.ndarray
State = dict[str, Array]


@dataclass(frozen=True)
class Kind:
    """A kind of layer under test: its class, options, gates as stacked, arrays beside the usual, and its state."""

    layer: Any
    gates: str
    options: dict[str, Any] = field(default_factory=dict)
    state: tuple[str, ...] = ("h",)
    carried: tuple[str, ...] = ("h",)
    projected: bool = False
    peepholes: bool = False
    recurrent: bool = True

    def shapes(self, inputs: int, hidden: int, bias: bool) -> dict[str, tuple[int, ...]]:
        """One direction's arrays, in the order in which they are drawn."""
        rows, emitted = len(self.gates) * hidden, self.emitted(hidden)
        found: dict[str, tuple[int, ...]] = {"weight_ih": (rows, inputs)}
        if self.recurrent:
            found["weight_hh"] = (rows, emitted)
        if self.projected:
            found["weight_hr"] = (emitted, hidden)
        if self.peepholes:
            found["weight_ph"] = (3 * hidden,)
        if bias:
            found |= {"bias_ih": (rows,)} | ({"bias_hh": (rows,)} if self.recurrent else {})
        return found

    def emitted(self, hidden: int) -> int:
        return max(hidden // 2, 1) if self.projected else hidden

    def size(self, name: str, hidden: int) -> int:
        return self.emitted(hidden) if name == self.state[0] else hidden


LSTM_STATE: dict[str, Any] = {"state": ("h", "c"), "carried": ("h", "c")}
KINDS: dict[str, Kind] = {
    "rnn": Kind(cgru.RNN, "h"),
    "rnn_relu": Kind(cgru.RNN, "h", {"nonlinearity": "relu"}),
    "lstm": Kind(cgru.LSTM, "ifgo", **LSTM_STATE),
    "lstm_hard": Kind(
        cgru.LSTM, "ifgo", {"activation": "softsign", "recurrent_activation": "hard_sigmoid"}, **LSTM_STATE
    ),
    "lstm_peephole": Kind(cgru.LSTM, "ifgo", peepholes=True, **LSTM_STATE),
    "lstm_projected": Kind(cgru.LSTM, "ifgo", projected=True, **LSTM_STATE),
    "lstm_peephole_projected": Kind(cgru.LSTM, "ifgo", peepholes=True, projected=True, **LSTM_STATE),
    "three_gate": Kind(cgru.ThreeGate, "fioc"),
    "three_gate_output": Kind(cgru.ThreeGate, "fioc", {"output_gate": True}, state=("y", "h")),
    "min_gru": Kind(cgru.MinGRU, "zn", recurrent=False),
    "mgu": Kind(cgru.MGU, "zn"),
}


def step(name: str, kind: Kind, part: dict[str, Array], x: Array, s: State) -> tuple[State, dict[str, Array]]:
    """One row, one step: the new state and the gates. ``part`` holds W, R, b, d stacked, and Q or p if there is one."""
    σ = FUNCTIONS[kind.options.get("recurrent_activation", "sigmoid")]
    usual = "linear" if name == "min_gru" else kind.options.get("nonlinearity", "tanh")
    φ = FUNCTIONS[kind.options.get("activation", usual)]
    size = len(part["W"]) // len(kind.gates)
    total = part["W"] @ x + part["b"]
    if "R" in part:
        total = total + part["R"] @ s["h"] + part["d"]
    a = {gate: total[k * size : (k + 1) * size] for k, gate in enumerate(kind.gates)}
    if kind.layer is cgru.RNN:
        return {"h": φ(a["h"])}, {}
    if kind.layer is cgru.LSTM:
        c, p = s["c"], part.get("p", np.zeros(3 * size))
        i, f = σ(a["i"] + p[:size] * c), σ(a["f"] + p[size : 2 * size] * c)
        g = φ(a["g"])
        new = f * c + i * g
        o = σ(a["o"] + p[2 * size :] * new)
        h = o * φ(new)
        return {"h": part["Q"] @ h if "Q" in part else h, "c": new}, {"i": i, "f": f, "g": g, "o": o, "z": f}
    if kind.layer is cgru.ThreeGate:
        f, i, o, c = σ(a["f"]), σ(a["i"]), σ(a["o"]), φ(a["c"])
        h = f * s["h"] + i * c
        return ({"y": o * h, "h": h} if "y" in s else {"h": h}), {"f": f, "i": i, "o": o, "c": c, "z": f}
    if name == "mgu":
        f = 1 - σ(a["z"])  # the paper's one gate
        n = φ(part["W"][size:] @ x + (part["b"] + part["d"])[size:] + part["R"][size:] @ (f * s["h"]))
        return {"h": (1 - f) * s["h"] + f * n}, {"z": 1 - f, "n": n}
    z, n = σ(a["z"]), φ(a["n"])
    return {"h": z * s["h"] + (1 - z) * n}, {"z": z, "n": n}


SYMBOLS = {"W": "weight_ih", "R": "weight_hh", "b": "bias_ih", "d": "bias_hh", "Q": "weight_hr", "p": "weight_ph"}


@dataclass(frozen=True)
class Net(Sized):
    """A layer of some kind and something to run it on."""

    name: str = field(kw_only=True)

    @property
    def kind(self) -> Kind:
        return KINDS[self.name]

    @cached_property
    def arrays(self) -> dict[str, Array]:
        return self.weights(lambda n: self.kind.shapes(n, self.hidden, self.bias), self.kind.emitted(self.hidden))

    @cached_property
    def begin(self) -> State:
        """States that are never zero and all different, (L·D, B, H) each."""
        names = self.kind.state
        return dict(zip(names, self.begin_of([self.kind.size(name, self.hidden) for name in names]), strict=True))

    def layer(self, **options: Any) -> Any:
        both = self.directions == 2
        return self.kind.layer(self.arrays, num_layers=self.layers, bidirectional=both, **self.kind.options, **options)

    def given(self) -> Any:
        """The initial state as the layer takes it: one array, or a tuple."""
        parts = tuple(self.begin[name] for name in self.kind.carried)
        return parts if len(parts) > 1 else parts[0]

    def run(self, begin: State | None = None) -> tuple[Array, State, dict[str, Array]]:
        """out (B, T, D·E), the last states, and the gates of the last layer's first direction, in float64."""
        held = self.arrays
        states = {name: array.astype(np.float64) for name, array in (self.begin if begin is None else begin).items()}
        emitted, mask, x = self.kind.emitted(self.hidden), self.mask, self.x
        out = np.zeros((self.batch, self.steps, self.directions * emitted))
        seen: dict[str, Array] = {}
        for b in range(self.batch):
            end = self.steps if self.lengths is None else self.lengths[b]
            sequence = x[b].astype(np.float64)
            for layer in range(self.layers):
                shown = np.zeros((self.steps, self.directions * emitted))
                for d in range(self.directions):
                    row, suffix = layer * self.directions + d, f"_l{layer}" + ("_reverse" if d else "")
                    part = {k: held[v + suffix].astype(np.float64) for k, v in SYMBOLS.items() if v + suffix in held}
                    none = np.zeros(len(part["W"]))
                    part = {"b": none, "d": none} | part
                    s, last = {name: array[row, b] for name, array in states.items()}, np.zeros(emitted)
                    for t in range(end - 1, -1, -1) if d else range(end):
                        if mask is None or mask[b, t]:
                            s, gates = step(self.name, self.kind, part, sequence[t], s)
                            last = s[self.kind.state[0]]
                            if layer == self.layers - 1 and d == 0:
                                for gate, value in gates.items():
                                    seen.setdefault(gate, np.zeros((self.batch, self.steps, len(value))))[b, t] = value
                        shown[t, d * emitted : (d + 1) * emitted] = last
                    for name, array in states.items():
                        array[row, b] = s[name]
                sequence = shown
            out[b] = sequence
        return out, states, seen


@st.composite
def nets(draw: st.DrawFn, names: tuple[str, ...] = tuple(KINDS), **wanted: Any) -> Net:
    """``wanted`` as in :func:`strategies.sizes`."""
    return Net(**sizes(draw, **{"batch": 7, "steps": 20, "masks": None} | wanted), name=draw(st.sampled_from(names)))
