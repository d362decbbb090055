"""Keras layers that look at one step at a time: Dense, Embedding, activations, normalisation by trained statistics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import FormatError, UnsupportedError
from ...layers import Activation, Dense, Embedding, Masking
from .keras_draft import Draft, Step, Tensor
from .keras_graph import Entry
from .keras_settings import Activated, Build, Settings, check_shape
from .keras_weights import Weights


def on_one(run: Callable[[Draft, Tensor], Tensor], *, keeps_mask: bool = True) -> Step:
    """A layer of one input as nodes."""

    def emit(d: Draft, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
        x = d.only(args, kwargs)
        if d.value(x).dtype != "float32":
            raise d.refuse("works on the ids of an input, which only an Embedding does")
        y = run(d, x)
        return replace(y, mask=x.mask if keeps_mask else None)

    return Step(emit=emit)


def ignored(item: Entry, weights: Weights, build: Build) -> Step:
    """A layer that does nothing at inference."""
    Settings(item)
    return Step([])


def embedding(item: Entry, weights: Weights, build: Build) -> Step:
    settings = Settings(item)
    sizes = settings.count("input_dim"), settings.count("output_dim")
    mask_zero = settings.flag("mask_zero", False)
    settings.finish()
    (table,) = weights.take(["embeddings"], item.where)
    check_shape(table, sizes, f"{item.where}: embeddings")
    return Step([Embedding(table, mask_zero=mask_zero, name=item.name)])


def masking(item: Entry, weights: Weights, build: Build) -> Step:
    settings = Settings(item)
    value = settings.value("mask_value", 0.0)
    settings.finish()
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise UnsupportedError(f"{item.where}: mask_value {str(value)[:60]} is not a number")
    return Step([Masking(float(value), name=item.name)])


def dense(item: Entry, weights: Weights, build: Build) -> Step:
    settings = Settings(item)
    units = settings.count("units")
    slots = ["kernel", "bias"] if settings.flag("use_bias", True) else ["kernel"]
    activation = build.activated(settings, "activation")
    settings.finish()
    arrays = weights.take(slots, item.where)
    check_shape(arrays[0], (None, units), f"{item.where}: kernel")
    if activation.name in ("exp", "log_softmax") or activation.alpha is not None:
        plain = Dense.from_keras(arrays, keras_version=3, name=item.name)
        return on_one(lambda d, x: d.activated(d.plain_layer(plain, x), activation, "activation"))
    return Step([Dense.from_keras(arrays, activation=activation.name, keras_version=3, name=item.name)])


def activation(item: Entry, weights: Weights, build: Build) -> Step:
    settings = Settings(item)
    found = build.activated(settings, "activation")
    settings.finish()
    return _activating(item, found)


def _activating(item: Entry, found: Activated) -> Step:
    if found.name in ("exp", "log_softmax") or found.alpha is not None:
        return on_one(lambda d, x: d.activated(x, found))
    return Step([Activation(found.name, name=item.name)])


def relu(item: Entry, weights: Weights, build: Build) -> Step:
    """min(max(x, 0), max_value) and its variants: a slope below the threshold, zero at it."""
    settings = Settings(item)
    top = settings.value("max_value", None)
    slope, threshold = (settings.value(key, 0.0) or 0.0 for key in ("negative_slope", "threshold"))
    settings.finish()
    numbers = [slope, threshold] + ([] if top is None else [top])
    if any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in numbers):
        raise FormatError(f"{item.where}: max_value, negative_slope and threshold must be numbers")
    if threshold:
        if slope or top is not None:
            raise UnsupportedError(f"{item.where}: threshold={threshold} beside a slope or a largest value is not run")
        return on_one(lambda d, x: d.node("activation", x, activation="threshold", alpha=float(threshold), beta=0.0))
    plain = Activated("leaky_relu", float(slope)) if slope else Activated("relu")
    if top is None:
        return _activating(item, plain)
    return on_one(lambda d, x: d.node("clip", d.activated(x, plain, "relu"), high=float(top)))


def leaky_relu(item: Entry, weights: Weights, build: Build) -> Step:
    settings = Settings(item)
    key = "negative_slope" if "negative_slope" in item.config else "alpha"
    slope = settings.number(key, 0.3)
    settings.finish()
    return _activating(item, Activated("leaky_relu", slope))


def elu(item: Entry, weights: Weights, build: Build) -> Step:
    settings = Settings(item)
    alpha = settings.number("alpha", 1.0)
    settings.finish()
    return _activating(item, Activated("elu") if alpha == 1 else Activated("elu_alpha", alpha))


def thresholded_relu(item: Entry, weights: Weights, build: Build) -> Step:
    settings = Settings(item)
    theta = settings.number("theta", 1.0)
    settings.finish()
    return on_one(lambda d, x: d.node("activation", x, activation="threshold", alpha=theta, beta=0.0))


def softmax(item: Entry, weights: Weights, build: Build) -> Step:
    settings = Settings(item)
    axis = settings.value("axis", -1)
    settings.finish()
    if axis in (-1, [-1]):
        return Step([Activation("softmax", name=item.name)], is_softmax=True)
    if type(axis) is not int:
        raise UnsupportedError(f"{item.where}: axis={str(axis)[:40]}; one axis is run")

    def run(d: Draft, x: Tensor) -> Tensor:
        if x.mask is not None:
            raise d.refuse("applies the mask that reaches it; use Dense(activation='softmax')")
        return softmax_along(d, x, axis)

    return on_one(run)


def softmax_along(d: Draft, x: Tensor, axis: int) -> Tensor:
    """Keras' axis, the batch counted."""
    rank = len(d.shape(x)) + 1
    at = axis + rank if axis < 0 else axis
    if not 1 <= at < rank:
        raise d.refuse(f"axis={axis} of {rank} axes")
    if x.timed and at == 1:
        return d.node("softmax_time", x, x.mask) if x.mask else d.node("softmax_time", x)
    return d.node("softmax", x, axes=(at - (2 if x.timed else 1),))


def prelu(item: Entry, weights: Weights, build: Build) -> Step:
    settings = Settings(item)
    shared = settings.value("shared_axes", None)
    for key in ("alpha_initializer", "alpha_regularizer", "alpha_constraint"):
        settings.value(key, None)
    settings.finish()
    (alpha,) = weights.take(["alpha"], item.where)

    def run(d: Draft, x: Tensor) -> Tensor:
        slope, features = alpha, d.features(x)
        if x.timed:  # a slope for every step unless shared_axes=[1] says otherwise
            if slope.shape[0] != 1:
                raise d.refuse("has slopes for each step of the sequence; cgru runs shared_axes=[1]")
            slope = slope[0]
        if slope.shape == features[-1:]:
            return d.node("prelu", x, weights=kept(slope, "slope"), axis=0)
        if slope.shape == (1,) * len(features):
            return d.node(
                "prelu",
                x,
                weights=kept(np.full(d.listed(features[-1]), slope.ravel()[0]), "slope"),
                axis=len(features) - 1,
            )
        raise d.refuse(f"has slopes of shape {alpha.shape}, shared along {shared}, which cgru does not run")

    made: dict[str, dict[str, np.ndarray]] = {}

    def kept(slope: np.ndarray, key: str) -> dict[str, np.ndarray]:
        return made.setdefault(key, {key: slope})

    return on_one(run)


# ---- normalisation ---------------------------------------------------------------------------------------


def _last_axis(settings: Settings, rank: int | None, key: str = "axis", default: Any = -1) -> int:
    value = settings.value(key, default)
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    if type(value) is not int:
        raise UnsupportedError(f"{settings.where}: {key}={str(value)[:40]}; one axis is run")
    return value


def _feature_axis(d: Draft, x: Tensor, axis: int) -> int:
    """Keras' axis, the batch counted, among the feature axes."""
    rank = len(d.shape(x)) + 1
    at = (axis + rank if axis < 0 else axis) - (2 if x.timed else 1)
    if not 0 <= at < len(d.features(x)):
        raise d.refuse(f"axis={axis} of {rank} axes is no feature axis")
    return at


def scaled(scale: np.ndarray, shift: np.ndarray, axis: int) -> Step:
    weights = {"scale": scale.astype(np.float32), "shift": shift.astype(np.float32)}
    return on_one(lambda d, x: d.node("scale_shift", x, weights=weights, axis=_feature_axis(d, x, axis)))


def batch_normalization(item: Entry, weights: Weights, build: Build) -> Step:
    """γ (x − μ) / √(σ² + ε) + β with the statistics of training (Ioffe and Szegedy 2015)."""
    settings = Settings(item)
    axis, epsilon = _last_axis(settings, None), settings.number("epsilon", 1e-3)
    has_scale, has_center = settings.flag("scale", True), settings.flag("center", True)
    for key in ("momentum", "synchronized", "renorm_momentum", "fused"):
        settings.value(key, None)
    for key in ("renorm", "virtual_batch_size", "renorm_clipping", "adjustment"):
        if settings.value(key, None):
            raise UnsupportedError(f"{item.where}: {key} is not run")
    for stem in ("beta", "gamma", "moving_mean", "moving_variance"):
        for kind in ("initializer", "regularizer", "constraint"):
            settings.value(f"{stem}_{kind}", None)
    settings.finish()
    slots = ["gamma"] * has_scale + ["beta"] * has_center + ["moving_mean", "moving_variance"]
    arrays = dict(zip(slots, weights.take(slots, item.where), strict=True))
    size = arrays["moving_mean"].shape
    for slot, array in arrays.items():
        check_shape(array, size[:1], f"{item.where}: {slot}")
    wide = {slot: array.astype(np.float64) for slot, array in arrays.items()}
    if (wide["moving_variance"] + epsilon <= 0).any():
        raise FormatError(f"{item.where}: moving_variance holds numbers that no variance has")
    scale = wide.get("gamma", 1.0) / np.sqrt(wide["moving_variance"] + epsilon)
    return scaled(scale, wide.get("beta", 0.0) - wide["moving_mean"] * scale, axis)


def normalization(item: Entry, weights: Weights, build: Build) -> Step:
    """(x − mean) / max(√variance, ε), or its inverse, with the statistics that adapt() found or the model was given."""
    settings = Settings(item)
    axis = settings.value("axis", -1)
    invert = settings.flag("invert", False)
    given = settings.value("mean", None), settings.value("variance", None)
    settings.finish()
    if axis in (None, [], ()):
        axes: Sequence[Any] = ()
    else:
        axes = axis if isinstance(axis, list) else [axis]
    if len(axes) > 1 or any(type(a) is not int for a in axes):
        raise UnsupportedError(f"{item.where}: axis={str(axis)[:40]}; statistics along one axis are run")
    if given[0] is None:
        mean, variance, _ = weights.take(["mean", "variance", "count"], item.where)
    else:
        mean, variance = (_numbers(value, f"{item.where}: mean and variance") for value in given)
    mean, variance = mean.astype(np.float64).ravel(), variance.astype(np.float64).ravel()
    if mean.shape != variance.shape or (variance < 0).any():
        raise FormatError(f"{item.where}: its mean and variance do not fit together")
    deviation = np.maximum(np.sqrt(variance), 1e-7)
    scale, shift = (deviation, mean) if invert else (1 / deviation, -mean / deviation)
    return _spread(scale, shift, axes[0] if axes else -1)


def rescaling(item: Entry, weights: Weights, build: Build) -> Step:
    settings = Settings(item)
    scale, offset = (
        _numbers(settings.value(key, other), item.where) for key, other in (("scale", ...), ("offset", 0.0))
    )
    settings.finish()
    try:
        scale, offset = np.broadcast_arrays(scale.ravel().astype(np.float64), offset.ravel().astype(np.float64))
    except ValueError:
        raise FormatError(f"{item.where}: scale and offset do not fit together") from None
    return _spread(scale, offset, -1)


def _spread(scale: np.ndarray, shift: np.ndarray, axis: int) -> Step:
    """A scale and a shift for each entry of an axis; one number stands for all."""
    made: dict[int, dict[str, np.ndarray]] = {}

    def run(d: Draft, x: Tensor) -> Tensor:
        at = _feature_axis(d, x, axis)
        size = d.features(x)[at]
        if scale.size not in (1, size):
            raise d.refuse(f"has statistics of {scale.size} features, its input has {size}")
        weights = made.setdefault(
            d.listed(size),
            {k: np.broadcast_to(v, size).astype(np.float32) for k, v in (("scale", scale), ("shift", shift))},
        )
        return d.node("scale_shift", x, weights=weights, axis=at)

    return on_one(run)


def _numbers(value: Any, where: str) -> np.ndarray:
    """Numbers of a configuration: one, or lists of them (Keras writes arrays as objects around such a list)."""
    if isinstance(value, dict) and isinstance(value.get("config"), dict):
        value = value["config"].get("value")
    try:
        array = np.array(value, np.float64)
    except (TypeError, ValueError):
        raise FormatError(f"{where}: {str(value)[:60]!r} is no list of numbers") from None
    return array


def layer_normalization(item: Entry, weights: Weights, build: Build) -> Step:
    settings = Settings(item)
    axis, epsilon = settings.value("axis", -1), settings.number("epsilon", 1e-3)
    has_scale, has_center = settings.flag("scale", True), settings.flag("center", True)
    if settings.flag("rms_scaling", False):
        raise UnsupportedError(f"{item.where}: rms_scaling=True is not run")
    for stem in ("beta", "gamma"):
        for kind in ("initializer", "regularizer", "constraint"):
            settings.value(f"{stem}_{kind}", None)
    settings.finish()
    slots = ["gamma"] * has_scale + ["beta"] * has_center
    arrays = dict(zip(slots, weights.take(slots, item.where) if slots else [], strict=True))
    held = {new: arrays[old] for new, old in (("weight", "gamma"), ("bias", "beta")) if old in arrays}
    return _normalized(axis, epsilon, held, True)


def rms_normalization(item: Entry, weights: Weights, build: Build) -> Step:
    settings = Settings(item)
    axis, epsilon = settings.value("axis", -1), settings.number("epsilon", 1e-6)
    settings.finish()
    (scale,) = weights.take(["scale"], item.where)
    return _normalized(axis, epsilon, {"weight": scale}, False)


def _normalized(axis: Any, epsilon: float, held: dict[str, np.ndarray], mean: bool) -> Step:
    axes = axis if isinstance(axis, list) else [axis]

    def run(d: Draft, x: Tensor) -> Tensor:
        at = sorted(_feature_axis(d, x, a) if type(a) is int else -1 for a in axes)
        rank = len(d.features(x))
        if at != list(range(rank - len(at), rank)):
            raise d.refuse(f"axis={str(axis)[:40]}; the last feature axes are run")
        return d.node("layer_norm", x, weights=held, axes=len(at), epsilon=epsilon, subtract_mean=mean)

    return on_one(run, keeps_mask=mean)


def unit_normalization(item: Entry, weights: Weights, build: Build) -> Step:
    settings = Settings(item)
    axis = _last_axis(settings, None)
    settings.finish()
    return on_one(lambda d, x: unit(d, x, _feature_axis(d, x, axis)))


def unit(d: Draft, x: Tensor, at: int) -> Tensor:
    """x / √max(Σ x², 1e-12) along a feature axis."""
    total = d.node("reduce", x, part="sum", kind="sum_square", axes=(at,))
    floor = d.node("clip", total, part="floor", low=1e-12)
    return d.node("div", x, d.node("unary", floor, part="norm", kind="sqrt"))
