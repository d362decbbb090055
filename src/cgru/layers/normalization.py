"""Normalisation as layers: BatchNorm, which a neighbour takes into its weights where one can, LayerNorm and RMSNorm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from ..arrays import Float32, number, own, sequence
from ..errors import CgruError, FormatError, ShapeError, UnsupportedError
from .base import Layer, called, only, take
from .convolution import Conv1d
from .feedforward import Dense, pick
from .live import keras_layer, keras_settings, torch_module, torch_tensors
from .recurrent import Recurrent


class BatchNorm(Layer):
    """γ (x − μ) / √(σ² + ε) + β, of each feature, with the statistics of training: (B, T, I) → (B, T, I).

    ``mean`` and ``variance`` (I,) are the running ones, ``gamma`` and ``beta`` (I,) may be absent. torch.nn.BatchNorm1d
    (epsilon 1e-5), Keras BatchNormalization (epsilon 1e-3); Ioffe and Szegedy 2015. In a list of layers it becomes part
    of the weights of a Dense or recurrent layer behind it, or of a Dense or Conv1d before it.
    """

    kind = "batch_norm"

    def __init__(
        self,
        mean: Any,
        variance: Any,
        gamma: Any = None,
        beta: Any = None,
        *,
        epsilon: float = 1e-5,
        name: str | None = None,
    ) -> None:
        where = called(name, self.kind)
        given = {"mean": mean, "variance": variance, "gamma": gamma, "beta": beta}
        held = {key: own(value, f"{where}: {key}", 1) for key, value in given.items() if value is not None}
        for key in ("mean", "variance"):
            if key not in held:
                raise CgruError(f"{where}: {key}: expected an array (I,), found None")
        shapes = {array.shape for array in held.values()}
        if len(shapes) > 1 or not held["mean"].size:
            found = ", ".join(f"{key} {array.shape}" for key, array in held.items())
            raise ShapeError(f"{where}: expected arrays of one shape (I,), found {found}")
        spread = held["variance"].astype(np.float64) + number(epsilon, f"{where}: epsilon")
        if not (spread > 0).all():
            raise CgruError(f"{where}: variance + epsilon must be above 0, found {spread.min():.3g}")
        scale = 1 / np.sqrt(spread)
        if "gamma" in held:
            scale = held["gamma"] * scale
        shift = -held["mean"] * scale
        if "beta" in held:
            shift = held["beta"] + shift
        self._hold(name, scale, shift)

    def _hold(self, name: str | None, scale: Any, shift: Any) -> None:
        where = called(name, self.kind)
        with np.errstate(over="ignore"):
            parts = {"gain": own(np.float32(scale), where, 1), "shift": own(np.float32(shift), where, 1)}
        super().__init__(name, parts)
        self.input_size = self.output_size = len(parts["gain"])

    @classmethod
    def from_torch(cls, tensors: Any, prefix: str = "", *, epsilon: float = 1e-5, name: str | None = None) -> Self:
        """From a torch.nn.BatchNorm1d, which says epsilon, its ``state_dict()``, or one that holds it at ``prefix``."""
        where = called(name, cls.kind)
        module = torch_module(tensors, ("BatchNorm1d",), where)
        known = ["bias", "running_mean", "running_var", "num_batches_tracked"]
        if module is None or module.affine:
            known.append("weight")
        held = torch_tensors(tensors, prefix, known, where)
        for key in ("running_mean", "running_var"):
            if key not in held:
                raise FormatError(f"{where}: the tensor {key} is missing: it was trained without running statistics")
        epsilon = epsilon if module is None else module.eps
        mean, variance = held["running_mean"], held["running_var"]
        return cls(mean, variance, held.get("weight"), held.get("bias"), epsilon=epsilon, name=name)

    @classmethod
    def from_keras(cls, weights: Any, *, epsilon: float = 1e-3, name: str | None = None) -> Self:
        """From Keras' [gamma, beta, moving_mean, moving_variance], or [moving_mean, moving_variance] alone.

        ``weights`` may be a live BatchNormalization, which says its epsilon itself.
        """
        layer = keras_layer(weights, ("BatchNormalization",))
        if layer is not None:
            gamma, beta, (mean, variance), epsilon = _of_keras(layer)
            return cls(mean, variance, gamma, beta, epsilon=epsilon, name=name or layer.name)
        where = called(name, cls.kind)
        parts = sequence(weights, where, "[gamma, beta, moving_mean, moving_variance]")
        if len(parts) not in (2, 4):
            raise ShapeError(f"{where}: expected [gamma, beta, moving_mean, moving_variance], found {len(parts)}")
        gamma, beta = parts[:2] if len(parts) == 4 else (None, None)
        return cls(parts[-2], parts[-1], gamma, beta, epsilon=epsilon, name=name)

    @classmethod
    def from_parts(cls, name: str, options: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        only(options, (), name)
        made = object.__new__(cls)
        scale, shift = (own(pick(arrays, name, key), f"{name}: {key}", 1) for key in ("gain", "shift"))
        if scale.shape != shift.shape or not scale.size:
            raise ShapeError(f"{name}: gain has shape {scale.shape} and shift {shift.shape}; expected one (I,)")
        made._hold(name, scale, shift)
        return made

    @property
    def reducible(self) -> bool:
        return False


class LayerNorm(Layer):
    """(x − mean) / √(variance + ε) · weight + bias, over the features of each frame: (B, T, I) → (B, T, I).

    ``weight`` and ``bias`` (I,), one of which may be None. torch.nn.LayerNorm (epsilon 1e-5), Keras LayerNormalization
    (epsilon 1e-3); Ba, Kiros and Hinton 2016. The variance is the biased one.
    """

    kind = "layer_norm"

    def __init__(self, weight: Any, bias: Any = None, *, epsilon: float = 1e-5, name: str | None = None) -> None:
        where = called(name, self.kind)
        given = {"weight": weight, "bias": bias}
        parts = {key: own(value, f"{where}: {key}", 1) for key, value in given.items() if value is not None}
        if not parts:
            raise CgruError(f"{where}: weight and bias are None; a normalisation of I features has weight=np.ones(I)")
        shapes = {array.shape for array in parts.values()}
        if len(shapes) > 1 or (0,) in shapes:
            found = ", ".join(f"{key} {array.shape}" for key, array in parts.items())
            raise ShapeError(f"{where}: expected arrays of one shape (I,), found {found}")
        super().__init__(name, parts)
        self.epsilon = _small(epsilon, where)
        self.input_size = self.output_size = len(next(iter(parts.values())))

    @classmethod
    def from_torch(cls, tensors: Any, prefix: str = "", *, epsilon: float = 1e-5, name: str | None = None) -> Self:
        """From a torch.nn.LayerNorm, which says epsilon, its ``state_dict()``, or one that holds it at ``prefix``."""
        where = called(name, cls.kind)
        module = torch_module(tensors, ("LayerNorm",), where)
        held = _of_torch(module, tensors, prefix, ("weight", "bias"), where)
        return cls(held["weight"], held.get("bias"), epsilon=epsilon if module is None else module.eps, name=name)

    @classmethod
    def from_keras(cls, weights: Any, *, epsilon: float = 1e-3, name: str | None = None) -> Self:
        """From Keras' [gamma (I,), beta (I,)], or a live LayerNormalization, which says its epsilon itself."""
        layer = keras_layer(weights, ("LayerNormalization",))
        if layer is not None:
            gamma, beta, _, epsilon = _of_keras(layer)
            return cls(gamma, beta, epsilon=epsilon, name=name or layer.name)
        where = called(name, cls.kind)
        parts = sequence(weights, where, "[gamma, beta]")
        if len(parts) != 2:
            raise ShapeError(f"{where}: expected [gamma, beta], found {len(parts)} arrays")
        return cls(*parts, epsilon=epsilon, name=name)

    def options(self) -> dict[str, Any]:
        return {"epsilon": self.epsilon}

    def op_options(self) -> dict[str, Any]:
        return {"epsilon": self.epsilon}

    @classmethod
    def from_parts(cls, name: str, options: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        only(options, ("epsilon",), name)
        epsilon = take(options, "epsilon", (int, float), name)
        return cls(arrays.get("weight"), arrays.get("bias"), epsilon=epsilon, name=name)

    @property
    def reducible(self) -> bool:
        return False


class RMSNorm(Layer):
    """x / √(mean(x²) + ε) · weight, over the features of each frame: (B, T, I) → (B, T, I).

    ``weight`` (I,). torch.nn.RMSNorm (epsilon None is that of float32, 1.19e-7), Keras RMSNormalization (epsilon 1e-6);
    Zhang and Sennrich 2019.
    """

    kind = "rms_norm"

    def __init__(self, weight: Any, *, epsilon: float = 1e-6, name: str | None = None) -> None:
        where = called(name, self.kind)
        held = own(weight, f"{where}: weight", 1)
        if not held.size:
            raise ShapeError(f"{where}: weight of shape {held.shape} has no entries")
        super().__init__(name, {"weight": held})
        self.epsilon = _small(epsilon, where)
        self.input_size = self.output_size = len(held)

    @classmethod
    def from_torch(
        cls, tensors: Any, prefix: str = "", *, epsilon: float | None = None, name: str | None = None
    ) -> Self:
        """From a torch.nn.RMSNorm, which says epsilon, its ``state_dict()``, or one that holds it at ``prefix``.

        Beside tensors an ``epsilon`` of None is torch's own, that of float32.
        """
        where = called(name, cls.kind)
        module = torch_module(tensors, ("RMSNorm",), where)
        held = _of_torch(module, tensors, prefix, ("weight",), where)
        epsilon = epsilon if module is None else module.eps
        epsilon = float(np.finfo(np.float32).eps) if epsilon is None else epsilon
        return cls(held["weight"], epsilon=epsilon, name=name)

    @classmethod
    def from_keras(cls, weights: Any, *, epsilon: float = 1e-6, name: str | None = None) -> Self:
        """From Keras' [scale (I,)], or a live RMSNormalization, which says its epsilon itself."""
        layer = keras_layer(weights, ("RMSNormalization",))
        if layer is not None:
            settings = keras_settings(layer, layer.name, passed=("axis", "epsilon"), inert={})
            _check_last_axis(layer, settings["axis"])
            return cls(layer.get_weights()[0], epsilon=settings["epsilon"], name=name or layer.name)
        where = called(name, cls.kind)
        parts = sequence(weights, where, "[scale]")
        if len(parts) != 1:
            raise ShapeError(f"{where}: expected [scale], found {len(parts)} arrays")
        return cls(parts[0], epsilon=epsilon, name=name)

    def options(self) -> dict[str, Any]:
        return {"epsilon": self.epsilon}

    def op_options(self) -> dict[str, Any]:
        return {"epsilon": self.epsilon, "subtract_mean": False}

    @classmethod
    def from_parts(cls, name: str, options: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        only(options, ("epsilon",), name)
        return cls(pick(arrays, name, "weight"), epsilon=take(options, "epsilon", (int, float), name), name=name)

    @property
    def reducible(self) -> bool:
        return False


def _small(epsilon: Any, where: str) -> float:
    found = number(epsilon, f"{where}: epsilon")
    if not 0 <= found < 1e3:
        raise CgruError(f"{where}: epsilon={found:g}: expected 0 or a small number above it")
    return found


def _check_last_axis(layer: Any, axis: Any) -> None:
    if axis not in (-1, 2) and list(np.ravel(axis)) not in ([-1], [2]):
        raise UnsupportedError(f"{layer.name}: axis={axis!r}; a sequence's last axis, the features, is run")


def _of_torch(module: Any, tensors: Any, prefix: str, known: Sequence[str], where: str) -> dict[str, Any]:
    """The tensors ``known`` of a normalisation over features; its weight is ones where a live module has none."""
    if module is None:
        return torch_tensors(tensors, prefix, known, where)
    shape = tuple(module.normalized_shape)
    if len(shape) != 1:
        raise UnsupportedError(f"{where}: normalized_shape={shape}; one axis, the features, is run")
    if module.elementwise_affine:
        return torch_tensors(tensors, prefix, known, where)
    others = [key for key in known if key != "weight"]
    return {"weight": np.ones(shape, np.float32)} | torch_tensors(tensors, prefix, others, where)


def _of_keras(layer: Any) -> tuple[Any, Any, list[Any], float]:
    """gamma, beta, what other weights there are, and epsilon of a live normalisation over the last axis."""
    passed, inert = ("axis", "center", "epsilon", "scale"), {"renorm": False, "rms_scaling": False}
    settings = keras_settings(layer, layer.name, passed=passed, inert=inert)
    _check_last_axis(layer, settings["axis"])
    rest = list(layer.get_weights())
    gamma = rest.pop(0) if settings["scale"] else None
    beta = rest.pop(0) if settings["center"] else None
    return gamma, beta, rest, settings["epsilon"]


def fold(layers: Sequence[Layer]) -> list[Layer]:
    """The layers with each :class:`BatchNorm` in the weights of the one behind it, or before it, where that takes it.

    Products are taken in float64 and rounded once. A neighbour in reduced precision, and one with an activation in
    between, take nothing.
    """
    made: list[Layer] = []
    norm: BatchNorm | None = None
    for layer in layers:
        if norm is not None:
            taken = _before(norm, layer)
            if taken is None and made and (joined := _behind(made[-1], norm)) is not None:
                made[-1] = joined
            elif taken is None:
                made.append(norm)
            layer, norm = layer if taken is None else taken, None
        if isinstance(layer, BatchNorm):
            norm = layer
        else:
            made.append(layer)
    if norm is not None:
        joined = _behind(made[-1], norm) if made else None
        if joined is None:
            made.append(norm)
        else:
            made[-1] = joined
    return made


def _before(norm: BatchNorm, layer: Layer) -> Layer | None:
    """The layer that reads what ``norm`` gives, reading what ``norm`` reads: W (s x + t) = (W s) x + W t."""
    fits = isinstance(layer, (Dense, Recurrent)) and layer.precision == "float32"
    if not fits or layer.input_size != norm.input_size:
        return None
    scale, shift = _wide(norm)
    arrays = layer.arrays()
    weights = {"weight": "bias"} if isinstance(layer, Dense) else {}
    if isinstance(layer, Recurrent):
        weights = {f"weight_ih{scan.suffix}": f"bias_ih{scan.suffix}" for scan in layer.scans() if scan.layer == 0}
    for weight, bias in weights.items():
        matrix = arrays[weight].astype(np.float64)
        arrays[bias] = _rounded(arrays.get(bias, np.float32(0)) + matrix @ shift)
        arrays[weight] = _rounded(matrix * scale)
    return layer.holding("float32", arrays)


def _behind(layer: Layer, norm: BatchNorm) -> Layer | None:
    """The layer that ``norm`` reads, giving what ``norm`` gives: s (W x + b) + t."""
    if not isinstance(layer, (Dense, Conv1d)) or layer.precision != "float32" or layer.activation != "linear":
        return None
    if layer.output_size != norm.input_size:
        return None
    scale, shift = _wide(norm)
    arrays = layer.arrays()
    weight, bias = layer.output_arrays
    rows = scale.reshape(-1, *[1] * (arrays[weight].ndim - 1))
    made = {weight: _rounded(rows * arrays[weight])}
    made[bias] = _rounded(scale * arrays[bias] + shift if bias in arrays else shift)
    return layer.holding("float32", arrays | made)


def _wide(norm: BatchNorm) -> tuple[np.ndarray, np.ndarray]:
    held = norm.arrays()
    return held["gain"].astype(np.float64), held["shift"].astype(np.float64)


def _rounded(array: np.ndarray) -> Float32:
    with np.errstate(over="ignore"):
        made = np.ascontiguousarray(array, np.float32)
    made.flags.writeable = False
    return made
