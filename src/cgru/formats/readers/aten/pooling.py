"""ATen's pooling over windows, of frames or inside them, and the same numbers several times over."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

from ....errors import UnsupportedError
from .convolution import Space, numbers_of, space_of
from .lowering import Lowering, handles
from .program import Call
from .reduction import reduced
from .values import BT, TB, B, Misread, T, Tensor


@handles("max_pool1d", "max_pool2d", "max_pool3d", "max_pool1d_with_indices", "max_pool2d_with_indices")
def _largest(lo: Lowering, call: Call) -> Any:
    dilation = lo.arg(call, 4, "dilation", 1)
    if any(v != 1 for v in (dilation if isinstance(dilation, list) else [dilation])):
        raise UnsupportedError("pooling with dilation")
    made = _pooled(lo, call, "max", lo.arg(call, 5, "ceil_mode", False), False)
    return [made] if call.base.endswith("indices") else made


@handles("avg_pool1d", "avg_pool2d", "avg_pool3d")
def _average(lo: Lowering, call: Call) -> Tensor:
    if lo.arg(call, 6, "divisor_override", None) is not None:
        raise UnsupportedError("pooling with a divisor of its own")
    count = bool(lo.arg(call, 5, "count_include_pad", True))
    return _pooled(lo, call, "average", lo.arg(call, 4, "ceil_mode", False), count)


def _pooled(lo: Lowering, call: Call, kind: str, ceil: bool, count: bool) -> Tensor:
    axes = int(call.base.split("pool")[1][0])
    space = space_of(lo, lo.tensor(call), axes, "pooling")
    kernel = numbers_of(lo.arg(call, 1, "kernel_size"), axes)
    strides = numbers_of(lo.arg(call, 2, "stride", None) or kernel, axes)
    pads = numbers_of(lo.arg(call, 3, "padding", 0), axes)
    if ceil:
        for i in range(axes):
            if i == space.time or (space.x.shape[2 + i] + 2 * pads[i] - kernel[i]) % strides[i]:
                raise UnsupportedError("pooling with ceil_mode, whose last window would not be whole")
    (width, inner), (stride, steps), (pad, around) = (space.split(v) for v in (kernel, strides, pads))
    if kind == "average" and pad and any(around) and not count:
        raise UnsupportedError("an average over time and features whose padding does not count")
    name = space.frame
    if any(v != 1 for v in (*inner, *steps)) or any(around):
        name = lo.emit(
            "pool_inner", name, kind=kind, kernel=inner, strides=steps, dilations=(1,) * len(inner),
            pads=(*around, *around), count_padding=count,
        )  # fmt: skip
    if space.time is not None and (width, stride, pad) != (1, 1, 0):
        lo.sees_later(space.x, width - 1, "pooling over frames")
        counted: dict[str, Any] = {} if kind == "max" else {"count_padding": count}
        name = lo.emit("pool", name, kind=kind, width=width, stride=stride, left=pad, right=pad, **counted)
    return space.result(name)


@handles("adaptive_avg_pool1d", "adaptive_max_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool2d")
def _adaptive(lo: Lowering, call: Call) -> Any:
    """Windows that are as many as is said: one for all, or of equal size."""
    axes = int(call.base[-2])
    x = lo.tensor(call)
    wanted = numbers_of(lo.arg(call, 1, "output_size"), axes)
    kind = "mean" if "avg" in call.base else "max"
    _checked(x, axes)
    lo.evident = lo.evident or T in x.axes[2:]
    whole = [2 + i for i, n in enumerate(wanted) if n == 1]
    x = reduced(lo, x, kind, whole, True) if whole else x
    parts = [i for i, n in enumerate(wanted) if n != 1 and x.shape[2 + i] != n]
    if parts:
        space = space_of(lo, x, axes, "pooling")
        if any(i == space.time or x.shape[2 + i] % wanted[i] for i in parts):
            raise UnsupportedError(f"adaptive pooling of {x.shape[2:]} to {tuple(wanted)}, in windows of unequal size")
        sizes = [x.shape[2 + i] // wanted[i] if i in parts else 1 for i in range(axes)]
        _, kernel = space.split(sizes)
        made = lo.emit(
            "pool_inner", space.frame, kind="average" if kind == "mean" else "max", kernel=kernel, strides=kernel,
            dilations=(1,) * len(kernel), pads=(0,) * 2 * len(kernel),
        )  # fmt: skip
        x = space.result(made)
    return x if kind == "mean" else [x]


def _checked(x: Tensor, axes: int) -> None:
    if len(x.axes) != axes + 2 or x.axes[0] not in (B, None, BT, TB) or x.axes[1] == T:
        raise Misread("pooling takes (rows, channels, …), and the axes are others")


@handles("upsample_nearest1d", "upsample_nearest2d")
def _upsample(lo: Lowering, call: Call) -> Tensor:
    axes = int(call.base[-2])
    space = space_of(lo, lo.tensor(call, 0, "input"), axes, "upsampling")
    size, scales = lo.arg(call, 1, "output_size", None), lo.arg(call, 2, "scale_factors", None)
    if size is not None or scales is None:
        raise UnsupportedError("upsampling to a size; by a whole factor it runs (scale_factor=)")
    factors = [float(s) for s in (scales if isinstance(scales, list) else [scales])]
    if any(f != int(f) or f < 1 for f in factors):
        raise UnsupportedError("upsampling by something else than a whole factor")
    along, inner = space.split([int(f) for f in factors])
    return _repeated(lo, space, along, inner)


def _repeated(lo: Lowering, space: Space, along: int, inner: tuple[int, ...]) -> Tensor:
    name = space.frame
    for axis, factor in enumerate(inner, 1):
        if factor > 1:
            indices = tuple(i for i in range(lo.features(name)[axis]) for _ in range(factor))
            name = lo.emit("take", name, axis=axis, indices=indices)
    if space.time is not None and along > 1:
        name = lo.emit("upsample", name, factor=along)
    return space.result(name)


@handles("repeat_interleave")
def _repeat_interleave(lo: Lowering, call: Call) -> Tensor:
    x, times, dim = lo.tensor(call), lo.arg(call, 1, "repeats"), lo.arg(call, 2, "dim", None)
    if not isinstance(times, int) or dim is None:
        raise UnsupportedError("repetition by numbers of its own for each entry, or of all axes")
    axis = x.axes[dim % len(x.axes)]
    if axis == T:
        lo.evident = True
        return replace(x, name=lo.emit("upsample", x.name, factor=times) if times > 1 else x.name)
    if not isinstance(axis, int):
        raise Misread("repetition of rows")
    indices = tuple(i for i in range(lo.features(x)[axis]) for _ in range(times))
    return replace(x, name=lo.emit("take", x.name, axis=axis, indices=indices))


@handles("unfold")
def _unfold(lo: Lowering, call: Call) -> Tensor:
    """Windows of ``size`` frames every ``step``, as a new last axis: torch.Tensor.unfold."""
    x = lo.natural(lo.tensor(call))
    dim, size, step = (lo.arg(call, i, name) for i, name in ((1, "dimension"), (2, "size"), (3, "step")))
    if x.axes[dim % len(x.axes)] != T:
        raise Misread("windows of an axis that is not time")
    lo.evident = True
    lo.sees_later(x, size - 1, "windows of frames")
    count = len(lo.features(x))
    name = lo.emit("stack_frames", x.name, width=size, stride=step)
    if count:
        name = lo.emit("transpose", name, order=(*range(1, count + 1), 0))
    return replace(x, name=name, axes=(*x.axes, count))


@handles("pixel_shuffle")
def _pixel_shuffle(lo: Lowering, call: Call) -> Tensor:
    """(C · r², H, W) → (C, r H, r W) inside each frame (Shi et al. 2016)."""
    x, r = lo.natural(lo.tensor(call)), lo.arg(call, 1, "upscale_factor")
    if len(x.axes) != 4 or len(lo.features(x)) != 3:
        raise Misread("pixel_shuffle takes (rows, channels, height, width), none of them time")
    channels, high, wide = lo.features(x)
    name = lo.emit("reshape", x.name, features=(channels // (r * r), r, r, high, wide))
    name = lo.emit("transpose", name, order=(0, 3, 1, 4, 2))
    name = lo.emit("reshape", name, features=(channels // (r * r), high * r, wide * r))
    assert prod(lo.features(name)) == prod((channels, high, wide))
    return replace(x, name=name)
