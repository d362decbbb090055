"""A Keras configuration and its weights → cgru's layers. Keras itself is not needed.

One table, :data:`BUILDERS`, says which classes cgru runs; a class that is not in it is refused by its name. Every
setting of a layer is used, or stands on a short list of those that mean nothing at inference; any other one is
refused, so nothing a file says is silently left out.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import FormatError, UnsupportedError
from ...layers import GRU, LSTM, RNN, Activation, Dense, Embedding, Layer, Masking, Recurrent
from .keras_graph import Entry, chain, entries, entry, is_mask_node
from .keras_weights import GroupedWeights, Weights

#: Settings that change nothing at inference, or describe how weights were made.
_IGNORED = re.compile(
    r"name|trainable|seed|dropout|recurrent_dropout|unroll|stateful|implementation|use_cudnn|reverse_state_order"
    r"|batch_input_shape|batch_shape|input_shape|input_dim|input_length|batch_size"
    r"|(?:kernel|recurrent|bias|embeddings)_(?:initializer|regularizer|constraint)|activity_regularizer"
)
#: Settings that must say nothing: each would change what the layer computes.
_MUST_BE_EMPTY = ("quantization_config", "time_major", "ragged", "sparse")
_FLOATS = re.compile(r"(?:mixed_)?(?:b?float16|float32|float64)")


class Settings:
    """The config of one layer: what is read is remembered, and :meth:`finish` refuses what was not."""

    def __init__(self, item: Entry) -> None:
        self.config, self.where = item.config, item.where
        self.read: set[str] = {"dtype"}
        self._check_dtype()

    def _check_dtype(self) -> None:
        policy = self.config.get("dtype")
        if isinstance(policy, dict):
            inner = policy.get("config")
            if policy.get("class_name") in ("DTypePolicy", "Policy") and isinstance(inner, dict):
                policy = inner.get("name")
        if policy is not None and not (isinstance(policy, str) and _FLOATS.fullmatch(policy)):
            raise UnsupportedError(f"{self.where}: dtype policy {str(policy)[:80]} is not a floating-point one")

    def value(self, key: str, default: Any = ...) -> Any:
        self.read.add(key)
        if key not in self.config and default is ...:
            raise FormatError(f"{self.where}: its configuration lacks {key!r}")
        return self.config.get(key, default)

    def flag(self, key: str, default: bool) -> bool:
        value = self.value(key, default)
        if not isinstance(value, bool):
            raise FormatError(f"{self.where}: {key} is {str(value)[:60]!r}, expected true or false")
        return value

    def count(self, key: str) -> int:
        value = self.value(key)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise FormatError(f"{self.where}: {key} is {str(value)[:60]!r}, expected a whole number from 1")
        return value

    def finish(self) -> None:
        for key, value in self.config.items():
            if key in self.read or _IGNORED.fullmatch(key) or (key in _MUST_BE_EMPTY and not value):
                continue
            raise UnsupportedError(
                f"{self.where}: has the setting {key[:60]}={str(value)[:60]}, which cgru does not run"
            )


@dataclass
class Build:
    """What building one model needs to know everywhere: the version, and which layers are Keras' Softmax class."""

    version: str
    softmax: list[Layer] = field(default_factory=list)

    @property
    def number(self) -> tuple[int, int]:
        """Major and minor version; a file that names none was written by Keras 1."""
        match = re.match(r"(\d{1,4})\.(\d{1,4})", self.version)
        return (int(match[1]), int(match[2])) if match else (1, 0)

    def activation(self, settings: Settings, key: str, default: str = "linear") -> str:
        """cgru's name of an activation: Keras changed what hard_sigmoid means with version 3."""
        value = settings.value(key, default)
        if value is None:
            value = "linear"
        if isinstance(value, dict):
            called = value.get("config") if value.get("class_name") in ("function", None) else value["class_name"]
            raise UnsupportedError(f"{settings.where}: {key} is the custom function {str(called)[:80]!r}")
        if not isinstance(value, str):
            raise FormatError(f"{settings.where}: {key} is {str(value)[:80]!r}, expected a name")
        if value == "hard_sigmoid" and self.number < (3, 0):
            return "hard_sigmoid_keras2"
        return {"swish": "silu", "hard_silu": "hard_swish"}.get(value, value)


Builder = Callable[[Entry, Weights, Build], list[Layer]]


def from_config(config: Any, weights: Weights, version: str) -> list[Layer]:
    """The layers of the model that ``config`` (parsed JSON) describes, in the order data passes them."""
    item = entry(config, "the model's configuration")
    if item.class_name not in ("Sequential", "Functional", "Model"):
        raise UnsupportedError(f"{item.where}: only Sequential and Functional models are read, not subclassed ones")
    build = Build(version)
    layers = _model(item, weights, build)
    if not layers:
        raise UnsupportedError(f"{item.where}: none of its layers does anything at inference")
    weights.check_all_used()
    masked = False
    softmax = {id(layer) for layer in build.softmax}
    for layer in layers:
        if isinstance(layer, Masking) or (isinstance(layer, Embedding) and layer.mask_zero):
            if masked:
                raise UnsupportedError(f"layer {layer.name!r}: makes a second mask, which in Keras replaces the first")
            masked = True
        elif isinstance(layer, Recurrent):
            masked = masked and layer.return_sequences
        elif masked and id(layer) in softmax:
            raise UnsupportedError(
                f"layer {layer.name!r} (Softmax): applies the mask that reaches it; use Dense(activation='softmax')"
            )
    return layers


def from_model(model: Any) -> list[Layer]:
    """The layers of a live ``keras.Model`` (Sequential, or Functional in one straight chain), weights copied."""
    import json

    if not hasattr(model, "to_json") or not hasattr(model, "layers"):
        raise UnsupportedError(f"expected a keras.Model, found a {type(model).__name__}")
    packages = (kind.__module__.partition(".")[0] for kind in type(model).__mro__)
    package = sys.modules.get(next((name for name in packages if name in ("keras", "tf_keras", "keras_core")), ""))
    groups = {}
    for layer in model.layers:
        held = [*layer.trainable_weights, *layer.non_trainable_weights]
        groups[layer.name] = [(getattr(weight, "path", weight.name), _widened(weight.numpy())) for weight in held]
    return from_config(json.loads(model.to_json()), GroupedWeights(groups), getattr(package, "__version__", "3.0"))


def _widened(array: np.ndarray) -> np.ndarray:
    """numpy has no bfloat16; the type that stands in for it casts exactly."""
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def _model(item: Entry, weights: Weights, build: Build) -> list[Layer]:
    """A Sequential or Functional model, also one nested in another."""
    listed = entries(item.config, item.where)
    counts: dict[str, int] = {}
    keys: dict[str, str] = {}
    for inner in listed:
        if not is_mask_node(inner):
            stem = snake_case(inner.class_name)
            keys[inner.name] = f"{stem}_{counts[stem]}" if counts.setdefault(stem, 0) else stem
            counts[stem] += 1
    ordered = listed if item.class_name == "Sequential" else chain(item.config, listed, item.where)
    built: list[list[Layer]] = [[] for _ in ordered]
    # Weights are taken in the order of the configuration, which a Functional model's chain need not follow.
    positions = {inner.name: position for position, inner in enumerate(ordered)}
    real = [inner for inner in listed if not is_mask_node(inner)]
    for index in weights.order(real):
        inner = real[index]
        build_layer = BUILDERS.get(inner.class_name)
        if build_layer is None:
            known = ", ".join(sorted(BUILDERS))
            raise UnsupportedError(f"{inner.where}: cgru does not run this class; it runs {known}")
        built[positions[inner.name]] = build_layer(inner, weights.layer(keys[inner.name], inner.name), build)
    return [layer for group in built for layer in group]


def snake_case(name: str) -> str:
    """Keras' spelling of a class name in weight paths: GRUCell → gru_cell, TimeDistributed → time_distributed."""
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


# ---- layers without time ---------------------------------------------------------------------------------


def _ignored(item: Entry, weights: Weights, build: Build) -> list[Layer]:
    """A layer that does nothing at inference."""
    Settings(item)
    return []


def _input(item: Entry, weights: Weights, build: Build) -> list[Layer]:
    for key in ("sparse", "ragged"):
        if item.config.get(key):
            raise UnsupportedError(f"{item.where}: {key} inputs are not read")
    return []


def _embedding(item: Entry, weights: Weights, build: Build) -> list[Layer]:
    settings = Settings(item)
    sizes = settings.count("input_dim"), settings.count("output_dim")
    mask_zero = settings.flag("mask_zero", False)
    settings.finish()
    (table,) = weights.take(["embeddings"], item.where)
    _check_shape(table, sizes, f"{item.where}: embeddings")
    return [Embedding(table, mask_zero=mask_zero, name=item.name)]


def _masking(item: Entry, weights: Weights, build: Build) -> list[Layer]:
    settings = Settings(item)
    value = settings.value("mask_value", 0.0)
    settings.finish()
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise UnsupportedError(f"{item.where}: mask_value {str(value)[:60]} is not a number")
    return [Masking(float(value), name=item.name)]


def _dense(item: Entry, weights: Weights, build: Build) -> list[Layer]:
    settings = Settings(item)
    units = settings.count("units")
    slots = ["kernel", "bias"] if settings.flag("use_bias", True) else ["kernel"]
    activation = build.activation(settings, "activation")
    settings.finish()
    arrays = weights.take(slots, item.where)
    _check_shape(arrays[0], (None, units), f"{item.where}: kernel")
    return [Dense.from_keras(arrays, activation=activation, keras_version=3, name=item.name)]


def _activation(item: Entry, weights: Weights, build: Build) -> list[Layer]:
    settings = Settings(item)
    activation = build.activation(settings, "activation")
    settings.finish()
    return [Activation(activation, name=item.name)]


def _relu(item: Entry, weights: Weights, build: Build) -> list[Layer]:
    settings = Settings(item)
    limits = {key: settings.value(key, None) for key in ("max_value", "negative_slope", "threshold")}
    settings.finish()
    if limits["max_value"] is not None or limits["negative_slope"] or limits["threshold"]:
        raise UnsupportedError(f"{item.where}: only the plain ReLU is run, found {limits}")
    return [Activation("relu", name=item.name)]


def _softmax(item: Entry, weights: Weights, build: Build) -> list[Layer]:
    settings = Settings(item)
    axis = settings.value("axis", -1)
    settings.finish()
    if axis not in (-1, [-1]):
        raise UnsupportedError(f"{item.where}: axis={str(axis)[:40]}; only the last axis, -1, is run")
    build.softmax.append(Activation("softmax", name=item.name))
    return build.softmax[-1:]


def _time_distributed(item: Entry, weights: Weights, build: Build) -> list[Layer]:
    settings = Settings(item)
    inner = entry(settings.value("layer"), item.where)
    settings.finish()
    if inner.class_name not in _EVERY_STEP:
        raise UnsupportedError(f"{item.where}: wraps a {inner.class_name}; run are {', '.join(_EVERY_STEP)}")
    layers = BUILDERS[inner.class_name](inner, weights.part("layer", inner.name), build)
    return [layer.renamed(item.name) for layer in layers]


def _check_shape(array: np.ndarray, shape: tuple[int | None, ...], where: str) -> None:
    fits = array.ndim == len(shape) and all(want in (None, size) for size, want in zip(array.shape, shape, strict=True))
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise FormatError(f"{where} has shape {array.shape}; the configuration says ({wanted})")


# ---- recurrent layers ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Cell:
    """One recurrent cell's settings, as the layer's ``from_keras`` takes them, and the arrays it has."""

    layer: type[GRU] | type[LSTM] | type[RNN]
    #: For ``from_keras``; activations are in Keras 3's words by now, whatever wrote the file.
    options: dict[str, Any]
    slots: tuple[str, ...]
    units: int
    is_cudnn: bool = False

    def take(self, weights: Weights, where: str) -> list[np.ndarray]:
        arrays = weights.take(self.slots, where)
        columns = len(self.layer.GATES) * self.units
        shapes: list[tuple[int | None, ...]] = [(None, columns), (self.units, columns)]
        if len(arrays) == 3:
            rows: tuple[int | None, ...] = (columns,)
            if self.is_cudnn:
                rows = (2 * columns,)
            elif self.options.get("reset_after"):
                rows = (2, columns)
            shapes.append(rows)
        for array, shape, slot in zip(arrays, shapes, self.slots, strict=True):
            _check_shape(array, shape, f"{where}: {slot}")
        return _from_cudnn(arrays, len(self.layer.GATES)) if self.is_cudnn else arrays


def _cell(settings: Settings, build: Build, class_name: str) -> _Cell:
    """What a recurrent layer's or a cell's configuration says of its cell."""
    layer = _CELLS[class_name]
    units = settings.count("units")
    slots = ("kernel", "recurrent_kernel", "bias")
    options: dict[str, Any] = {"activation": "tanh", "recurrent_activation": "sigmoid", "keras_version": 3}
    if class_name.startswith("CuDNN"):
        if layer is GRU:
            options["reset_after"] = True
        return _Cell(layer, options, slots, units, is_cudnn=True)
    if layer is RNN:
        del options["recurrent_activation"]
    else:
        if "recurrent_activation" not in settings.config and build.number < (2, 3) and build.version.endswith("-tf"):
            had = f"{build.version} had two defaults"
            raise FormatError(f"{settings.where}: recurrent_activation is missing, and {had}")
        rate = "hard_sigmoid" if build.number < (2, 3) else "sigmoid"
        options["recurrent_activation"] = build.activation(settings, "recurrent_activation", rate)
    options["activation"] = build.activation(settings, "activation", "tanh")
    if layer is GRU:
        options["reset_after"] = settings.flag("reset_after", False)
    if layer is LSTM:
        settings.flag("unit_forget_bias", True)  # how the bias began
    return _Cell(layer, options, slots if settings.flag("use_bias", True) else slots[:2], units)


def _from_cudnn(arrays: Sequence[np.ndarray], gates: int) -> list[np.ndarray]:
    """The arrays of CuDNNGRU or CuDNNLSTM as GRU's or LSTM's: each gate's block of a kernel holds its transpose.

    An input block of shape (I, H) holds the numbers of an (H, I) matrix in C order. The biases lie end to end; an LSTM
    only adds them.
    """
    kernel, recurrent, bias = arrays
    inputs = [np.ascontiguousarray(block).reshape(block.shape[::-1]).T for block in np.split(kernel, gates, axis=1)]
    states = [block.T for block in np.split(recurrent, gates, axis=1)]
    both = bias.reshape(2, -1)
    return [np.concatenate(inputs, axis=1), np.concatenate(states, axis=1), both if gates == 3 else both.sum(axis=0)]


@dataclass(frozen=True)
class _Recurrence:
    """What a recurrent layer says beside its cell."""

    return_sequences: bool
    go_backwards: bool
    zero_output_for_mask: bool


def _recurrence(settings: Settings) -> _Recurrence:
    if settings.flag("return_state", False):
        raise UnsupportedError(
            f"{settings.where}: return_state=True gives several outputs; save the model without it, "
            "Model.run returns the state anyway"
        )
    return _Recurrence(
        settings.flag("return_sequences", False),
        settings.flag("go_backwards", False),
        settings.flag("zero_output_for_mask", False),
    )


def _recurrent(item: Entry, weights: Weights, build: Build) -> list[Layer]:
    cell, run = _recurrent_settings(item, build)
    arrays = cell.take(weights.part("cell"), item.where)
    return [cell.layer.from_keras(arrays, **cell.options, **vars(run), name=item.name)]


def _recurrent_settings(item: Entry, build: Build) -> tuple[_Cell, _Recurrence]:
    settings = Settings(item)
    cell, run = _cell(settings, build, item.class_name), _recurrence(settings)
    settings.finish()
    return cell, run


def _bidirectional(item: Entry, weights: Weights, build: Build) -> list[Layer]:
    settings = Settings(item)
    merge_mode = settings.value("merge_mode", "concat")
    forward = entry(settings.value("layer"), item.where)
    backward = forward
    if settings.value("backward_layer", None) is not None:
        backward = entry(settings.value("backward_layer"), item.where)
    settings.finish()
    for inner in (forward, backward):
        if inner.class_name not in _RECURRENT_CLASSES:
            known = ", ".join(_RECURRENT_CLASSES)
            raise UnsupportedError(f"{item.where}: wraps a {inner.class_name}; run are {known}")
    (cell, run), (cell_back, run_back) = _recurrent_settings(forward, build), _recurrent_settings(backward, build)
    # An old file has no backward_layer: Keras derives it by turning the forward one round.
    if run.go_backwards or (backward is not forward and not run_back.go_backwards):
        raise UnsupportedError(f"{item.where}: expected a forward layer and one with go_backwards=True, in this order")
    if cell != cell_back or run.return_sequences != run_back.return_sequences:
        raise UnsupportedError(
            f"{item.where}: its two directions differ ({forward.class_name} {cell.options} of {cell.units} units, "
            f"{backward.class_name} {cell_back.options} of {cell_back.units}); run are directions that are alike"
        )
    names = (None, None) if backward is forward else (forward.name, backward.name)
    parts = [weights.part(path, name) for path, name in zip(("forward_layer", "backward_layer"), names, strict=True)]
    arrays, arrays_back = (cell.take(part.part("cell"), item.where) for part in parts)
    return [
        cell.layer.from_keras(
            arrays,
            backward=arrays_back,
            merge_mode=merge_mode,
            return_sequences=run.return_sequences,
            # Whatever the layers say, Keras' wrapper sets this.
            zero_output_for_mask=run.return_sequences,
            **cell.options,
            name=item.name,
        )
    ]


def _rnn(item: Entry, weights: Weights, build: Build) -> list[Layer]:
    """RNN over a cell, or over several: as many layers, all but the last with return_sequences."""
    settings = Settings(item)
    inner = entry(settings.value("cell"), item.where)
    run = _recurrence(settings)
    settings.finish()
    part = weights.part("cell", inner.name)
    if inner.class_name == "StackedRNNCells":
        stack = Settings(inner)
        listed = stack.value("cells")
        stack.finish()
        if not isinstance(listed, list) or not listed:
            raise FormatError(f"{inner.where}: lists no cells")
        cells = [entry(value, inner.where) for value in listed]
        if run.go_backwards and len(cells) > 1:
            raise UnsupportedError(f"{item.where}: go_backwards over several cells is not run")
        counts: dict[str, int] = {}
        parts: list[Weights] = []
        for cell in cells:
            stem = snake_case(cell.class_name)
            number = counts[stem] = counts.get(stem, -1) + 1
            parts.append(part.part(f"cells/{stem}_{number}" if number else f"cells/{stem}", cell.name))
    else:
        cells, parts = [inner], [part]
    layers: list[Layer] = []
    for index, (one, held) in enumerate(zip(cells, parts, strict=True)):
        if one.class_name not in _CELL_CLASSES:
            known = ", ".join(_CELL_CLASSES)
            raise UnsupportedError(f"{item.where}: its cell is a {one.class_name}; run are {known} and stacks of them")
        own = Settings(one)
        kept = _cell(own, build, one.class_name)
        own.finish()
        is_last = index == len(cells) - 1
        options = vars(run) if is_last else {"return_sequences": True}
        name = item.name if len(cells) == 1 else f"{item.name}_cell_{index}"
        layers.append(kept.layer.from_keras(kept.take(held, one.where), **kept.options, **options, name=name))
    return layers


#: Keras' recurrent layers and cells → cgru's.
_CELLS: dict[str, type[GRU] | type[LSTM] | type[RNN]] = {
    "GRU": GRU,
    "CuDNNGRU": GRU,
    "LSTM": LSTM,
    "CuDNNLSTM": LSTM,
    "SimpleRNN": RNN,
    "GRUCell": GRU,
    "LSTMCell": LSTM,
    "SimpleRNNCell": RNN,
}
_CELL_CLASSES = tuple(name for name in _CELLS if name.endswith("Cell"))
_RECURRENT_CLASSES = tuple(name for name in _CELLS if name not in _CELL_CLASSES)
_EVERY_STEP = ("Dense", "Activation", "ReLU", "Dropout", "GaussianNoise", "GaussianDropout")

#: Every class that is read, and what makes cgru's layers of it.
BUILDERS: dict[str, Builder] = {
    "Activation": _activation,
    "ActivityRegularization": _ignored,
    "Bidirectional": _bidirectional,
    "CuDNNGRU": _recurrent,
    "CuDNNLSTM": _recurrent,
    "Dense": _dense,
    "Dropout": _ignored,
    "Embedding": _embedding,
    "Functional": _model,
    "GRU": _recurrent,
    "GaussianDropout": _ignored,
    "GaussianNoise": _ignored,
    "InputLayer": _input,
    "LSTM": _recurrent,
    "Masking": _masking,
    "Model": _model,
    "RNN": _rnn,
    "ReLU": _relu,
    "Sequential": _model,
    "SimpleRNN": _recurrent,
    "Softmax": _softmax,
    "SpatialDropout1D": _ignored,
    "TimeDistributed": _time_distributed,
}
