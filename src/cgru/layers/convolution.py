"""Convolution over time as a layer: PyTorch's Conv1d, Keras' Conv1D."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

from ..arrays import brief, float32, own, positive, sequence, text, whole
from ..errors import CgruError, ShapeError, UnsupportedError
from ..spec import activations
from .base import Layer, called, only, take
from .conventions import keras_activation, plain
from .feedforward import pick
from .live import keras_layer, keras_major, keras_settings, torch_module, torch_tensors

#: Padding by name.
PADDINGS = ("causal", "same", "valid")
#: A stride, a dilation and padding are no larger.
MOST_FRAMES = 1 << 20
_EXPECTED = "'causal', 'same', 'valid' or (left, right), frames of zeros"


class Conv1d(Layer):
    """φ(b + Σ_k W_k x[t · stride − left + k · dilation]), over time: (B, T, I) → (B, T', O).

    ``weight`` (O, I / groups, K), as in torch.nn.Conv1d; Keras' kernel (K, I / groups, O) is the transpose. ``bias``
    (O,) or None. ``padding``: frames of zeros around the sequence, (left, right), or one of
    "causal": (K − 1) · dilation in front, so that nothing looks ahead;
    "same": as many frames come out as ⌈T / stride⌉, the smaller half of the padding in front;
    "valid": none, so that T' is smaller than T.
    A mask ends here, as it does at Keras' Conv1D; ``lengths`` go on.
    """

    kind = "conv1d"
    matrix_axes: ClassVar[int] = 3
    #: The arrays that a scale and a shift of what it gives go into.
    output_arrays: ClassVar[tuple[str, str]] = ("weight", "bias")

    def __init__(
        self,
        weight: Any,
        bias: Any = None,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        padding: str | tuple[int, int] = "causal",
        activation: str = "linear",
        name: str | None = None,
    ) -> None:
        where = called(name, self.kind)
        kernel = own(weight, f"{where}: weight", 3)
        if 0 in kernel.shape:
            raise ShapeError(f"{where}: weight of shape {kernel.shape} has no entries")
        parts = {"weight": kernel}
        if bias is not None:
            parts["bias"] = own(bias, f"{where}: bias", 1)
            if parts["bias"].shape != kernel.shape[:1]:
                raise ShapeError(f"{where}: bias has shape {parts['bias'].shape}, expected ({kernel.shape[0]},)")
        super().__init__(name, parts)
        self._window(where, kernel.shape[2], stride, dilation, padding, activation)
        self.groups = positive(groups, f"{where}: groups")
        self.output_size, per_group, _ = kernel.shape
        if self.output_size % self.groups:
            found = brief(self.groups)
            raise ShapeError(f"{where}: {self.output_size} output channels do not split into {found} groups")
        self.input_size = per_group * self.groups

    def _window(self, where: str, width: int, stride: Any, dilation: Any, padding: Any, activation: Any) -> None:
        self.width = width
        self.stride = _frames(stride, f"{where}: stride", 1)
        self.dilation = _frames(dilation, f"{where}: dilation", 1)
        self.padding = _padding(padding, where)
        self.activation = activations.check(activation, where)

    @classmethod
    def from_torch(
        cls,
        tensors: Any,
        prefix: str = "",
        *,
        padding: str | tuple[int, int] | None = None,
        stride: int | None = None,
        dilation: int | None = None,
        groups: int | None = None,
        activation: str = "linear",
        name: str | None = None,
    ) -> Self:
        """From a torch.nn.Conv1d, its ``state_dict()``, or one that holds it at ``prefix``.

        A module says stride, dilation, groups and padding itself; ``padding="causal"`` in its place is for one whose
        network pads in front, or cuts frames off behind. Tensors say nothing of them: ``padding`` must be given then.
        """
        where = called(name, text(prefix, "prefix").rstrip(".") or cls.kind)
        module = torch_module(tensors, ("Conv1d",), where)
        settings: dict[str, Any] = {"stride": stride, "dilation": dilation, "groups": groups}
        if module is not None:
            if module.padding_mode != "zeros":
                raise UnsupportedError(f"{where}: padding_mode={module.padding_mode!r}; zeros are run")
            found = {"stride": module.stride[0], "dilation": module.dilation[0], "groups": module.groups}
            for key, value in found.items():
                if settings[key] not in (None, value):
                    raise CgruError(f"{where}: {key}={brief(settings[key])}, but the module has {key}={value}")
            settings = found
            own_padding = module.padding if isinstance(module.padding, str) else (module.padding[0],) * 2
            padding = own_padding if padding is None else padding
        arrays = torch_tensors(tensors, prefix, ("weight", "bias"), where)
        settings = {key: value for key, value in settings.items() if value is not None}
        padding = said_padding(padding, where)
        return cls(arrays["weight"], arrays.get("bias"), **settings, padding=padding, activation=activation, name=name)

    @classmethod
    def from_keras(
        cls,
        weights: Any,
        *,
        padding: str | tuple[int, int] | None = None,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        activation: str = "linear",
        keras_version: int | None = None,
        name: str | None = None,
    ) -> Self:
        """From a live Keras Conv1D, which says everything itself, or from [kernel (K, I / groups, O), bias (O,)].

        Beside arrays ``padding`` must be given; ``keras_version`` as for :class:`GRU`.
        """
        layer = keras_layer(weights, ("Conv1D",))
        if layer is not None:
            passed = ("activation", "dilation_rate", "groups", "padding", "strides")
            inert = {"data_format": "channels_last", "lora_rank": None}
            config = keras_settings(layer, layer.name, passed=passed, inert=inert)
            (stride,), (dilation,) = config["strides"], config["dilation_rate"]
            return cls.from_keras(
                layer.get_weights(),
                padding=config["padding"],
                stride=stride,
                dilation=dilation,
                groups=config["groups"],
                activation=config["activation"],
                keras_version=keras_major(layer),
                name=name or layer.name,
            )
        where = called(name, cls.kind)
        parts = sequence(weights, where, "[kernel] or [kernel, bias]")
        if len(parts) not in (1, 2):
            raise ShapeError(f"{where}: expected [kernel] or [kernel, bias], found {len(parts)} arrays")
        kernel, *rest = parts
        return cls(
            float32(plain(kernel), f"{where}: kernel", 3).transpose(2, 1, 0),
            rest[0] if rest else None,
            stride=stride,
            dilation=dilation,
            groups=groups,
            padding=said_padding(padding, where),
            activation=keras_activation(activation, keras_version, where),
            name=name,
        )

    @property
    def span(self) -> int:
        """How many frames one output frame looks over."""
        return (self.width - 1) * self.dilation + 1

    @property
    def pads(self) -> tuple[int, int] | None:
        """The frames of zeros before and behind the sequence; None where they depend on its length."""
        if not isinstance(self.padding, str):
            return self.padding
        if self.padding == "same" and self.stride > 1:
            return None
        total = 0 if self.padding == "valid" else self.span - 1
        left = total if self.padding == "causal" else total // 2
        return left, total - left

    def options(self) -> dict[str, Any]:
        padded = (
            {"padding": self.padding}
            if isinstance(self.padding, str)
            else {"left": self.padding[0], "right": self.padding[1]}
        )
        return {
            "activation": self.activation,
            "stride": self.stride,
            "dilation": self.dilation,
            "groups": self.groups,
            **padded,
        }

    def op_options(self) -> dict[str, Any]:
        return {
            "units": self.output_size,
            "width": self.width,
            "stride": self.stride,
            "dilation": self.dilation,
            "groups": self.groups,
            "activation": self.activation,
        }

    @classmethod
    def from_parts(cls, name: str, options: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        return cls(
            pick(arrays, name, "weight"), arrays.get("bias"), **cls._settings(name, options, "groups"), name=name
        )

    @staticmethod
    def _settings(name: str, options: Mapping[str, Any], own_number: str) -> dict[str, Any]:
        """What a constructor takes of a specification; ``own_number`` is one that only this kind has."""
        named = "padding" in options
        ends = ("padding",) if named else ("left", "right")
        numbers = ("stride", "dilation", own_number)
        only(options, ("activation", *numbers, *ends), name)
        padding: Any = (
            take(options, "padding", str, name) if named else tuple(take(options, key, int, name) for key in ends)
        )
        made = {key: take(options, key, int, name, 1) for key in numbers}
        return made | {"padding": padding, "activation": take(options, "activation", str, name, "linear")}

    def describe(self) -> str:
        padded = self.padding if isinstance(self.padding, str) else "padded {} + {}".format(*self.padding)
        said = [f"{self.input_size} → {self.output_size}", f"width {self.width}", padded]
        said += [f"{key} {value}" for key in ("stride", "dilation", "groups") if (value := getattr(self, key)) != 1]
        return ", ".join(said if self.activation == "linear" else [*said, self.activation])


def _frames(value: Any, where: str, least: int) -> int:
    """A number of frames that a stream could hold."""
    found = whole(value, where, least)
    if found > MOST_FRAMES:
        raise CgruError(f"{where}: expected at most {MOST_FRAMES} frames, found {brief(found)}")
    return found


def _padding(value: Any, where: str) -> str | tuple[int, int]:
    if isinstance(value, str) and value in PADDINGS:
        return value
    if isinstance(value, (tuple, list)) and len(value) == 2:
        left, right = (_frames(end, f"{where}: padding", 0) for end in value)
        return left, right
    raise CgruError(f"{where}: padding={brief(value)}: expected {_EXPECTED}")


def said_padding(padding: Any, where: str) -> Any:
    """``padding``, which nobody can know of arrays alone."""
    if padding is None:
        raise CgruError(f"{where}: arrays do not say how a convolution pads; give padding={_EXPECTED}")
    return padding
