"""How far a network's outputs are from those it should give: one measure, and the check that refuses what is beyond."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import as_array, brief, number
from ..errors import CgruError, ShapeError
from ..layers.conventions import plain
from ..spec.values import EVERY_STEP
from .inputs import counted
from .model import Model

#: The relative difference that float32 is allowed: other sums round otherwise, by some 1e-7 a step.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Difference:
    """How far some outputs are from the right ones.

    ``relative_rms`` is the root mean square of the differences over that of the right outputs, ``relative_max`` the
    largest difference over the largest magnitude among them. Where just one of two numbers is NaN or infinite the
    difference is infinite; where both are alike it is 0.
    """

    max_abs: float
    mean_abs: float
    relative_rms: float
    relative_max: float

    def within(self, tolerance: float) -> bool:
        """Whether both relative differences are at most ``tolerance``."""
        return self.relative_rms <= tolerance and self.relative_max <= tolerance

    def __str__(self) -> str:
        return f"largest difference {self.max_abs:.3g}, relative RMS {self.relative_rms:.3g}"


def difference(got: Any, want: Any) -> Difference:
    """The :class:`Difference` of two arrays of one shape; 0 where they are empty."""
    a, b = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if not a.size:
        return Difference(0.0, 0.0, 0.0, 0.0)
    with np.errstate(invalid="ignore"):
        apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    apart[np.isnan(apart)] = np.inf
    finite = b[np.isfinite(b)]
    rms, largest = (math.sqrt(np.mean(np.square(finite))), float(np.abs(finite).max())) if finite.size else (0.0, 0.0)
    return Difference(
        float(apart.max()),
        float(apart.mean()),
        _over(math.sqrt(np.mean(np.square(apart))), rms),
        _over(float(apart.max()), largest),
    )


def verify(
    net: Model,
    x: Any,
    y: Any,
    lengths: Any = None,
    mask: Any = None,
    *,
    tolerance: float = TOLERANCE,
    threads: int | str | None = None,
) -> Difference:
    """Run ``net`` on ``x`` and return how far its outputs are from ``y``, those that the trained network gave.

    ``x``, ``lengths`` and ``mask`` are as for :meth:`Model.run`; ``y`` has the shape of the outputs, (B, T, O) or
    (B, O), or is the tuple or the mapping of such that the network gives. Steps that do not count are not compared.

    Raises :class:`CgruError` with the difference where it is beyond ``tolerance``, of the relative RMS and of the
    largest difference alike, and :class:`ShapeError` where ``y`` has another shape than the outputs.
    """
    allowed = checked_tolerance(tolerance)
    found = measure(net, x, y, lengths, mask, threads=threads)
    if not found.within(allowed):
        raise CgruError(f"y: the network gives other outputs: {beyond(found, allowed)}{_advice(net)}")
    return found


def measure(
    net: Model, x: Any, y: Any, lengths: Any = None, mask: Any = None, *, threads: int | str | None = None
) -> Difference:
    """The difference that :func:`verify` judges; raises :class:`ShapeError` where ``y`` has not the outputs' shape."""
    if not isinstance(net, Model):
        raise CgruError(f"net: expected a cgru.Model, found {type(net).__name__}")
    x, lengths, mask = (None if value is None else plain(value) for value in (x, lengths, mask))
    got = net(x, lengths, mask, threads=threads)
    gots, wants = (
        tuple(value.values()) if isinstance(value, Mapping) else value if isinstance(value, tuple) else (value,)
        for value in (got, _in_order(got, y))
    )
    if len(gots) != len(wants):
        raise ShapeError(f"y: the network gives {len(gots)} arrays, found {len(wants)}")
    seen = _counted(net, x, lengths, mask)
    pairs = []
    for ours, right in zip(gots, map(_real, wants), strict=True):
        if ours.shape != right.shape:
            raise ShapeError(f"y: the network gives shape {ours.shape} for x {np.shape(x)}, found {right.shape}")
        pairs.append((ours, right) if seen is None else (ours[seen], right[seen]))
    if not any(ours.size for ours, _ in pairs):
        raise CgruError(f"x: there is nothing to compare in shape {np.shape(x)}")
    ours, right = (np.concatenate([part.ravel() for part in side]) for side in zip(*pairs, strict=True))
    return difference(ours, right)


def beyond(found: Difference, tolerance: float) -> str:
    """What is wrong with a difference that is not within ``tolerance``."""
    return (
        f"{found} (relative to the largest output {found.relative_max:.3g}), where at most {tolerance:.3g}, relative, "
        "is allowed"
    )


def checked_tolerance(tolerance: Any) -> float:
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not 0 <= tolerance < math.inf:
        raise CgruError(f"tolerance: expected a number from 0, a relative difference, found {brief(tolerance)}")
    return number(tolerance, "tolerance")


def _over(part: float, whole: float) -> float:
    return part / whole if whole else math.inf if part else 0.0


def _real(value: Any) -> np.ndarray:
    array: np.ndarray = as_array(plain(value), "y", "numbers")
    if array.dtype.kind not in "fiub":
        raise ShapeError(f"y: expected an array of real numbers, found {array.dtype}")
    return array


def _in_order(got: Any, y: Any) -> Any:
    """``y`` with its arrays in the order of the network's outputs, where those have names."""
    if not isinstance(got, Mapping):
        return y
    if not isinstance(y, Mapping) or y.keys() != got.keys():
        found = f"arrays of {', '.join(map(str, y))}" if isinstance(y, Mapping) else f"one {type(y).__name__}"
        raise ShapeError(f"y: expected a mapping of the outputs {', '.join(got)}, found {found}")
    return {name: y[name] for name in got}


def _counted(net: Model, x: Any, lengths: Any, mask: Any) -> np.ndarray | None:
    """(B, T), or (T,) for a single sequence: the steps that count; None where all do or the last alone comes out."""
    if (lengths is None and mask is None) or any(
        net.graph.values[name].clock != EVERY_STEP for name in net.graph.outputs
    ):
        return None
    given = net._inputs.admit(x)
    valid = counted(given, lengths, mask)
    return valid[0] if given.single and valid is not None else valid


def _advice(net: Model) -> str:
    if net.precision != "float32":
        return f"; its weights are {net.precision}, whose rounding may be all of this; tolerance= says what to accept"
    return (
        "; the layers, their order, or an activation or 'last_step' between them are not the trained network's: "
        "say them by layers="
    )
