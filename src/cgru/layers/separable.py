"""Separable convolution over time as a layer: Keras' SeparableConv1D, PyTorch's depthwise and pointwise Conv1d."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

from ..arrays import Float32, brief, float32, own, positive, sequence
from ..errors import CgruError, ShapeError
from ..spec.precision import Stored
from ..weights import Weights
from .base import called
from .conventions import keras_activation, plain
from .convolution import Conv1d, said_padding
from .feedforward import pick
from .live import keras_layer, keras_major, keras_settings


class SeparableConv1d(Conv1d):
    """A convolution of each channel by itself, then a matrix at every frame: (B, T, I) → (B, T', O).

    y = φ(b + P (D ∗ x)): ``depthwise`` (I · m, 1, K) is a Conv1d of I groups, with m kernels a channel, and
    ``pointwise`` (O, I · m, 1) one of width 1; Sifre and Mallat 2014, Chollet 2017. ``bias`` (O,) or None.
    ``multiplier`` is m; stride, dilation, padding and masks are as for :class:`Conv1d`.
    """

    kind = "separable_conv1d"
    output_arrays: ClassVar[tuple[str, str]] = ("weight_pointwise", "bias_pointwise")

    def __init__(
        self,
        depthwise: Any,
        pointwise: Any,
        bias: Any = None,
        *,
        multiplier: int = 1,
        stride: int = 1,
        dilation: int = 1,
        padding: str | tuple[int, int] = "causal",
        activation: str = "linear",
        name: str | None = None,
    ) -> None:
        where = called(name, self.kind)
        first, second = own(depthwise, f"{where}: depthwise", 3), own(pointwise, f"{where}: pointwise", 3)
        if 0 in first.shape or first.shape[1] != 1:
            raise ShapeError(f"{where}: depthwise has shape {first.shape}, expected (I · multiplier, 1, K)")
        if 0 in second.shape or second.shape[1:] != (first.shape[0], 1):
            raise ShapeError(f"{where}: pointwise has shape {second.shape}, expected (O, {first.shape[0]}, 1)")
        self.multiplier = positive(multiplier, f"{where}: multiplier")
        if first.shape[0] % self.multiplier:
            raise ShapeError(
                f"{where}: {first.shape[0]} kernels do not split into {brief(self.multiplier)} for each channel"
            )
        parts = {"weight_depthwise": first, "weight_pointwise": second}
        if bias is not None:
            parts["bias_pointwise"] = own(bias, f"{where}: bias", 1)
            if parts["bias_pointwise"].shape != second.shape[:1]:
                raise ShapeError(
                    f"{where}: bias has shape {parts['bias_pointwise'].shape}, expected ({second.shape[0]},)"
                )
        super(Conv1d, self).__init__(name, parts)
        self._window(where, first.shape[2], stride, dilation, padding, activation)
        self.input_size, self.output_size = first.shape[0] // self.multiplier, second.shape[0]
        self.groups = self.input_size

    def _parts(self, arrays: Mapping[str, Float32 | Stored], precision: str) -> dict[str, Weights]:
        made: dict[str, dict[str, Float32 | Stored]] = {"_depthwise": {}, "_pointwise": {}}
        for key, array in arrays.items():
            stem, suffix = key.split("_")
            made[f"_{suffix}"][stem] = array
        return {suffix: Weights(part, {"weight"}, precision) for suffix, part in made.items()}

    @classmethod
    def from_torch(  # type: ignore[override]
        cls,
        depthwise: Any,
        pointwise: Any,
        *,
        padding: str | tuple[int, int] | None = None,
        stride: int | None = None,
        dilation: int | None = None,
        multiplier: int | None = None,
        activation: str = "linear",
        name: str | None = None,
    ) -> Self:
        """From two torch.nn.Conv1d, the first of as many groups as it has channels and the second of width 1.

        Modules say everything but what follows them; ``padding="causal"`` in the first one's place is as for
        :class:`Conv1d`. Their ``state_dict()`` say nothing: ``padding`` must be given then. A bias of the first goes
        into the second's, in float64: P (D ∗ x + d) + b = P (D ∗ x) + (P d + b).
        """
        where = called(name, cls.kind)
        kernels = None if multiplier is None else positive(multiplier, f"{where}: multiplier")
        groups = None
        if isinstance(depthwise, Mapping) and "weight" in depthwise:
            rows = float32(plain(depthwise["weight"]), f"{where}: depthwise: weight", 3).shape[0]
            groups = max(1, rows // (kernels or 1))
        first = Conv1d.from_torch(
            depthwise, padding=padding, stride=stride, dilation=dilation, groups=groups, name=f"{where}: depthwise"
        )
        second = Conv1d.from_torch(
            pointwise, padding=None if hasattr(pointwise, "state_dict") else "valid", name=f"{where}: pointwise"
        )
        if first.groups != first.input_size:
            raise CgruError(
                f"{where}: depthwise has {first.groups} groups of {first.input_size} channels, expected one for each"
            )
        if (second.width, second.stride, second.groups, second.pads) != (1, 1, 1, (0, 0)):
            raise CgruError(f"{where}: pointwise is ({second.describe()}), expected width 1 without padding or groups")
        held, last = first.arrays(), second.arrays()
        bias = last.get("bias")
        if "bias" in held:
            wide = last["weight"][:, :, 0].astype(np.float64) @ held["bias"]
            bias = np.asarray(wide if bias is None else wide + bias, np.float32)
        found = (first.output_size or 1) // (first.input_size or 1)
        if kernels not in (None, found):
            raise CgruError(f"{where}: multiplier={kernels}, but the module has {found} kernels a channel")
        return cls(
            held["weight"],
            last["weight"],
            bias,
            multiplier=found,
            stride=first.stride,
            dilation=first.dilation,
            padding=first.padding,
            activation=activation,
            name=name,
        )

    @classmethod
    def from_keras(  # type: ignore[override]
        cls,
        weights: Any,
        *,
        padding: str | tuple[int, int] | None = None,
        stride: int = 1,
        dilation: int = 1,
        activation: str = "linear",
        keras_version: int | None = None,
        name: str | None = None,
    ) -> Self:
        """From a live Keras SeparableConv1D, which says everything itself, or from [depthwise kernel (K, I, m),
        pointwise kernel (1, I · m, O), bias (O,)], the last of which may be absent.

        Beside arrays ``padding`` must be given; ``keras_version`` as for :class:`GRU`.
        """
        layer = keras_layer(weights, ("SeparableConv1D",))
        if layer is not None:
            passed = ("activation", "dilation_rate", "padding", "strides")
            config = keras_settings(layer, layer.name, passed=passed, inert={"data_format": "channels_last"})
            (stride,), (dilation,) = np.ravel(config["strides"]).tolist(), np.ravel(config["dilation_rate"]).tolist()
            return cls.from_keras(
                layer.get_weights(),
                padding=config["padding"],
                stride=stride,
                dilation=dilation,
                activation=config["activation"],
                keras_version=keras_major(layer),
                name=name or layer.name,
            )
        where = called(name, cls.kind)
        parts = sequence(weights, where, "[depthwise kernel, pointwise kernel] or these and a bias")
        if len(parts) not in (2, 3):
            raise ShapeError(f"{where}: expected [depthwise kernel, pointwise kernel, bias], found {len(parts)} arrays")
        first, second = (
            float32(plain(part), f"{where}: {what} kernel", 3)
            for part, what in zip(parts, ("depthwise", "pointwise"), strict=False)
        )
        width, channels, multiplier = first.shape
        return cls(
            first.transpose(1, 2, 0).reshape(channels * multiplier, 1, width),
            second.transpose(2, 1, 0),
            parts[2] if len(parts) == 3 else None,
            multiplier=max(multiplier, 1),
            stride=stride,
            dilation=dilation,
            padding=said_padding(padding, where),
            activation=keras_activation(activation, keras_version, where),
            name=name,
        )

    def options(self) -> dict[str, Any]:
        said = super().options()
        del said["groups"]
        return said | {"multiplier": self.multiplier}

    def op_options(self) -> dict[str, Any]:
        """Of the first of its two operations; the second is a conv1d of width 1."""
        units = (self.input_size or 1) * self.multiplier
        return super().op_options() | {"units": units, "activation": "linear"}

    @classmethod
    def from_parts(cls, name: str, options: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        settings = cls._settings(name, options, "multiplier")
        first, second = (pick(arrays, name, key) for key in ("weight_depthwise", "weight_pointwise"))
        return cls(first, second, arrays.get("bias_pointwise"), **settings, name=name)

    def describe(self) -> str:
        said = super().describe().replace(f", groups {self.groups}", "")
        return said if self.multiplier == 1 else f"{said}, multiplier {self.multiplier}"
