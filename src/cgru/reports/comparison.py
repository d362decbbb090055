"""What reduced precision cost and what it gave: the error and the speed of one network against another's."""

from __future__ import annotations

import math
import statistics
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..engine.inputs import Given, counted
from ..engine.model import Model
from ..engine.network import Chain
from ..engine.verification import difference
from ..errors import CgruError, CgruWarning
from ..layers import Activation, Dense, Layer
from ..threads import resolve
from .tables import aligned

#: Seconds for which the two networks take turns, and how many turns there are at least.
SECONDS, TURNS = 0.4, 3
#: How much longer a call must take before anyone is warned: medians of a busy machine differ by less.
SLOWER = 1.05


@dataclass(frozen=True)
class Error:
    """How far an output (of the layer named) is from the first network's, over the steps that count.

    ``relative_rms`` is the root of the mean square of the differences over that of the first network's output.
    Where just one of the two is NaN or infinite the difference is infinite, where both are alike it is 0.
    """

    name: str
    max_abs: float
    mean_abs: float
    relative_rms: float


@dataclass(frozen=True)
class Side:
    """One of the two networks: what it holds, and the median time of a call on the sample."""

    precision: str
    parameters: int
    nbytes: int
    microseconds: float


@dataclass(frozen=True)
class Comparison:
    """The second network against the first, on one input: ``print`` it, or take :meth:`to_dict`.

    ``layers`` has the error after every layer, each network feeding on its own numbers; ``output`` is the error at
    the end. ``agreement`` is the share of outputs whose largest entry is the same, where they are distributions
    (softmax), else None. ``first`` and ``second`` hold sizes and times.
    """

    layers: tuple[Error, ...]
    output: Error
    agreement: float | None
    first: Side
    second: Side
    shape: tuple[int, ...]
    threads: int

    @property
    def speedup(self) -> float:
        """How many times as fast the second network is."""
        return self.first.microseconds / self.second.microseconds

    @property
    def size(self) -> float:
        """Its bytes as a share of the first network's."""
        return self.second.nbytes / self.first.nbytes if self.first.nbytes else 1.0

    def to_dict(self) -> dict[str, Any]:
        """Everything in values that JSON has; numbers that are not finite are None."""
        return _plain(asdict(self) | {"speedup": self.speedup, "size": self.size})

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("output of", "max abs error", "mean abs error", "relative RMS")]
        rows += [
            (error.name, *(f"{value:.3g}" for value in (error.max_abs, error.mean_abs, error.relative_rms)))
            for error in (*self.layers, self.output)
        ]
        lines = aligned(rows)
        if self.agreement is not None:
            lines.append(f"top-1 agreement {self.agreement:.2%}")
        sides: list[tuple[str, ...]] = [("", "parameters", "bytes", f"µs a call, x {self.shape}")]
        sides += [
            (f"{which}, {side.precision}", f"{side.parameters:,}", f"{side.nbytes:,}", f"{side.microseconds:,.1f}")
            for which, side in (("first", self.first), ("second", self.second))
        ]
        sides.append(("second to first", "", f"{self.size:.3f} ×", f"{self.speedup:.2f} × as fast"))
        return "\n".join((*lines, "", *aligned(sides)))


def compare(
    net: Model, other: Model, x: Any, lengths: Any = None, mask: Any = None, *, threads: int | str | None = None
) -> Comparison:
    """Run both networks on ``x`` (as for calling them) and say how far ``other`` is from ``net``, and how fast it is.

    The two must have the same layers in the same sizes: a network and what :meth:`Model.quantize` made of it, or two
    files of one network. The times are medians of calls in turns. Raises :class:`CgruError` where layers differ. Of a
    network that is no chain the errors are those of its outputs.
    """
    for what in (net, other):
        if not isinstance(what, Model):
            raise CgruError(f"compare: expected two cgru.Model, found {type(what).__name__}")
    if not (net.is_chain and other.is_chain):
        return _compare_graphs(net, other, (x, lengths, mask), resolve(threads))
    _check_alike(net.layers, other.layers)
    count = resolve(threads)
    given = net._inputs.admit(x)
    (x3,) = given.arrays.values()
    if not x3.size:
        raise CgruError(f"x: there is nothing to compare on in shape {x3.shape}")
    ours, theirs = (_layer_outputs(one, given, lengths, mask, count) for one in (net, other))
    errors = [_error(layer.name, a, b) for layer, a, b in zip(net.layers, ours, theirs, strict=True)]
    ends = [_joined(one(x3, lengths, mask, threads=count)) for one in (net, other)]
    counted = ours[-1].counted
    agreement = None
    if _is_distribution(net.layers[-1]):
        same = ends[0].argmax(-1) == ends[1].argmax(-1)
        agreement = float(np.mean(same, where=True if counted is None else counted))
    times = _times((net, other), (x3, lengths, mask), count)
    first, second = (
        Side(one.precision, one.parameters, one.nbytes, seconds * 1e6)
        for one, seconds in zip((net, other), times, strict=True)
    )
    output = _error("the network", _Output(ends[0], counted), _Output(ends[1], counted))
    return Comparison(tuple(errors), output, agreement, first, second, x3.shape, count)


def _compare_graphs(net: Model, other: Model, call: tuple[Any, Any, Any], threads: int) -> Comparison:
    if net.is_chain or other.is_chain:
        raise CgruError("compare: one network is a chain of layers and the other is not; they must be alike")
    if net.graph.to_json() != other.graph.to_json():
        raise CgruError("compare: the networks' graphs differ; they must have the same nodes in the same sizes")
    ours, theirs = (_by_name(one, one(*call, threads=threads)) for one in (net, other))
    if not any(array.size for array in ours.values()):
        raise CgruError("x: there is nothing to compare on")
    errors = [_error(name, _Output(y, None), _Output(theirs[name], None)) for name, y in ours.items()]
    flat = [_Output(np.concatenate([y.ravel() for y in found.values()]), None) for found in (ours, theirs)]
    times = _times((net, other), call, threads)
    first, second = (
        Side(one.precision, one.parameters, one.nbytes, seconds * 1e6)
        for one, seconds in zip((net, other), times, strict=True)
    )
    given = call[0] if not isinstance(call[0], Mapping) else next(iter(call[0].values()))
    return Comparison(tuple(errors), _error("the network", *flat), None, first, second, np.shape(given), threads)


def _by_name(net: Model, y: Any) -> dict[str, np.ndarray]:
    named = y if isinstance(y, dict) else {net.graph.outputs[0]: y}
    return {name: np.asarray(array, np.float32) for name, array in named.items()}


def verify(net: Model, reduced: Model, sample: Any) -> Comparison:
    """:func:`compare`, with a :class:`CgruWarning` where the reduced network is the slower."""
    found = compare(net, reduced, sample)
    first, second = found.first, found.second
    if second.microseconds > SLOWER * first.microseconds:
        warnings.warn(
            f"{second.precision} is slower than {first.precision} here: {second.microseconds:,.1f} µs against "
            f"{first.microseconds:,.1f} µs a call for input of shape {found.shape}",
            CgruWarning,
            stacklevel=3,
        )
    return found


@dataclass(frozen=True)
class _Output:
    """Numbers that leave a layer, features last, and which of them count: bool over the axes before, or None."""

    values: np.ndarray
    counted: np.ndarray | None


def _check_alike(first: Sequence[Layer], second: Sequence[Layer]) -> None:
    if len(first) != len(second):
        raise CgruError(f"compare: the networks have {len(first)} and {len(second)} layers; they must have the same")
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        if (a.kind, a.describe()) != (b.kind, b.describe()):
            raise CgruError(
                f"compare: layer {i} of the networks differs: {a.name} is {a.kind} {a.describe()}, {b.name} is "
                f"{b.kind} {b.describe()}; they must have the same layers in the same sizes"
            )


def _layer_outputs(net: Model, given: Given, lengths: Any, mask: Any, threads: int) -> list[_Output]:
    """What leaves every layer of a chain."""
    chain = net._network
    assert isinstance(chain, Chain)
    valid = counted(given, lengths, mask)
    net._inputs.add_masks(given, mask)
    masks = [chain.masks.get(ends[0], "") for ends in chain.ends]
    inside = [name for name in masks if name and name not in net.graph.inputs]
    names = list(dict.fromkeys([*(name for ends in chain.ends for name in ends), *inside]))
    values, found = net._values(names, given, lengths, threads), []
    for ends, name in zip(chain.ends, masks, strict=True):
        seen = values.get(name)
        count = valid if seen is None else seen if valid is None else seen & valid
        last = net.graph.values[ends[0]].clock is None
        y = values[ends[0]] if len(ends) == 1 else tuple(values[end] for end in ends)
        found.append(_Output(_joined(y), None if last else count))
    return found


def _joined(y: Any) -> np.ndarray:
    """An output, or the two of directions that are not merged side by side, in the precision that callers see."""
    with np.errstate(over="ignore"):
        return np.asarray(np.concatenate(y, axis=-1) if isinstance(y, tuple) else y, np.float32)


def _is_distribution(layer: Layer) -> bool:
    return isinstance(layer, (Dense, Activation)) and layer.activation == "softmax"


def _error(name: str, first: _Output, second: _Output) -> Error:
    right, found = (one.values if one.counted is None else one.values[one.counted] for one in (first, second))
    apart = difference(found, right)
    return Error(name, apart.max_abs, apart.mean_abs, apart.relative_rms)


def _times(nets: tuple[Model, Model], call: tuple[Any, ...], threads: int) -> list[float]:
    """The median seconds of a call of each, in turns so that whatever else the machine does meets both alike."""
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + SECONDS
    while len(times[0]) < TURNS or time.perf_counter() < end:
        for net, seconds in zip(nets, times, strict=True):
            start = time.perf_counter()
            net(*call, threads=threads)
            seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in times]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
