"""Forecasts that feed themselves: each value predicted or drawn goes in as the next step's input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import arrays
from ..arrays import Float32
from ..engine.model import Model
from ..engine.rows import Rows, plan_of
from ..errors import CgruError, ShapeError, UnsupportedError
from .decoder import MOST_STEPS, bounded, check_numbers, network
from .heads import HEADS, SCALES, Head


def forecast(
    net: Model,
    history: Any,
    *,
    steps: int,
    paths: int | None = None,
    head: str = "value",
    scale: str = "linear",
    known: Any = None,
    inputs: Mapping[str, Any] | None = None,
    state: Any = None,
    seed: int = 0,
) -> Float32:
    """What follows a history, value by value: (B, T, F) → (B, steps, D), or with ``paths`` (B, paths, steps, D).

    The network takes one frame a step, (F,) numbers: the D of a value, then K that are ``known`` beforehand (a
    calendar, prices). At the last step of the history its first output says the value that follows, by its ``head``:

    - "value": the D numbers themselves;
    - "gaussian": D means, then D standard deviations;
    - "student": D locations, then D scales, then D degrees of freedom.

    ``scale`` says what the network gives for the last two: the number itself ("linear"), its logarithm ("log"), or what
    a softplus makes it of ("softplus"). Without ``paths`` the value, mean or location is fed back; with ``paths`` so
    many independent futures are drawn and each fed its own. ``known`` (B, steps, K) or (steps, K) goes in beside the
    value drawn at its step. A history without a batch axis gives a result without one.

    Random numbers are those of stream b · paths + p under ``seed``, the same on every machine (Philox; normal variates
    by inversion, Wichura 1988; Student's by Bailey 1994). :class:`CgruError` where a scale is not above zero.
    """
    if arrays.text(head, "head") not in HEADS:
        raise CgruError(f"head: expected one of {', '.join(HEADS)}, found {arrays.brief(head)}")
    if arrays.text(scale, "scale") not in SCALES:
        raise CgruError(f"scale: expected one of {', '.join(SCALES)}, found {arrays.brief(scale)}")
    plan = plan_of(network(net))
    ahead, many = bounded(steps, "steps", MOST_STEPS), 0 if paths is None else arrays.positive(paths, "paths")
    root = arrays.whole(seed, "seed")
    if root >= 1 << 64:
        raise CgruError("seed: expected a number below 2^64")
    if many and head == "value":
        raise CgruError('paths: nothing is drawn of a head that gives values; say head="gaussian" or "student"')
    if len(plan.timed) != 1 or plan.graph.inputs[plan.timed[0]].dtype != "float32":
        raise UnsupportedError("net: a forecast feeds back one input of features, a frame a step")
    name = plan.timed[0]
    given, single = plan.net._inputs.of(name).admit(history, "history")
    batch, frame = len(given), plan.graph.inputs[name].size
    if given.shape[1] == 0:
        raise ShapeError("history: it is empty, so nothing follows it")
    outputs = plan.graph.values[plan.outputs[0]].size
    if outputs % HEADS[head]:
        raise ShapeError(f"head: {head} takes {HEADS[head]} numbers for each of a value; the network gives {outputs}")
    size = outputs // HEADS[head]
    if size > frame:
        raise ShapeError(f"net: a value of {size} numbers does not fit into its frame of {frame}")
    check_numbers(batch * max(many, 1), ahead * size)
    beside = _known(known, batch, ahead, frame - size)
    data = plan.net._layout.zeros(batch) if state is None else plan.net._state(state, batch)._data
    rows = Rows(plan, plan.given(inputs, batch), data)
    y = rows.feed({name: given})[plan.outputs[0]][:, -1].reshape(batch, outputs)
    each = max(many, 1)
    if many:
        index = np.repeat(np.arange(batch), many)
        rows.keep(index)
        y, beside = y[index], beside[index]
    made = np.empty((batch * each, ahead, size), np.float32)
    _fill(made, rows, name, y, beside, Head(head, scale, size, root if many else None))
    shaped = made.reshape(batch, each, ahead, size) if many else made
    result: Float32 = shaped[0] if single else shaped
    return result


def _fill(made: Float32, rows: Rows, name: str, y: Float32, beside: Float32, head: Head) -> None:
    """The values of every step, made (B, N, D), of which the first follows what the network has given, y (B, O)."""
    features = rows.plan.graph.inputs[name].features
    t = 0
    if rows.in_core:
        frame = np.empty((len(made), 1, made.shape[2] + beside.shape[2]), np.float32)
        t, wrong = rows.values(name, frame, np.ascontiguousarray(y), beside, made, head.name, head.scale, head.seed)
        if not wrong:
            return
        y = y if t == 0 else rows.out[0][:, 0]  # where the core stopped; what follows says what is wrong there
    for step in range(t, made.shape[1]):
        made[:, step] = head.values(y, step)
        if step + 1 < made.shape[1]:
            frames = np.concatenate([made[:, step], beside[:, step]], axis=1)
            y = rows.step({name: frames.reshape(len(frames), *features)})[0]


def _known(known: Any, batch: int, steps: int, size: int) -> Float32:
    if known is None:
        if size:
            raise ShapeError(f"known: {size} numbers of each frame are no value; give them, ({steps}, {size})")
        return np.zeros((batch, steps, 0), np.float32)
    array = arrays.float32(known, "known", (2, 3))
    if array.shape not in ((steps, size), (batch, steps, size)):
        raise ShapeError(f"known: expected ({steps}, {size}) or ({batch}, {steps}, {size}), found {array.shape}")
    return np.ascontiguousarray(np.broadcast_to(array, (batch, steps, size)))
