"""A network beside the live object it was made from: both run on the same inputs, and must give the same outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..engine.model import Model
from ..engine.verification import TOLERANCE, Difference, beyond, difference
from ..errors import CgruError, UnsupportedError
from ..layers import Masking

#: Rows and steps of a random input: unlike each other and unlike 1, so that swapped axes show.
BATCH, STEPS = 3, 7
#: Standard deviations of the random inputs: the smallest leaves gates in their middle, the largest saturates them.
SCALES = (0.5, 2.0, 8.0)


def random_inputs(net: Model, batch: int = BATCH, steps: int | Mapping[str, int] = STEPS) -> list[Any]:
    """Inputs (B, T, I), or ids (B, T), that reach both sides of a relu, both ends of a gate, and any mask.

    The same numbers every time; no framework's random state is touched. A graph of several inputs gets mappings by
    name, and ``steps`` may say how many each of them has.
    """
    return [_inputs(net, batch, steps, scale) for scale in SCALES]


def _inputs(net: Model, batch: int, steps: int | Mapping[str, int], scale: float) -> Any:
    """An array for each input by name, or the only one's."""
    rng = np.random.default_rng(20_260 + int(scale * 2))
    made: dict[str, np.ndarray] = {}
    for i, name in enumerate(net.input_names):
        value = net.graph.inputs[name]
        count = steps.get(name, STEPS) if isinstance(steps, Mapping) else steps
        if value.clock is not None and value.clock.root and not isinstance(steps, Mapping):
            count += i  # a time axis of its own
        features = value.features if net.input_size else (5,)
        shape = (batch, *([count] if value.clock is not None else []), *features)
        if value.dtype == "int64":
            made[name] = rng.integers(0, net.vocabulary_of(name) or 2, shape)
        else:
            made[name] = (scale * rng.standard_normal(shape)).astype(np.float32)
    first = net.layers[0]
    if isinstance(first, Masking):
        made[net.input_names[0]][batch // 2, count // 2 :] = first.mask_value
    return made if len(made) > 1 else made[net.input_names[0]]


def verify_against(
    net: Model,
    run_foreign: Callable[[Any], Any],
    inputs: Sequence[Any],
    *,
    tolerance: float = TOLERANCE,
    hint: str = "",
) -> Difference:
    """Run ``net`` and ``run_foreign`` on each of ``inputs`` and return the largest difference of their outputs.

    ``run_foreign`` takes an input and gives an array (a tuple of arrays where the network gives several). A last axis
    of 1 may be missing from what it gives. Raises :class:`UnsupportedError` where the outputs differ in shape or, by
    more than ``tolerance`` relatively, in value, and :class:`CgruError` where ``run_foreign`` raises. ``hint`` ends
    these messages.
    """
    worst = None
    for x in inputs:
        found = _compared(net, run_foreign, x, hint)
        if not found.within(tolerance):
            raise UnsupportedError(
                f"the original computes something else than the layers {' → '.join(layer.name for layer in net.layers)}"
                f": {beyond(found, tolerance)}{hint}"
            )
        if worst is None or found.relative_rms > worst.relative_rms:
            worst = found
    assert worst is not None
    return worst


def _compared(net: Model, run_foreign: Callable[[Any], Any], x: Any, hint: str) -> Difference:
    ours = _tuple(net(x))
    try:
        theirs = _tuple(run_foreign(x))
    except CgruError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise CgruError(
            f"the original cannot be run on an input of shape {_shape(x)} to compare with: {type(error).__name__}: "
            f"{text}; give one by example=, or leave the comparison out by verify=False{hint}"
        ) from error
    shapes = [part.shape for part in ours], [part.shape for part in theirs]
    if len(ours) == len(theirs) and all(_same(a, b) for a, b in zip(*shapes, strict=True)):
        flat = (np.concatenate([part.ravel() for part in side]) for side in (ours, theirs))
        return difference(*flat)
    mine, found = (", ".join(map(str, side)) for side in shapes)
    raise UnsupportedError(
        f"the original gives shape {found} for an input of shape {_shape(x)}, the layers "
        f"{' → '.join(layer.name for layer in net.layers)} give {mine}{hint}"
    )


def _same(ours: tuple[int, ...], theirs: tuple[int, ...]) -> bool:
    return theirs in (ours, ours[:-1] if ours[-1] == 1 else ours)


def _shape(x: Any) -> str:
    return ", ".join(f"{k} {v.shape}" for k, v in x.items()) if isinstance(x, Mapping) else str(x.shape)


def _tuple(outputs: Any) -> tuple[np.ndarray, ...]:
    if isinstance(outputs, Mapping):
        outputs = tuple(outputs.values())
    return tuple(np.asarray(part) for part in (outputs if isinstance(outputs, tuple) else (outputs,)))
