"""The oracle: each recurrence in plain numpy, in the precision of its inputs (the tests use float64).

Slow on purpose, and readable as mathematics. Symbols: ``x`` (..., I) the input, ``h`` (..., H) the hidden
state, ``W`` (G·H, I) and ``R`` (G·H, H) the input and recurrent matrices with the gates stacked by rows in
the order the function names, ``b`` and ``d`` their biases (G·H,). ``σ`` is the recurrent activation, ``φ`` the
activation of the candidate. A step returns the new state, the emitted array first, and what every gate did; among
the gates ``z`` is always the fraction of the old state that is kept.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .spec.activations import Array, sigmoid

Activation = Callable[[Array], Array]
Gates = dict[str, Array]


def gru_reset_after(
    x: Array, h: Array, W: Array, R: Array, b: Array, d: Array, σ: Activation = sigmoid, φ: Activation = np.tanh
) -> tuple[Array, Gates]:
    """GRU with the reset gate applied after the recurrent product (torch.nn.GRU, Keras' default, cuDNN).

    Gates stacked r, z, n; z is the fraction kept::

        r = σ(W_r x + b_r + R_r h + d_r)
        z = σ(W_z x + b_z + R_z h + d_z)
        n = φ(W_n x + b_n + r ⊙ (R_n h + d_n))
        h' = z ⊙ h + (1 − z) ⊙ n
    """
    ar, az, an = np.split(x @ W.T + b, 3, axis=-1)
    sr, sz, sn = np.split(h @ R.T + d, 3, axis=-1)
    r = σ(ar + sr)
    z = σ(az + sz)
    n = φ(an + r * sn)
    h = z * h + (1 - z) * n
    return h, {"r": r, "z": z, "n": n, "h": h}


def gru_reset_before(
    x: Array, h: Array, W: Array, R: Array, b: Array, d: Array, σ: Activation = sigmoid, φ: Activation = np.tanh
) -> tuple[Array, Gates]:
    """GRU with the reset gate applied to the state (Cho et al. 2014, arXiv:1406.1078v3; ONNX' default).

    Gates stacked r, z, n; z is the fraction kept; the two biases of a gate only ever add::

        r = σ(W_r x + R_r h + b_r + d_r)
        z = σ(W_z x + R_z h + b_z + d_z)
        n = φ(W_n x + R_n (r ⊙ h) + b_n + d_n)
        h' = z ⊙ h + (1 − z) ⊙ n
    """
    ar, az, an = np.split(x @ W.T + b + d, 3, axis=-1)
    Rr, Rz, Rn = np.split(R, 3, axis=0)
    r = σ(ar + h @ Rr.T)
    z = σ(az + h @ Rz.T)
    n = φ(an + (r * h) @ Rn.T)
    h = z * h + (1 - z) * n
    return h, {"r": r, "z": z, "n": n, "h": h}


def rnn(
    x: Array, h: Array, W: Array, R: Array, b: Array, d: Array, σ: Activation = sigmoid, φ: Activation = np.tanh
) -> tuple[Array, Gates]:
    """The simple recurrent network (Elman 1990; torch.nn.RNN, Keras' SimpleRNN): h' = φ(W x + b + R h + d)."""
    h = φ(x @ W.T + b + h @ R.T + d)
    return h, {"z": np.zeros_like(h), "h": h}


def lstm(
    x: Array,
    h: Array,
    c: Array,
    W: Array,
    R: Array,
    b: Array,
    d: Array,
    σ: Activation = sigmoid,
    φ: Activation = np.tanh,
) -> tuple[Array, Array, Gates]:
    """Long short-term memory (Hochreiter and Schmidhuber 1997 with Gers' forget gate; torch.nn.LSTM, Keras' LSTM).

    Gates stacked i, f, g, o; f is the fraction kept::

        i, f, o = σ(W x + b + R h + d)
        g = φ(W_g x + b_g + R_g h + d_g)
        c' = f ⊙ c + i ⊙ g
        h' = o ⊙ φ(c')
    """
    ai, af, ag, ao = np.split(x @ W.T + b + h @ R.T + d, 4, axis=-1)
    i, f, g, o = σ(ai), σ(af), φ(ag), σ(ao)
    c = f * c + i * g
    h = o * φ(c)
    return h, c, {"i": i, "f": f, "g": g, "o": o, "z": f, "c": c, "h": h}


def lstm_peephole(
    x: Array,
    h: Array,
    c: Array,
    W: Array,
    R: Array,
    b: Array,
    d: Array,
    p: Array,
    σ: Activation = sigmoid,
    φ: Activation = np.tanh,
) -> tuple[Array, Array, Gates]:
    """LSTM whose gates see the cell's memory through diagonal peepholes (Gers and Schmidhuber 2000; ONNX' P).

    ``p`` (3·H,) stacks p_i, p_f, p_o. As :func:`lstm`, but::

        i = σ(… + p_i ⊙ c)
        f = σ(… + p_f ⊙ c)
        o = σ(… + p_o ⊙ c')
    """
    ai, af, ag, ao = np.split(x @ W.T + b + h @ R.T + d, 4, axis=-1)
    pi, pf, po = np.split(p, 3)
    i, f, g = σ(ai + pi * c), σ(af + pf * c), φ(ag)
    c = f * c + i * g
    o = σ(ao + po * c)
    h = o * φ(c)
    return h, c, {"i": i, "f": f, "g": g, "o": o, "z": f, "c": c, "h": h}


def lstm_projected(
    x: Array,
    h: Array,
    c: Array,
    W: Array,
    R: Array,
    b: Array,
    d: Array,
    Q: Array,
    σ: Activation = sigmoid,
    φ: Activation = np.tanh,
) -> tuple[Array, Array, Gates]:
    """LSTM that emits, and feeds back, a projection Q (P, H) of its state (Sak et al. 2014; torch's proj_size).

    As :func:`lstm`, but h' = Q (o ⊙ φ(c')), and R is (4·H, P).
    """
    m, c, gates = lstm(x, h, c, W, R, b, d, σ, φ)
    h = m @ Q.T
    return h, c, gates | {"h": h}


def lstm_peephole_projected(
    x: Array,
    h: Array,
    c: Array,
    W: Array,
    R: Array,
    b: Array,
    d: Array,
    p: Array,
    Q: Array,
    σ: Activation = sigmoid,
    φ: Activation = np.tanh,
) -> tuple[Array, Array, Gates]:
    """:func:`lstm_peephole` that emits, and feeds back, a projection Q (P, H) of its state (Sak et al. 2014)."""
    m, c, gates = lstm_peephole(x, h, c, W, R, b, d, p, σ, φ)
    h = m @ Q.T
    return h, c, gates | {"h": h}


def three_gate(
    x: Array, h: Array, W: Array, R: Array, b: Array, d: Array, σ: Activation = sigmoid, φ: Activation = np.tanh
) -> tuple[Array, Gates]:
    """The unit with forget, input and output gates and one state, which some texts teach as a GRU.

    Gates stacked f, i, o, c; f is the fraction kept. o is computed but touches nothing here::

        f, i, o = σ(W x + b + R h + d)
        h' = f ⊙ h + i ⊙ φ(W_c x + b_c + R_c h + d_c)
    """
    _, h, gates = three_gate_output(x, h, h, W, R, b, d, σ, φ)
    return h, gates


def three_gate_output(
    x: Array,
    y: Array,
    h: Array,
    W: Array,
    R: Array,
    b: Array,
    d: Array,
    σ: Activation = sigmoid,
    φ: Activation = np.tanh,
) -> tuple[Array, Array, Gates]:
    """As :func:`three_gate`, but what is emitted is y' = o ⊙ h'. The gates read h, never y."""
    af, ai, ao, ac = np.split(x @ W.T + b + h @ R.T + d, 4, axis=-1)
    f, i, o, c = σ(af), σ(ai), σ(ao), φ(ac)
    h = f * h + i * c
    return o * h, h, {"f": f, "i": i, "o": o, "z": f, "c": c, "h": h}


def min_gru(
    x: Array, h: Array, W: Array, b: Array, σ: Activation = sigmoid, φ: Activation = np.tanh
) -> tuple[Array, Gates]:
    """minGRU (Feng et al. 2024, "Were RNNs all we needed?", arXiv:2410.01201): no gate reads h.

    Gates stacked z, n; z is the fraction kept, so 1 − z is the paper's z; the paper's φ is the identity::

        z = σ(W_z x + b_z)
        n = φ(W_n x + b_n)
        h' = z ⊙ h + (1 − z) ⊙ n
    """
    az, an = np.split(x @ W.T + b, 2, axis=-1)
    z, n = σ(az), φ(an)
    h = z * h + (1 - z) * n
    return h, {"z": z, "n": n, "h": h}


def mgu(
    x: Array, h: Array, W: Array, R: Array, b: Array, d: Array, σ: Activation = sigmoid, φ: Activation = np.tanh
) -> tuple[Array, Gates]:
    """Minimal gated unit (Zhou et al. 2016, arXiv:1603.09420): one gate forgets and resets.

    Gates stacked z, n; z is the fraction kept, so 1 − z is the paper's f::

        z = σ(W_z x + R_z h + b_z + d_z)
        n = φ(W_n x + R_n ((1 − z) ⊙ h) + b_n + d_n)
        h' = z ⊙ h + (1 − z) ⊙ n
    """
    az, an = np.split(x @ W.T + b + d, 2, axis=-1)
    Rz, Rn = np.split(R, 2, axis=0)
    z = σ(az + h @ Rz.T)
    n = φ(an + ((1 - z) * h) @ Rn.T)
    h = z * h + (1 - z) * n
    return h, {"z": z, "n": n, "h": h}


def dense(x: Array, W: Array, b: Array | None, φ: Activation) -> Array:
    """φ(W x + b), along the last axis."""
    y = x @ W.T
    return φ(y if b is None else y + b)
