"""The oracle: each recurrence in plain numpy, in the precision of its inputs (the tests use float64).

Slow on purpose, and readable as mathematics. Symbols: ``x`` (..., I) the input, ``h`` (..., H) the hidden
state, ``W`` (G·H, I) and ``R`` (G·H, H) the input and recurrent matrices with the gates stacked by rows in
the order the function names, ``b`` and ``c`` their biases (G·H,). ``σ`` is the recurrent activation, ``φ`` the
activation of the candidate. A step returns ``h'`` and what every gate did.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .activations import Array, sigmoid

Activation = Callable[[Array], Array]
Gates = dict[str, Array]


def gru_reset_after(
    x: Array, h: Array, W: Array, R: Array, b: Array, c: Array, σ: Activation = sigmoid, φ: Activation = np.tanh
) -> tuple[Array, Gates]:
    """GRU with the reset gate applied after the recurrent product (torch.nn.GRU, Keras' default, cuDNN).

    Gates stacked r, z, n; z is the fraction kept::

        r = σ(W_r x + b_r + R_r h + c_r)
        z = σ(W_z x + b_z + R_z h + c_z)
        n = φ(W_n x + b_n + r ⊙ (R_n h + c_n))
        h' = z ⊙ h + (1 − z) ⊙ n
    """
    ar, az, an = np.split(x @ W.T + b, 3, axis=-1)
    sr, sz, sn = np.split(h @ R.T + c, 3, axis=-1)
    r = σ(ar + sr)
    z = σ(az + sz)
    n = φ(an + r * sn)
    h = z * h + (1 - z) * n
    return h, {"r": r, "z": z, "n": n, "h": h}


def gru_reset_before(
    x: Array, h: Array, W: Array, R: Array, b: Array, c: Array, σ: Activation = sigmoid, φ: Activation = np.tanh
) -> tuple[Array, Gates]:
    """GRU with the reset gate applied to the state (Cho et al. 2014, arXiv:1406.1078v3; ONNX' default).

    Gates stacked r, z, n; z is the fraction kept; the two biases of a gate only ever add::

        r = σ(W_r x + R_r h + b_r + c_r)
        z = σ(W_z x + R_z h + b_z + c_z)
        n = φ(W_n x + R_n (r ⊙ h) + b_n + c_n)
        h' = z ⊙ h + (1 − z) ⊙ n
    """
    ar, az, an = np.split(x @ W.T + b + c, 3, axis=-1)
    Rr, Rz, Rn = np.split(R, 3, axis=0)
    r = σ(ar + h @ Rr.T)
    z = σ(az + h @ Rz.T)
    n = φ(an + (r * h) @ Rn.T)
    h = z * h + (1 - z) * n
    return h, {"r": r, "z": z, "n": n, "h": h}


def dense(x: Array, W: Array, b: Array | None, φ: Activation) -> Array:
    """φ(W x + b), along the last axis."""
    y = x @ W.T
    return φ(y if b is None else y + b)
