"""ATen's convolutions, over time, inside each frame, or over both at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ....errors import UnsupportedError
from .lowering import Lowering, handles
from .program import Call
from .values import BT, TB, Axis, B, Misread, T, Tensor


class Space(NamedTuple):
    """A value (rows, channels, *spatial) as a convolution or pooling takes it.

    ``frame`` is the graph's value of features (C, *inner), ``time`` the place of time among the spatial axes, or None.
    """

    frame: str
    x: Tensor
    time: int | None

    def result(self, name: str) -> Tensor:
        """What came of it, with the axes that it had."""
        numbers = iter(range(1, len(self.x.axes)))
        spatial: list[Axis] = [T if i == self.time else next(numbers) for i in range(len(self.x.axes) - 2)]
        return replace(self.x, name=name, axes=(self.x.axes[0], 0, *spatial), shape=())

    def split(self, values: Sequence[int]) -> tuple[int, tuple[int, ...]]:
        """Of one number a spatial axis: time's (1 where there is none), and the inner ones'."""
        inner = tuple(v for i, v in enumerate(values) if i != self.time)
        return (values[self.time] if self.time is not None else 1), inner


def space_of(lo: Lowering, x: Tensor, axes: int, what: str) -> Space:
    """``x`` as (rows, channels, ``axes`` spatial ones); :class:`Misread` where its axes are others."""
    if len(x.axes) != axes + 2 or x.axes[0] not in (B, None, BT, TB):
        raise Misread(f"{what} takes (rows, channels, …), and the axes are others")
    spatial = x.axes[2:]
    if any(isinstance(axis, str) and axis != T for axis in x.axes[1:]) or x.axes[1] == T or spatial.count(T) > 1:
        raise Misread(f"{what} takes (rows, channels, …), and the axes are others")
    if T in spatial:
        lo.evident = True
    positions = [1, *(2 + i for i, axis in enumerate(spatial) if axis != T)]
    return Space(lo.arranged(x, positions), x, spatial.index(T) if T in spatial else None)


def numbers_of(value: Any, axes: int) -> list[int]:
    """One number a spatial axis of an argument that may be one for all."""
    if isinstance(value, int):
        return [value] * axes
    found = [int(v) for v in value]
    if len(found) == 1:
        return found * axes
    if len(found) != axes:
        raise UnsupportedError(f"{len(found)} numbers where {axes} are expected")
    return found


def _own(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, np.float32)


def _arrays(weight: np.ndarray, bias: np.ndarray | None, time: int | None) -> dict[str, np.ndarray]:
    """Weights with time, where it is one of the spatial axes, as the first of them."""
    weight = weight if time is None else np.moveaxis(weight, 2 + time, 2)
    return {"weight": _own(weight)} | ({} if bias is None else {"bias": _own(bias)})


def title_of(lo: Lowering, call: Call) -> str:
    """What a node made of a call is named after: the module's path, where it is not taken."""
    return call.module if call.module and call.module not in lo.g.values else ""


@handles("conv1d", "conv2d", "conv3d")
def _convolution(lo: Lowering, call: Call) -> Tensor:
    weight, bias = lo.known(call, 1, "weight"), lo.known(call, 2, "bias", None)
    axes = weight.ndim - 2
    space = space_of(lo, lo.tensor(call, 0, "input"), axes, "a convolution")
    strides, dilations = (numbers_of(lo.arg(call, i, name, 1), axes) for i, name in ((3, "stride"), (5, "dilation")))
    padding, groups = lo.arg(call, 4, "padding", 0), lo.arg(call, 6, "groups", 1)
    spans = [(k - 1) * d for k, d in zip(weight.shape[2:], dilations, strict=True)]
    if isinstance(padding, str):
        before = [0 if padding == "valid" else span // 2 for span in spans]
        behind = [0 if padding == "valid" else span - span // 2 for span in spans]
    else:
        before = behind = numbers_of(padding, axes)
    (width, kernel), (stride, inner) = space.split(weight.shape[2:]), space.split(strides)
    (dilation, spread), (left, low), (right, high) = (space.split(v) for v in (dilations, before, behind))
    common: dict[str, Any] = {
        "weights": _arrays(weight, bias, space.time), "name": title_of(lo, call), "units": weight.shape[0],
        "groups": groups,
    }  # fmt: skip
    window: dict[str, Any] = {"kernel": kernel, "strides": inner, "dilations": spread, "pads": (*low, *high)}
    if space.time is None:
        return space.result(lo.emit("conv_inner", space.frame, **common, **window))
    lo.sees_later(space.x, right + (stride > 1), "a convolution that looks ahead")
    along: dict[str, Any] = {"width": width, "stride": stride, "dilation": dilation, "left": left, "right": right}
    if axes == 1:
        return space.result(lo.emit("conv1d", space.frame, **common, **along))
    return space.result(lo.emit("conv2d", space.frame, **common, **along, **window))


@handles("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _transposed(lo: Lowering, call: Call) -> Tensor:
    weight, bias = lo.known(call, 1, "weight"), lo.known(call, 2, "bias", None)
    axes = weight.ndim - 2
    space = space_of(lo, lo.tensor(call, 0, "input"), axes, "a transposed convolution")
    places = ((3, "stride", 1), (4, "padding", 0), (5, "output_padding", 0), (7, "dilation", 1))
    strides, paddings, extras, dilations = (
        numbers_of(lo.arg(call, i, name, default), axes) for i, name, default in places
    )
    groups = lo.arg(call, 6, "groups", 1)
    (width, kernel), (stride, inner), (dilation, spread), (padding, cut), (extra, more) = (
        space.split(v) for v in (weight.shape[2:], strides, dilations, paddings, extras)
    )
    common: dict[str, Any] = {
        "weights": _arrays(weight, bias, space.time), "name": title_of(lo, call), "groups": groups,
        "units": weight.shape[1] * groups,
    }  # fmt: skip
    window: dict[str, Any] = {
        "kernel": kernel,
        "strides": inner,
        "dilations": spread,
        "pads": (*cut, *cut),
        "extra": more,
    }
    if space.time is None:
        return space.result(lo.emit("conv_transpose_inner", space.frame, **common, **window))
    lo.sees_later(space.x, 1, "a transposed convolution over time")
    # The operation gives stride frames for each of n + span − 1; torch's kernels end ``excess`` frames before that.
    reach = (width - 1) * dilation + 1
    span = -(-reach // stride)
    excess = stride * span - reach
    if extra > excess + padding:
        raise UnsupportedError(f"output_padding={extra} with padding={padding}: frames that no kernel reaches")
    name = lo.emit(
        "conv_transpose", space.frame, **common, width=width, stride=stride, dilation=dilation, right=span - 1, **window
    )
    if padding or excess - extra + padding:
        name = lo.emit("pad_time", name, left=-padding, right=-(excess - extra + padding))
    return space.result(name)
