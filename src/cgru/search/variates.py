"""Normal and Student variates of uniform ones, in numpy: the meaning of the core's.

Arithmetic and square roots alone, so that the bits are the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Array = np.ndarray

_LN2_HIGH, _LN2_LOW = 0.693147180369123816490, 1.90821492927058770002e-10  # ln 2 in two parts (fdlibm)

#: The series of artanh s / s in s², of e^r, and of cos a in a²: the highest power's coefficient first.
_ARTANH = tuple(1 / i for i in range(21, 0, -2))
_EXP = tuple(1 / math.factorial(i) for i in range(16, -1, -1))
_COSINE = tuple((-1) ** (i // 2) / math.factorial(i) for i in range(26, -2, -2))

#: Wichura 1988, AS 241 (PPND16): numerators and denominators for |u − ½| ≤ 0.425, and for the tails.
_CENTRE = (
    (2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457,
     13731.693765509461125, 1971.5909503065514427, 133.14166789178437745, 3.387132872796366608),
    (5226.495278852545925, 28729.085735721942674, 39307.89580009271061, 21213.794301586595867,
     5394.1960214247511077, 687.1870074920579083, 42.313330701600911252, 1.0),
)  # fmt: skip
_NEAR = (
    (7.7454501427834140764e-4, 0.0227238449892691845833, 0.24178072517745061177, 1.27045825245236838258,
     3.64784832476320460504, 5.7694972214606914055, 4.6303378461565452959, 1.42343711074968357734),
    (1.05075007164441684324e-9, 5.475938084995344946e-4, 0.0151986665636164571966, 0.14810397642748007459,
     0.68976733498510000455, 1.6763848301838038494, 2.05319162663775882187, 1.0),
)  # fmt: skip
_FAR = (
    (2.01033439929228813265e-7, 2.71155556874348757815e-5, 0.0012426609473880784386, 0.026532189526576123093,
     0.29656057182850489123, 1.7848265399172913358, 5.4637849111641143699, 6.6579046435011037772),
    (2.04426310338993978564e-15, 1.4215117583164458887e-7, 1.8463183175100546818e-5, 7.868691311456132591e-4,
     0.0148753612908506148525, 0.13692988092273580531, 0.59983220655588793769, 1.0),
)  # fmt: skip


def normal(u: Array) -> Array:
    """The standard normal variate at each u in [0, 1): the inverse of its distribution function, within 1e-15."""
    q = u - 0.5
    tail = np.maximum(np.where(q < 0, u, 1 - u), 2.0**-54)
    r = np.sqrt(-log(tail))
    outer = np.where(r <= 5, _ratio(_NEAR, r - 1.6), _ratio(_FAR, r - 5))
    return np.where(np.abs(q) <= 0.425, q * _ratio(_CENTRE, 0.180625 - q * q), np.where(q < 0, -outer, outer))


def student(u: Array, v: Array, freedom: Array) -> Array:
    """Student's t with ν degrees of freedom of two uniform variates: √(ν (u^(−2/ν) − 1)) · cos 2πv (Bailey 1994)."""
    inside = freedom * (exp(-2 / freedom * log(np.maximum(u, 2.0**-54))) - 1)
    return np.sqrt(np.maximum(inside, 0)) * cosine_of_turn(v)


def log(x: Array) -> Array:
    """ln x for x > 0: x = m · 2^k with m in [√½, √2), and 2 artanh((m − 1) / (m + 1)) as a series."""
    m, k = np.frexp(x)
    low = m < 0.7071067811865476
    m, k = np.where(low, 2 * m, m), np.where(low, k - 1, k)
    s = (m - 1) / (m + 1)
    return 2 * s * _horner(_ARTANH, s * s) + k * _LN2_LOW + k * _LN2_HIGH


def exp(x: Array) -> Array:
    """e^x: x = k ln 2 + r, and the series of e^r."""
    x = np.clip(x, -700.0, 700.0)
    k = np.rint(x / (_LN2_HIGH + _LN2_LOW))
    r = (x - k * _LN2_HIGH) - k * _LN2_LOW
    return np.ldexp(_horner(_EXP, r), k.astype(np.int64))


def softplus(x: Array) -> Array:
    """ln(1 + e^x), of the side where e^x stays small; ln(1 + e) as Kahan has it, exact where 1 + e rounds."""
    e = exp(-np.abs(x))
    u = 1 + e
    small = np.where(u == 1, e, log(u) * e / np.where(u == 1, 1.0, u - 1))
    return np.maximum(x, 0) + small


def cosine_of_turn(v: Array) -> Array:
    """cos 2πv for v in [0, 1): by symmetry of an angle of at most a quarter turn, as a series."""
    w = np.abs(v - 0.5)  # cos 2πv = −cos 2πw, w in [0, ½]
    sign, w = np.where(w > 0.25, 1.0, -1.0), np.where(w > 0.25, 0.5 - w, w)
    return sign * _horner(_COSINE, (2 * np.pi * w) ** 2)


def _horner(coefficients: Sequence[float], x: Array) -> Array:
    """The polynomial with these coefficients, the highest power's first."""
    total = np.full_like(x, coefficients[0])
    for one in coefficients[1:]:
        total = total * x + one
    return total


def _ratio(of: tuple[tuple[float, ...], tuple[float, ...]], x: Array) -> Array:
    return _horner(of[0], x) / _horner(of[1], x)
