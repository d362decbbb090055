"""The layers that look at one time step at a time: Embedding, Dense, Activation, Masking, LastStep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

from ..arrays import as_array, flag, number, own, sequence, text
from ..errors import CgruError, FormatError, ShapeError, UnsupportedError
from ..spec import activations
from .base import Layer, called, only, take
from .conventions import keras_activation
from .live import (
    ACTIVATIONS,
    check_standard,
    keras_layer,
    keras_major,
    keras_settings,
    torch_kind,
    torch_module,
    torch_tensors,
)


class Embedding(Layer):
    """A table of vectors looked up by token id: ids (B, T) → (B, T, O).

    ``weight`` (V, O). ``mask_zero`` (Keras) makes id 0 a masked step for the layers that follow.
    """

    kind = "embedding"
    takes_ids = True

    def __init__(self, weight: Any, *, mask_zero: bool = False, name: str | None = None) -> None:
        table = own(weight, f"{called(name, self.kind)}: weight", 2)
        super().__init__(name, {"weight": table})
        self.vocabulary = self.input_size = table.shape[0]
        self.output_size = table.shape[1]
        self.mask_zero = flag(mask_zero, f"{self.name}: mask_zero")
        if self.vocabulary < 1 or self.output_size < 1:
            raise ShapeError(f"{self.name}: weight of shape {table.shape} has no entries")

    @classmethod
    def from_torch(cls, tensors: Any, prefix: str = "", *, name: str | None = None) -> Self:
        """From a torch.nn.Embedding, its ``state_dict()``, or one that holds it at ``prefix``."""
        where = called(name, text(prefix, "prefix").rstrip(".") or cls.kind)
        module = torch_module(tensors, ("Embedding",), where)
        if module is not None and module.max_norm is not None:
            raise UnsupportedError(f"{where}: an Embedding with max_norm changes its weights; set max_norm to None")
        return cls(torch_tensors(tensors, prefix, ("weight",), where)["weight"], name=name)

    @classmethod
    def from_keras(cls, weights: Any, *, mask_zero: bool = False, name: str | None = None) -> Self:
        """From Keras' [embeddings (V, O)], or a live Embedding layer, which says its ``mask_zero`` itself."""
        layer = keras_layer(weights, ("Embedding",))
        if layer is not None:
            settings = keras_settings(layer, layer.name, passed=("mask_zero",), inert={"lora_rank": None})
            return cls(layer.get_weights()[0], **settings, name=name or layer.name)
        parts = sequence(weights, called(name, cls.kind), "[embeddings]")
        if len(parts) != 1:
            raise ShapeError(f"{called(name, cls.kind)}: expected [embeddings], found {len(parts)} arrays")
        return cls(parts[0], mask_zero=mask_zero, name=name)

    def options(self) -> dict[str, Any]:
        return {"mask_zero": self.mask_zero}

    def op_options(self) -> dict[str, Any]:
        return {"vocabulary": self.vocabulary, "units": self.output_size}

    @classmethod
    def from_parts(cls, name: str, options: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        only(options, ("mask_zero",), name)
        return cls(pick(arrays, name, "weight"), mask_zero=take(options, "mask_zero", bool, name, False), name=name)

    def describe(self) -> str:
        return f"{self.vocabulary} ids → {self.output_size}" + (", 0 is masked" if self.mask_zero else "")


class Dense(Layer):
    """φ(W x + b) at every time step: (B, T, I) → (B, T, O). torch.nn.Linear, Keras Dense.

    ``weight`` (O, I), ``bias`` (O,) or None; Keras' kernel is the transpose.
    """

    kind = "dense"
    #: The arrays that a scale and a shift of what it gives go into.
    output_arrays: ClassVar[tuple[str, str]] = ("weight", "bias")

    def __init__(self, weight: Any, bias: Any = None, *, activation: str = "linear", name: str | None = None) -> None:
        where = called(name, self.kind)
        matrix = own(weight, f"{where}: weight", 2)
        parts = {"weight": matrix}
        if 0 in matrix.shape:
            raise ShapeError(f"{where}: weight of shape {matrix.shape} has no entries")
        if bias is not None:
            parts["bias"] = own(bias, f"{where}: bias", 1)
            if parts["bias"].shape != (matrix.shape[0],):
                raise ShapeError(f"{where}: bias has shape {parts['bias'].shape}, expected ({matrix.shape[0]},)")
        super().__init__(name, parts)
        self.output_size, self.input_size = matrix.shape
        self.activation = activations.check(activation, where)

    @classmethod
    def from_torch(cls, tensors: Any, prefix: str = "", *, activation: str = "linear", name: str | None = None) -> Self:
        """From a torch.nn.Linear, or a Conv1d of width 1, its ``state_dict()``, or one that holds it at ``prefix``."""
        where = called(name, text(prefix, "prefix").rstrip(".") or cls.kind)
        module = torch_module(tensors, ("Linear", "Conv1d"), where)
        if torch_kind(module) == "Conv1d":
            for setting, plain_one in (("stride", (1,)), ("padding", (0,)), ("groups", 1)):
                value = getattr(module, setting)
                if value != plain_one and not (setting == "padding" and value in ("valid", "same")):
                    raise UnsupportedError(f"{where}: a Conv1d with {setting}={value!r} is no Linear at every step")
        arrays = torch_tensors(tensors, prefix, ("weight", "bias"), where)
        weight = arrays["weight"]
        if weight.ndim == 3 and weight.shape[2] == 1:
            weight = weight[:, :, 0]
        return cls(weight, arrays.get("bias"), activation=activation, name=name)

    @classmethod
    def from_keras(
        cls, weights: Any, *, activation: str = "linear", keras_version: int | None = None, name: str | None = None
    ) -> Self:
        """From Keras' [kernel (I, O), bias (O,)], bias optional; ``keras_version`` as for :class:`GRU`.

        ``weights`` may be a live Dense layer, or a Conv1D of width 1, which says its activation itself.
        """
        layer = keras_layer(weights, ("Dense", "Conv1D"))
        if layer is not None:
            inert = {
                "strides": (1,),
                "groups": 1,
                "data_format": "channels_last",
                "kernel_size": (1,),
                "lora_rank": None,
            }
            settings = keras_settings(layer, layer.name, passed=("activation",), inert=inert)
            kernel, *rest = layer.get_weights()
            made = [kernel.reshape(kernel.shape[-2:]), *rest]
            return cls.from_keras(made, **settings, keras_version=keras_major(layer), name=name or layer.name)
        where = called(name, cls.kind)
        parts = sequence(weights, where, "[kernel] or [kernel, bias]")
        if len(parts) not in (1, 2):
            raise ShapeError(f"{where}: expected [kernel] or [kernel, bias], found {len(parts)} arrays")
        kernel, *rest = parts
        activation = keras_activation(activation, keras_version, where)
        matrix = np.transpose(as_array(kernel, f"{where}: kernel", "numbers"))
        return cls(matrix, rest[0] if rest else None, activation=activation, name=name)

    def options(self) -> dict[str, Any]:
        return {"activation": self.activation}

    def op_options(self) -> dict[str, Any]:
        return {"units": self.output_size, "activation": self.activation}

    @classmethod
    def from_parts(cls, name: str, options: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        only(options, ("activation",), name)
        activation = take(options, "activation", str, name, "linear")
        return cls(pick(arrays, name, "weight"), arrays.get("bias"), activation=activation, name=name)

    def describe(self) -> str:
        return f"{self.input_size} → {self.output_size}" + (
            f", {self.activation}" if self.activation != "linear" else ""
        )


class Activation(Layer):
    """An activation on its own, elementwise (softmax: over the features)."""

    kind = "activation"

    def __init__(self, activation: str, *, name: str | None = None) -> None:
        self.activation = activations.check(activation, called(name, self.kind))
        super().__init__(called(name, activation), {})
        self.input_size = self.output_size = None

    @classmethod
    def from_torch(cls, module: Any, *, name: str | None = None) -> Self:
        """From a torch module that is an activation with its standard settings: torch.nn.ReLU, Tanh, GELU …"""
        where = called(name, cls.kind)
        kind = torch_kind(torch_module(module, tuple(ACTIVATIONS), where))
        if not kind:
            raise CgruError(f"{where}: an activation has no tensors; expected a torch.nn.{' or '.join(ACTIVATIONS)}")
        check_standard(module, kind)
        return cls(ACTIVATIONS[kind], name=name)

    @classmethod
    def from_keras(cls, layer: Any, *, keras_version: int | None = None, name: str | None = None) -> Self:
        """From a live Keras Activation layer, or by Keras' name; ``keras_version`` as for :class:`GRU`."""
        given = keras_layer(layer, ("Activation",))
        if given is not None:
            settings = keras_settings(given, given.name, passed=("activation",), inert={})
            layer, keras_version, name = settings["activation"], keras_major(given), name or given.name
        return cls(keras_activation(layer, keras_version, called(name, cls.kind)), name=name)

    def options(self) -> dict[str, Any]:
        return {"activation": self.activation}

    @classmethod
    def from_parts(cls, name: str, options: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        only(options, ("activation",), name)
        return cls(take(options, "activation", str, name), name=name)

    def describe(self) -> str:
        return self.activation


class Masking(Layer):
    """Keras Masking: a step whose features all equal ``mask_value`` is masked, and its features become zero."""

    kind = "masking"

    def __init__(self, mask_value: float = 0.0, *, name: str | None = None) -> None:
        super().__init__(name, {})
        self.mask_value = number(mask_value, f"{self.name}: mask_value")
        self.input_size = self.output_size = None

    @classmethod
    def from_keras(cls, layer: Any, *, name: str | None = None) -> Self:
        """From a live Keras Masking layer."""
        given = keras_layer(layer, ("Masking",))
        if given is None:
            raise CgruError(f"{called(name, cls.kind)}: expected a Keras Masking, found {type(layer).__name__}")
        settings = keras_settings(given, given.name, passed=("mask_value",), inert={})
        return cls(**settings, name=name or given.name)

    def options(self) -> dict[str, Any]:
        return {"mask_value": self.mask_value}

    @classmethod
    def from_parts(cls, name: str, options: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        only(options, ("mask_value",), name)
        return cls(take(options, "mask_value", (int, float), name, 0.0), name=name)

    def describe(self) -> str:
        return f"steps equal to {self.mask_value:g}"


class LastStep(Layer):
    """The last step alone, each row's within its own length: (B, T, I) → (B, I), ``out[:, -1]``.

    After a bidirectional layer this is not its final state: there the reverse direction has read one step only. A row
    without steps gives zeros.
    """

    kind = "last_step"

    def __init__(self, *, name: str | None = None) -> None:
        super().__init__(name, {})
        self.input_size = self.output_size = None

    @classmethod
    def from_parts(cls, name: str, options: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        only(options, (), name)
        return cls(name=name)

    def describe(self) -> str:
        return "out[:, -1]"


def pick(arrays: Mapping[str, np.ndarray], name: str, key: str) -> np.ndarray:
    if key not in arrays:
        raise FormatError(f"{name}: the tensor {name}.{key} is missing")
    return arrays[key]
