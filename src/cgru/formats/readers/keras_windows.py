"""Keras layers that see a few steps at once, and those that change how many there are: convolutions, pooling, padding.

On a sequence they run over time; on feature axes (a sequence taken apart, an image in a frame) along those.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ...errors import UnsupportedError
from .keras_draft import Draft, Step, Tensor
from .keras_graph import Entry
from .keras_pointwise import on_one
from .keras_settings import Activated, Build, Settings, check_shape
from .keras_weights import Weights

_PADDINGS = ("valid", "same", "causal")


def _ends(d: Draft, padding: str, span: int, stride: int, size: int) -> tuple[int, int]:
    """TensorFlow's padding before and behind an axis of known size."""
    if padding == "causal":
        return span - 1, 0
    total = max((-(-size // stride) - 1) * stride + span - size, 0) if padding == "same" else 0
    return total // 2, total - total // 2


def _padded(d: Draft, x: Tensor, padding: str, span: int, stride: int, value: float = 0.0) -> tuple[Tensor, int, int]:
    """A sequence and the padding that windows over it need: with strides, that of ``same`` depends on its length."""
    if padding == "same" and stride > 1:
        return d.node("pad_same", x, part="padded", span=span, stride=stride, value=value), 0, 0
    return (x, *_ends(d, padding, span, stride, 1 << 20 if padding != "same" else span))


def _channels(d: Draft, x: Tensor, axes: int, run: Callable[[Tensor], Tensor]) -> Tensor:
    """``run`` on a frame with its channels put first, as the operations on inner axes have them."""
    first = d.node("transpose", x, part="channels", order=(axes, *range(axes)))
    return d.node("transpose", run(first), part="back", order=(*range(1, axes + 1), 0))


def _convolution(
    weight: np.ndarray, bias: np.ndarray | None, groups: int, kernel: Sequence[int], strides: Sequence[int],
    dilations: Sequence[int], padding: str, activation: Activated,
) -> Callable[[Draft, Tensor], Tensor]:  # fmt: skip
    """weight (O, I / groups, *kernel)."""
    arrays = {"weight": np.ascontiguousarray(weight), **({} if bias is None else {"bias": bias})}
    spans = [(k - 1) * s + 1 for k, s in zip(kernel, dilations, strict=True)]
    inside = activation.name if activation.is_plain and activation.name != "softmax" else "linear"
    axes, units = len(kernel), len(weight)

    def run(d: Draft, x: Tensor) -> Tensor:
        if x.timed and (axes > 1 or len(d.features(x)) != 1):
            x = d.folded(x, "a convolution over several axes")
        features = d.features(x)
        if len(features) != (1 if x.timed else axes + 1) or features[-1] != weight.shape[1] * groups:
            raise d.refuse(f"has {weight.shape[1] * groups} channels in, its input is {d.value(x).describe()}")
        if x.timed:
            part, left, right = _padded(d, x, padding, spans[0], strides[0])
            y = d.node(
                "conv1d", part, weights=arrays, units=units, width=kernel[0], stride=strides[0], dilation=dilations[0],
                groups=groups, left=left, right=right, activation=inside,
            )  # fmt: skip
        else:
            pads = [_ends(d, padding, span, s, n) for span, s, n in zip(spans, strides, features, strict=False)]
            y = _channels(d, x, axes, lambda first: d.node(
                "conv_inner", first, part="conv", weights=arrays, units=units, kernel=tuple(kernel),
                strides=tuple(strides), dilations=tuple(dilations), groups=groups, activation=inside,
                pads=(*(before for before, _ in pads), *(behind for _, behind in pads)),
            ))  # fmt: skip
        return y if inside == activation.name else d.activated(y, activation, "activation")

    return run


def _window_settings(
    settings: Settings, axes: int, paddings: Sequence[str]
) -> tuple[list[int], list[int], list[int], str]:
    settings.channels_last()
    kernel, strides = settings.several("kernel_size", axes), settings.several("strides", axes, 1)
    dilations = settings.several("dilation_rate", axes, 1)
    return kernel, strides, dilations, settings.word("padding", tuple(paddings), "valid")


def conv(axes: int) -> Callable[[Entry, Weights, Build], Step]:
    """Conv1D and Conv2D: kernel (*K, I / groups, O)."""

    def build_layer(item: Entry, weights: Weights, build: Build) -> Step:
        settings = Settings(item)
        units, groups = settings.count("filters"), settings.one("groups", 1)
        window = _window_settings(settings, axes, _PADDINGS if axes == 1 else _PADDINGS[:2])
        slots = ["kernel", "bias"] if settings.flag("use_bias", True) else ["kernel"]
        activation = build.activated(settings, "activation")
        settings.finish()
        kernel, *bias = weights.take(slots, item.where)
        check_shape(kernel, (*window[0], None, units), f"{item.where}: kernel")
        weight = np.transpose(kernel, (axes + 1, axes, *range(axes)))
        return on_one(_convolution(weight, bias[0] if bias else None, groups, *window, activation), keeps_mask=False)

    return build_layer


def _depthwise(kernel: np.ndarray) -> np.ndarray:
    """(K, C, M) → (C · M, 1, K): output c · M + m reads channel c."""
    width, channels, multiplier = kernel.shape
    return kernel.transpose(1, 2, 0).reshape(channels * multiplier, 1, width)


def depthwise_conv(item: Entry, weights: Weights, build: Build) -> Step:
    settings = Settings(item)
    multiplier = settings.one("depth_multiplier", 1)
    for stem in ("depthwise",):
        for kind in ("initializer", "regularizer", "constraint"):
            settings.value(f"{stem}_{kind}", None)
    window = _window_settings(settings, 1, _PADDINGS)
    slots = ["kernel|depthwise_kernel", "bias"] if settings.flag("use_bias", True) else ["kernel|depthwise_kernel"]
    activation = build.activated(settings, "activation")
    settings.finish()
    kernel, *bias = weights.take(slots, item.where)
    check_shape(kernel, (window[0][0], None, multiplier), f"{item.where}: kernel")
    weight = _depthwise(kernel)
    return on_one(
        _convolution(weight, bias[0] if bias else None, kernel.shape[1], *window, activation), keeps_mask=False
    )


def separable_conv(item: Entry, weights: Weights, build: Build) -> Step:
    """A depthwise convolution, then a matrix at each step."""
    settings = Settings(item)
    units, multiplier = settings.count("filters"), settings.one("depth_multiplier", 1)
    if settings.one("groups", 1) != 1:
        raise UnsupportedError(f"{item.where}: groups is not run")
    for stem in ("depthwise", "pointwise"):
        for kind in ("initializer", "regularizer", "constraint"):
            settings.value(f"{stem}_{kind}", None)
    window = _window_settings(settings, 1, _PADDINGS)
    slots = ["depthwise_kernel", "pointwise_kernel"] + ["bias"] * settings.flag("use_bias", True)
    activation = build.activated(settings, "activation")
    settings.finish()
    depthwise, pointwise, *bias = weights.take(slots, item.where)
    check_shape(depthwise, (window[0][0], None, multiplier), f"{item.where}: depthwise_kernel")
    check_shape(pointwise, (1, depthwise.shape[1] * multiplier, units), f"{item.where}: pointwise_kernel")
    first = _convolution(_depthwise(depthwise), None, depthwise.shape[1], *window, Activated("linear"))
    matrix = {"weight": np.ascontiguousarray(pointwise[0].T), **({"bias": bias[0]} if bias else {})}

    def run(d: Draft, x: Tensor) -> Tensor:
        y = d.node("dense", first(d, x), part="pointwise", weights=matrix, units=units)
        return d.activated(y, activation, "activation")

    return on_one(run, keeps_mask=False)


def conv_transpose(item: Entry, weights: Weights, build: Build) -> Step:
    """Conv1DTranspose: kernel (K, O, I); T · stride steps (``same``), or K − stride more where the kernel is wider."""
    settings = Settings(item)
    settings.channels_last()
    units, kernel, stride = settings.count("filters"), settings.one("kernel_size"), settings.one("strides", 1)
    dilation, padding = settings.one("dilation_rate", 1), settings.word("padding", ("valid", "same"), "valid")
    for key, found in (("output_padding", settings.value("output_padding", None)), ("dilation_rate", dilation)):
        if found not in (None, 1):
            raise UnsupportedError(f"{item.where}: {key}={str(found)[:40]} is not run")
    slots = ["kernel", "bias"] if settings.flag("use_bias", True) else ["kernel"]
    activation = build.activated(settings, "activation")
    settings.finish()
    held, *bias = weights.take(slots, item.where)
    check_shape(held, (kernel, units, None), f"{item.where}: kernel")
    arrays = {"weight": np.ascontiguousarray(held.transpose(2, 1, 0)), **({"bias": bias[0]} if bias else {})}
    more = max(kernel - stride, 0)
    behind = -(-kernel // stride) - 1  # frames of zeros in which the last kernels end
    front = more // 2 if padding == "same" else 0
    cut = stride * behind - front - (0 if padding == "same" else more)

    def run(d: Draft, x: Tensor) -> Tensor:
        if not x.timed or d.features(x) != (held.shape[2],):
            raise d.refuse(f"takes a sequence of {held.shape[2]} channels, its input is {d.value(x).describe()}")
        y = d.node(
            "conv_transpose", x, part="conv", weights=arrays, units=units, width=kernel, stride=stride, right=behind
        )
        y = d.node("pad_time", y, part="cropped", left=-front, right=-cut) if front or cut else y
        return d.activated(y, activation, "activation")

    return on_one(run, keeps_mask=False)


# ---- pooling ---------------------------------------------------------------------------------------------


def pooling(kind: str, axes: int) -> Callable[[Entry, Weights, Build], Step]:
    def build_layer(item: Entry, weights: Weights, build: Build) -> Step:
        settings = Settings(item)
        settings.channels_last()
        width = settings.several("pool_size", axes)
        strides = width if settings.value("strides", None) is None else settings.several("strides", axes)
        padding = settings.word("padding", ("valid", "same"), "valid")
        settings.finish()

        def run(d: Draft, x: Tensor) -> Tensor:
            uneven = x.timed and padding == "same" and strides[0] > 1 and kind == "average"
            if x.timed and (axes > 1 or uneven):
                x = d.folded(x, "padding='same' of an average with strides" if uneven else "pooling over several axes")
            if x.timed:
                part, left, right = _padded(d, x, padding, width[0], strides[0], -3.4028234663852886e38)
                return d.node("pool", part, kind=kind, width=width[0], stride=strides[0], left=left, right=right)
            if len(d.features(x)) != axes + 1:
                raise d.refuse(f"expected {axes} axes and channels, its input is {d.value(x).describe()}")
            pads = [_ends(d, padding, w, s, n) for w, s, n in zip(width, strides, d.features(x), strict=False)]
            return _channels(d, x, axes, lambda first: d.node(
                "pool_inner", first, part="pool", kind=kind, kernel=tuple(width), strides=tuple(strides),
                dilations=(1,) * axes, pads=(*(before for before, _ in pads), *(behind for _, behind in pads)),
            ))  # fmt: skip

        return on_one(run, keeps_mask=False)

    return build_layer


def global_pooling(kind: str, axes: int) -> Callable[[Entry, Weights, Build], Step]:
    """Of the whole sequence. Keras' average leaves masked steps out; its maximum looks at them all the same."""

    def build_layer(item: Entry, weights: Weights, build: Build) -> Step:
        settings = Settings(item)
        settings.channels_last()
        keep = settings.flag("keepdims", False)
        settings.finish()

        def run(d: Draft, x: Tensor) -> Tensor:
            if x.timed and axes > 1:
                x = d.folded(x, "pooling over several axes")
            channels = d.features(x)[-1]
            if x.timed:
                masks = [x.mask] if x.mask is not None and kind == "mean" else []
                y = d.node("pool_whole", x, *masks, kind=kind, timed=False)
            else:
                if len(d.features(x)) != axes + 1:
                    raise d.refuse(f"expected {axes} axes and channels, its input is {d.value(x).describe()}")
                y = d.reshaped(d.node("reduce", x, part="all", kind=kind, axes=tuple(range(axes))), channels)
            return d.reshaped(y, *(1,) * axes, channels) if keep else y

        return on_one(run, keeps_mask=False)

    return build_layer


# ---- more and fewer steps --------------------------------------------------------------------------------


def upsampling(item: Entry, weights: Weights, build: Build) -> Step:
    settings = Settings(item)
    factor = settings.one("size", 2)
    settings.finish()

    def run(d: Draft, x: Tensor) -> Tensor:
        if factor == 1:
            return x
        if x.timed:
            return d.node("upsample", x, factor=factor)
        size = d.features(x)[0]
        d.listed(size * factor)
        return d.node("take", x, indices=tuple(i for i in range(size) for _ in range(factor)))

    return on_one(run, keeps_mask=False)


def _two_ends(settings: Settings, key: str) -> tuple[int, int]:
    value = settings.value(key, 1)
    pair = (value, value) if type(value) is int else tuple(value) if isinstance(value, list) else ()
    if len(pair) != 2 or any(type(v) is not int or not 0 <= v <= 1 << 20 for v in pair):
        raise UnsupportedError(f"{settings.where}: {key}={str(value)[:60]}; expected two whole numbers")
    return pair[0], pair[1]


def zero_padding(item: Entry, weights: Weights, build: Build) -> Step:
    settings = Settings(item)
    settings.channels_last()
    left, right = _two_ends(settings, "padding")
    settings.finish()

    def run(d: Draft, x: Tensor) -> Tensor:
        if x.timed:
            return d.node("pad_time", x, left=left, right=right)
        rest = (0,) * (len(d.features(x)) - 1)
        return d.node("pad_inner", x, pads=(left, *rest, right, *rest))

    return on_one(run, keeps_mask=False)


def cropping(item: Entry, weights: Weights, build: Build) -> Step:
    settings = Settings(item)
    left, right = _two_ends(settings, "cropping")
    settings.finish()

    def run(d: Draft, x: Tensor) -> Tensor:
        if x.timed:
            return d.node("pad_time", x, left=-left, right=-right)
        return d.node("slice", x, start=left, stop=d.features(x)[0] - right)

    return on_one(run, keeps_mask=False)
