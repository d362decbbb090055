"""RTNeural's JSON (what its Python scripts write of Keras models, AIDA-X' too) and GuitarML's, which is PyTorch's.

RTNeural (Chowdhury 2021, arXiv:2106.03037; RTNeural/model_loader.h) lists layers with Keras' arrays: kernels (in, out),
a GRU's gates z, r, h with ``reset_after``, an LSTM's i, f, c, o; convolutions are causal. GuitarML (CoreAudioML's
``SimpleRNN``) has ``model_data`` beside a state_dict of ``rec`` and ``lin``, and adds its input to its output where
``skip`` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ...builder import Graph
from ...errors import FormatError, UnsupportedError
from ...layers import GRU, LSTM, RNN, Activation, Dense, Layer, Recurrent
from ..containers import json_arrays
from ..containers.file_bytes import Source
from ..containers.file_bytes import shown as shown_name
from ..containers.messages import brief
from .naming import error_prefix

_MAX_LAYERS = 1000
#: RTNeural's activations that are cgru's.
_ACTIVATIONS = ("tanh", "relu", "sigmoid", "softmax", "elu")
#: What stands beside the layers and changes no number; the rest is refused where it says something.
_NOTES = ("in_shape", "layers", "metadata", "version", "name", "author", "samples", "model_name", "comment")
_UNITS: dict[str, Any] = {"GRU": GRU, "LSTM": LSTM, "RNN": RNN}
_Chain = list[Layer] | Graph


def load(source: Source) -> list[Layer] | Graph:
    """The network; :class:`FormatError` where something in it does not fit, :class:`UnsupportedError` by name."""
    root = json_arrays.document(source)
    with error_prefix(shown_name(source), from_file=True):
        return _guitar(root) if "state_dict" in root else _layers(root)


# ---- RTNeural -----------------------------------------------------------------------------------------------------


def _layers(root: Mapping[str, Any]) -> list[Layer] | Graph:
    listed = root.get("layers")
    if not isinstance(listed, list) or not 0 < len(listed) <= _MAX_LAYERS:
        raise UnsupportedError("JSON without RTNeural's layers; a configuration of Keras goes beside weights, config=")
    shape = root.get("in_shape")
    inputs = shape[-1] if isinstance(shape, list) and shape else None
    if type(inputs) is not int or inputs < 1:
        raise FormatError(f"in_shape is {brief(shape)}; expected its last entry to be the number of features")
    skip = root.get("in_skip", 0)
    if skip not in (0, 1, False, True):
        raise UnsupportedError(f"in_skip is {brief(skip)}; cgru knows 0 and 1")
    for key, value in root.items():
        if key not in (*_NOTES, "in_skip") and value not in (0, None, "", False):
            raise UnsupportedError(
                f"{key!r} is {brief(value)}, which RTNeural does not apply and the program around it may; take it "
                "out of the file, and apply it yourself where it matters"
            )
    net = _Network(inputs)
    for number, item in enumerate(listed):
        if not isinstance(item, dict):
            raise FormatError(f"layer {number} is {brief(item)}; expected an object")
        name = f"{item.get('type')}_{number}" if isinstance(item.get("type"), str) else f"layer {number}"
        net.add(item, name[:80])
    return net.finished(bool(skip))


class _Network:
    """Layers as they are added: a chain until something comes that only a graph has."""

    def __init__(self, inputs: int) -> None:
        self.inputs, self.size = inputs, inputs
        self.steps: list[Layer | Callable[[Graph, str], str]] = []

    def add(self, item: Mapping[str, Any], name: str) -> None:
        kind = item.get("type")
        handler = _KINDS.get(kind) if isinstance(kind, str) else None
        if handler is None:
            raise UnsupportedError(f"{name} is {brief(kind)}; cgru runs RTNeural's {', '.join(_KINDS)}")
        shape = item.get("shape")
        units = shape[-1] if isinstance(shape, list) and shape else self.size
        handler(self, item, name)
        if units != self.size:
            raise FormatError(f"{name}: its shape says {brief(units)} units, its weights {self.size}")

    def weights(self, item: Mapping[str, Any], name: str, counts: tuple[int, ...]) -> list[np.ndarray]:
        held = item.get("weights")
        if not isinstance(held, list) or len(held) not in counts:
            found = f"{len(held)}" if isinstance(held, list) else brief(held)
            raise FormatError(f"{name}: expected {' or '.join(map(str, counts))} weights, found {found}")
        return [json_arrays.array(value, f"{name}: weights {i}") for i, value in enumerate(held)]

    def checked(self, name: str, array: np.ndarray, *shape: int) -> None:
        if array.shape != shape:
            raise FormatError(f"{name}: an array of shape {array.shape}, expected {shape}")

    def finished(self, skip: bool) -> list[Layer] | Graph:
        chain = [step for step in self.steps if isinstance(step, Layer)]
        if len(chain) == len(self.steps) and not skip:
            return chain
        g = Graph()
        x = value = g.input(self.inputs)
        for step in self.steps:
            value = g.layer(step, value) if isinstance(step, Layer) else step(g, value)
        if skip:
            value = _skipped(g, x, value, self.inputs, self.size)
        g.output(value)
        return g


def _dense(net: _Network, item: Mapping[str, Any], name: str) -> None:
    kernel, *bias = net.weights(item, name, (1, 2))
    if kernel.ndim != 2:
        raise FormatError(f"{name}: a kernel of shape {kernel.shape}, expected (in, out)")
    net.checked(name, kernel, net.size, kernel.shape[1])
    word = _word(item, name)
    net.steps.append(Dense.from_keras([kernel, *bias], activation="linear", name=name))
    net.size = kernel.shape[1]
    _activate(net, word, name)


def _recurrent(cls: type[GRU] | type[LSTM], gates: int) -> Callable[[_Network, Mapping[str, Any], str], None]:
    def add(net: _Network, item: Mapping[str, Any], name: str) -> None:
        kernel, recurrent, *bias = net.weights(item, name, (2, 3))
        if recurrent.ndim != 2:
            raise FormatError(f"{name}: a recurrent kernel of shape {recurrent.shape}, expected (H, {gates}H)")
        units = recurrent.shape[0]
        net.checked(name, kernel, net.size, gates * units)
        net.checked(name, recurrent, units, gates * units)
        for array in bias:
            net.checked(name, array, *((2,) if cls is GRU else ()), gates * units)
        if item.get("activation", "") not in ("", "tanh"):
            raise UnsupportedError(f"{name}: its activation is {brief(item['activation'])}; RTNeural runs tanh")
        net.steps.append(cls.from_keras([kernel, recurrent, *bias], name=name))
        net.size = units

    return add


def _conv1d(net: _Network, item: Mapping[str, Any], name: str) -> None:
    """Causal: y[t] = Σ_k W[k] · x[t − (K − 1 − k) · dilation] + b."""
    kernel, *bias = net.weights(item, name, (1, 2))
    width, dilation, groups = (_whole(item, key, name) for key in ("kernel_size", "dilation", "groups"))
    if kernel.ndim != 3 or net.size % groups:
        raise FormatError(f"{name}: a kernel of shape {kernel.shape}, expected (width, in, out)")
    units = kernel.shape[2]
    net.checked(name, kernel, width, net.size // groups, units)
    arrays = {"weight": np.ascontiguousarray(kernel.transpose(2, 1, 0))}
    if bias:
        net.checked(name, bias[0], units)
        arrays["bias"] = bias[0]
    options = {"units": units, "width": width, "dilation": dilation, "groups": groups, "left": (width - 1) * dilation}
    word = _word(item, name)
    net.steps.append(lambda g, x: g.node("conv1d", x, name=name, weights=arrays, right=0, **options))
    net.size = units
    _activate(net, word, name)


def _whole(item: Mapping[str, Any], key: str, name: str) -> int:
    found = item.get(key, 1)
    found = found[-1] if isinstance(found, list) and found else found
    if type(found) is not int or not 0 < found < 1 << 20:
        raise FormatError(f"{name}: {key} is {brief(item.get(key))}; expected a whole number")
    return found


def _batch_norm(net: _Network, item: Mapping[str, Any], name: str) -> None:
    """γ (x − μ) / √(σ² + ε) + β with trained statistics."""
    arrays = [array.astype(np.float64) for array in net.weights(item, name, (2, 4))]
    for array in arrays:
        net.checked(name, array, net.size)
    gamma, beta = (arrays[0], arrays[1]) if len(arrays) == 4 else (1.0, 0.0)
    mean, variance = arrays[-2:]
    epsilon = item.get("epsilon", 0.001)
    if type(epsilon) not in (int, float) or not 0 <= epsilon < 1:
        raise FormatError(f"{name}: epsilon is {brief(epsilon)}")
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(variance + epsilon)
        parts = {"scale": scale.astype(np.float32), "shift": (beta - mean * scale).astype(np.float32)}
    if not all(np.isfinite(part).all() for part in parts.values()):
        raise FormatError(f"{name}: a variance that is negative, or zero where epsilon is")
    net.steps.append(lambda g, x: g.node("scale_shift", x, name=name, weights=parts, axis=0))


def _prelu(net: _Network, item: Mapping[str, Any], name: str) -> None:
    (slope,) = net.weights(item, name, (1,))
    slope = slope.reshape(-1)
    if slope.size == 1:
        slope = np.repeat(slope, net.size)
    net.checked(name, slope, net.size)
    net.steps.append(lambda g, x: g.node("prelu", x, name=name, weights={"slope": slope}, axis=0))


def _activation(net: _Network, item: Mapping[str, Any], name: str) -> None:
    _activate(net, _word(item, name), name)


def _word(item: Mapping[str, Any], name: str) -> str:
    word = item.get("activation", "")
    if word not in ("", "linear", *_ACTIVATIONS):
        known = ", ".join(_ACTIVATIONS)
        raise UnsupportedError(f"{name}: its activation is {brief(word)}; cgru runs RTNeural's {known}")
    return str(word)


def _activate(net: _Network, word: str, name: str) -> None:
    if word not in ("", "linear"):
        net.steps.append(Activation(word, name=f"{name}_{word}"))


_KINDS: dict[str, Callable[[_Network, Mapping[str, Any], str], None]] = {
    "dense": _dense, "time-distributed-dense": _dense, "gru": _recurrent(GRU, 3), "lstm": _recurrent(LSTM, 4),
    "conv1d": _conv1d, "batchnorm": _batch_norm, "prelu": _prelu, "activation": _activation,
}  # fmt: skip
#: The types of RTNeural's layers that are read.
KINDS = tuple(_KINDS)


# ---- GuitarML -----------------------------------------------------------------------------------------------------


def _guitar(root: Mapping[str, Any]) -> list[Layer] | Graph:
    said, state = root.get("model_data"), root.get("state_dict")
    if not isinstance(said, dict) or not isinstance(state, dict):
        raise FormatError("expected the objects model_data and state_dict")
    if said.get("model", "SimpleRNN") != "SimpleRNN":
        raise UnsupportedError(f"its model is {brief(said['model'])}; cgru runs SimpleRNN")
    cls = _UNITS.get(str(said.get("unit_type", "LSTM")))
    if cls is None:
        raise UnsupportedError(f"its unit_type is {brief(said['unit_type'])}; cgru runs {', '.join(_UNITS)}")
    tensors = {str(name): json_arrays.array(value, brief(name)) for name, value in state.items()}
    unknown = [name for name in tensors if not name.startswith("rec.") and name not in ("lin.weight", "lin.bias")]
    if unknown or "lin.weight" not in tensors:
        raise FormatError(f"its state_dict holds {', '.join(unknown) or 'no lin.weight'}; expected rec.* and lin.*")
    rec: Recurrent = cls.from_torch(tensors, prefix="rec.")
    lin = Dense(tensors["lin.weight"], tensors.get("lin.bias"), name="lin")
    inputs, outputs = int(rec.input_size or 0), int(lin.output_size or 0)
    sizes = {"hidden_size": rec.hidden_size, "input_size": inputs, "num_layers": rec.num_layers}
    for key, found in (sizes | {"output_size": outputs}).items():
        if said.get(key, found) != found:
            raise FormatError(f"model_data says {key} {brief(said[key])}, and the weights {found}")
    skip = said.get("skip", 0)
    if type(skip) not in (int, bool) or not 0 <= skip <= inputs:
        raise FormatError(f"model_data says skip {brief(skip)}")
    if not skip:
        return [rec, lin]
    g = Graph()
    x = g.input(inputs)
    g.output(_skipped(g, x, g.layer(lin, g.layer(rec, x)), inputs, outputs, int(skip)))
    return g


def _skipped(g: Graph, x: str, y: str, inputs: int, outputs: int, skip: int = 1) -> str:
    """``y + x[..., :skip]``, of one feature for every output, or as many as there are."""
    if skip not in (1, outputs):
        raise UnsupportedError(f"a skip of {skip} features onto {outputs} outputs")
    if inputs > skip:
        x = g.node("slice", x, start=0, stop=skip, axis=0)
    return g.node("add", y, x)
