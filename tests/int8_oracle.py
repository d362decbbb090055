"""The arithmetic of the int8 layers in numpy float32, written from docs/format.md; it shares no code with cgru.

Every operation on floats is one IEEE operation on float32, in the order the kernels promise, subnormal results flushed
to zero as they flush them; the sums of products are exact. So what comes out is meant to equal the kernels to the bit,
on every instruction set. Rows of a batch go through together, but nothing here mixes them: the sums are whole numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray
F = np.float32
TINY = np.finfo(np.float32).tiny


# ---- float32 as the kernels have it --------------------------------------------------------------------------------


def flushed(a: Array) -> Array:
    """Subnormals are zero, of the same sign."""
    return np.where(np.abs(a) < TINY, np.copysign(F(0), a), a).astype(F)


def add(a: Any, b: Any) -> Array:
    return flushed(np.add(a, b, dtype=F))


def mul(a: Any, b: Any) -> Array:
    return flushed(np.multiply(a, b, dtype=F))


def div(a: Any, b: Any) -> Array:
    return flushed(np.divide(a, b, dtype=F))


def mul_add(a: Any, b: Any, c: Any) -> Array:
    """(a · b) + c, rounded twice."""
    return add(mul(a, b), c)


def polynomial(y: Array) -> tuple[Array, Array]:
    """exp(y) = s + s·p, as (p, s): s a power of two, p = exp(r) − 1 for the small rest r."""
    k = np.rint(mul(y, F(1.44269504)))
    r = mul_add(k, F(-0.693145752), y)
    r = mul_add(k, F(-1.42860677e-06), r)
    q = np.full_like(r, float.fromhex("0x1.6d99bep-10"))
    for coefficient in ("0x1.12288p-7", "0x1.555486p-5", "0x1.5554aep-3", "0x1p-1"):
        q = mul_add(q, r, F(float.fromhex(coefficient)))
    scale = np.ldexp(F(1), np.where(np.isnan(k), 0, k).astype(np.int32)).astype(F)
    return mul_add(mul(r, r), q, r), scale


def tanh(x: Array) -> Array:
    p, s = polynomial(mul(F(-2), np.minimum(F(10), np.abs(x))))
    m = mul_add(s, p, add(s, F(-1)))
    return np.copysign(div(m, add(m, F(2))), x)


def sigmoid(x: Array) -> Array:
    p, s = polynomial(np.maximum(F(-87), np.minimum(F(87), add(F(0), -x))))
    return div(F(1), add(mul_add(s, p, s), F(1)))


def cut(low: float, a: Array, high: float) -> Array:
    return np.maximum(F(low), np.minimum(F(high), a))


FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda a: a,
    "tanh": tanh,
    "sigmoid": sigmoid,
    "relu": lambda a: np.where(a < 0, F(0), a).astype(F),
    "hard_sigmoid": lambda a: cut(0, mul_add(a, F(1) / F(6), F(0.5)), 1),
    "hard_sigmoid_keras2": lambda a: cut(0, mul_add(a, F(0.2), F(0.5)), 1),
    "softsign": lambda a: div(a, add(F(1), np.abs(a))),
}

#: Cells whose emitted state stays within max(1, |h0|) where their activations do, and such activations.
BOUNDED_CELLS = ("gru_reset_after", "gru_reset_before", "mgu", "rnn", "lstm", "lstm_peephole")
BOUNDED_GATES = ("sigmoid", "hard_sigmoid", "hard_sigmoid_keras2")
BOUNDED = (*BOUNDED_GATES, "tanh", "softsign")


# ---- whole numbers and their scales --------------------------------------------------------------------------------


class Matrix(NamedTuple):
    """int8 weights (rows, inner), held as float64 whole numbers, and the scale of each row (rows,)."""

    q: Array
    scale: Array


def quantized(weight: Array) -> Matrix:
    """Each row by its own largest magnitude: scale = max|w| / 127, but never one whose 127 units are infinite."""
    weight = np.asarray(weight, F)
    scale = np.minimum(np.abs(weight).max(axis=1, initial=0) / F(127), np.nextafter(np.finfo(F).max / F(127), F(0)))
    safe = np.where(scale > 0, scale, F(1))[:, None]
    q = np.where(scale[:, None] > 0, np.clip(np.rint(weight / safe), -127, 127), 0)
    return Matrix(q.astype(np.float64) + 0.0, scale)  # integers have no -0


def widened(weight: Array) -> Array:
    """The float32 matrix that the int8 one stands for."""
    q, scale = quantized(weight)
    return mul(q.astype(F), flushed(scale)[:, None])


class Prepared(NamedTuple):
    """Rows as whole numbers: planes (…, K) from the highest, and what one unit of the lowest is worth (…, 1)."""

    planes: tuple[Array, ...]
    unit: Array


def prepare(v: Array, precision: str, given: Array | None = None) -> Prepared:
    """Rows v (…, K) on the range ``given`` (…, 1), or on that of each row's largest magnitude."""
    most = F({"int8": 127, "int8x16": 32639}[precision])
    v = flushed(v)
    with np.errstate(all="ignore"):
        size = np.nanmax(np.abs(v), axis=-1, keepdims=True, initial=F(0)) if given is None else given
        bad = np.where(np.isfinite(v).all(axis=-1, keepdims=True), F(0), F(np.nan))
        small = size < F(1e-30)
        safe = np.where(small, F(1), size)
        inverse = np.where(small, F(0), div(most, safe))
        unit = add(np.where(small, F(0), div(safe, most)), bad)
        scaled = np.where(np.isnan(bad), F(0), mul(v, inverse))
    q = np.rint(np.maximum(-most, np.minimum(most, scaled))).astype(np.int64)
    if precision == "int8":
        return Prepared((q,), unit)
    high = (q + 128) >> 8
    return Prepared((high, q - 256 * high), unit)


def product(rows: Prepared, m: Matrix) -> Array:
    """What the matrix makes of the rows, (…, units)."""
    sums = [plane.astype(np.float64) @ m.q.T for plane in rows.planes]
    assert all(np.abs(exact).max(initial=0) < 2**31 for exact in sums)
    total, *low = [exact.astype(F) for exact in sums]
    for plane in low:
        total = mul_add(total, F(256), plane)
    return mul(mul(total, flushed(m.scale)), rows.unit)


# ---- layers --------------------------------------------------------------------------------------------------------


def dense(weight: Array, bias: Array | None, activation: str, x: Array, precision: str = "int8") -> Array:
    """x (…, I) → (…, O), each row on its own range."""
    start = F(0) if bias is None else flushed(np.asarray(bias, F))
    return FUNCTIONS[activation](add(start, product(prepare(x, precision), quantized(weight))))


def embedding(table: Array, ids: Array) -> Array:
    return widened(table)[ids]


class Cell:
    """One direction of one layer: step(inputs (B, G·H), state) → the new state."""

    def __init__(
        self, name: str, part: Mapping[str, Array], precision: str, activation: str, recurrent_activation: str
    ) -> None:
        self.name, self.precision = name, precision
        self.gate, self.act = FUNCTIONS[recurrent_activation], FUNCTIONS[activation]
        self.bounded = name in BOUNDED_CELLS and activation in BOUNDED and recurrent_activation in BOUNDED_GATES
        self.w = quantized(part["weight_ih"])
        none = np.zeros(len(part["weight_ih"]), F)
        b, d = part.get("bias_ih", none), part.get("bias_hh", none)
        hidden = len(b) // {"min_gru": 2, "mgu": 2, "rnn": 1}.get(name, 3 if "gru" in name else 4)
        # The recurrent bias of a candidate that is reset after its product stays apart.
        joined = np.arange(len(b)) < (2 * hidden if name == "gru_reset_after" else len(b))
        self.bias = flushed(np.where(joined, add(b, d), b))
        self.apart = flushed(d[2 * hidden :])
        self.peepholes = np.split(part.get("weight_ph", np.zeros(3 * hidden, F)), 3)
        if "weight_hh" in part:
            r = part["weight_hh"]
            first = {"gru_reset_before": 2 * hidden, "mgu": hidden}.get(name, len(r))
            self.r, self.second = quantized(r[:first]), quantized(r[first:])
        if "weight_hr" in part:
            self.second = quantized(part["weight_hr"])

    def inputs(self, x: Array) -> Array:
        return add(self.bias, product(prepare(x, self.precision), self.w))

    def range_of(self, h: Array) -> Array | None:
        """What a row that begins with h (B, H) keeps its state within, (B, 1); None where that is asked each step."""
        return np.maximum(F(1), np.nanmax(np.abs(flushed(h)), axis=1, keepdims=True)) if self.bounded else None

    def times(self, m: Matrix, v: Array, size: Array | None) -> Array:
        return product(prepare(v, self.precision, size), m)

    def step(self, a: Array, s: list[Array], size: Array | None) -> list[Array]:
        gate, act = self.gate, self.act
        if self.name == "gru_reset_after":
            ar, az, an = np.split(a, 3, axis=1)
            tr, tz, tn = np.split(self.times(self.r, s[0], size), 3, axis=1)
            r, z = gate(add(ar, tr)), gate(add(az, tz))
            return [between(z, s[0], act(mul_add(r, add(self.apart, tn), an)))]
        if self.name == "gru_reset_before":
            ar, az, an = np.split(a, 3, axis=1)
            tr, tz = np.split(self.times(self.r, s[0], size), 2, axis=1)
            r, z = gate(add(ar, tr)), gate(add(az, tz))
            return [between(z, s[0], act(add(an, self.times(self.second, mul(r, s[0]), size))))]
        if self.name == "mgu":
            az, an = np.split(a, 2, axis=1)
            z = gate(add(az, self.times(self.r, s[0], size)))
            shown = mul(add(F(1), -z), s[0])
            return [between(z, s[0], act(add(an, self.times(self.second, shown, size))))]
        if self.name == "min_gru":
            z, n = np.split(a, 2, axis=1)
            return [between(gate(z), s[0], act(n))]
        if self.name == "rnn":
            return [act(add(a, self.times(self.r, s[0], size)))]
        total = add(a, self.times(self.r, s[1] if self.name == "three_gate_output" else s[0], size))
        if self.name.startswith("three_gate"):
            f, i, o, c = np.split(total, 4, axis=1)
            h = mul_add(gate(f), s[-1], mul(gate(i), act(c)))
            return [h] if self.name == "three_gate" else [mul(gate(o), h), h]
        i, f, g, o = np.split(total, 4, axis=1)
        if self.name.startswith("lstm_peephole"):
            pi, pf, po = self.peepholes
            i, f = mul_add(pi, s[1], i), mul_add(pf, s[1], f)
        c = mul_add(gate(f), s[1], mul(gate(i), act(g)))
        if self.name.startswith("lstm_peephole"):
            o = mul_add(po, c, o)
        y = mul(gate(o), act(c))
        return [self.times(self.second, y, None) if self.name.endswith("_projected") else y, c]


def between(z: Array, h: Array, n: Array) -> Array:
    return mul_add(z, h, mul(add(F(1), -z), n))


def recurrent(
    name: str,
    arrays: Mapping[str, Array],
    x: Array,
    begin: Sequence[Array],
    lengths: Sequence[int] | None = None,
    mask: Array | None = None,
    *,
    precision: str = "int8",
    layers: int = 1,
    directions: int = 1,
    activation: str = "tanh",
    recurrent_activation: str = "sigmoid",
) -> tuple[Array, list[Array]]:
    """x (B, T, I) and the state, emitted array first, (L·D, B, size) each → out (B, T, D·E) and the last state."""
    batch, steps, _ = x.shape
    counts = np.ones((batch, steps), bool) if mask is None else np.array(mask)
    within = np.ones((batch, steps), bool)
    if lengths is not None:
        within = np.arange(steps) < np.asarray(lengths)[:, None]
    ends = [np.array(array, F) for array in begin]
    sequence = np.asarray(x, F)
    with np.errstate(all="ignore"):
        for layer in range(layers):
            shown = []
            for d in range(directions):
                suffix, row = f"_l{layer}" + ("_reverse" if d else ""), layer * directions + d
                part = {key.removesuffix(suffix): v for key, v in arrays.items() if key.endswith(suffix)}
                cell = Cell(name, part, precision, activation, recurrent_activation)
                s, a = [array[row] for array in ends], cell.inputs(sequence)
                size = cell.range_of(s[0])
                out = np.zeros((batch, steps, s[0].shape[1]), F)
                last = np.zeros(s[0].shape, F)
                for t in range(steps - 1, -1, -1) if d else range(steps):
                    now = (counts & within)[:, t, None]
                    new = cell.step(a[:, t], s, size)
                    s = [np.where(now, after, before) for after, before in zip(new, s, strict=True)]
                    last = np.where(now, new[0], last)
                    out[:, t] = np.where(within[:, t, None], last, F(0))
                for array, value in zip(ends, s, strict=True):
                    array[row] = value
                shown.append(out)
            sequence = np.concatenate(shown, axis=2)
    return sequence, ends
