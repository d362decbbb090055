"""A live Keras model → a network. Keras is not imported: the model brings its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..engine.model import Model
from ..errors import CgruError
from ..formats.readers import keras_layers
from ..formats.readers.naming import error_prefix
from ..layers.conventions import plain
from .verification import BATCH, random_inputs, verify_against


def from_keras(model: Any, *, example: Any = None, verify: bool = True, backend: str | None = None) -> Model:
    """A network from a live Keras 3 model, Sequential or Functional: branches and several inputs and outputs too.

    The model runs beside the network, not in training, on ``example`` (B, T, I), a list or a mapping of several
    inputs', or on three random ones; states of stateful layers start at zero there and are put back. ``verify=False``
    leaves that out, and ``print(net)`` says so.

    Raises :class:`UnsupportedError` naming the layer or setting that cgru does not run, and where model and network
    differ.
    """
    net = Model(keras_layers.from_model(model), backend=backend)
    if not verify:
        return net.noting("not verified: from_keras was told verify=False")
    names = net.input_names
    inputs = random_inputs(net, *_fixed_sizes(model, names)) if example is None else [_example(example, names)]
    with error_prefix(type(model).__name__), _states_kept(model):
        beside, how = _in_float32(model)
        found = verify_against(net, lambda x: _run(beside, x), inputs)
    what = f"{len(inputs)} random inputs" if example is None else "the example"
    return net.noting(f"verified against the Keras model{how} on {what}: {found}")


def _example(example: Any, names: list[str]) -> Any:
    if isinstance(example, Mapping):
        return {name: np.asarray(plain(value)) for name, value in example.items()}
    if isinstance(example, (list, tuple)) and len(names) > 1:
        if len(example) != len(names):
            raise CgruError(f"example: the model takes {len(names)} inputs, {', '.join(names)}; found {len(example)}")
        return {name: np.asarray(plain(value)) for name, value in zip(names, example, strict=True)}
    return np.asarray(plain(example))


def _in_float32(model: Any) -> tuple[Any, str]:
    """The model, or where it computes in 16 bits a float32 one with its weights, and what to say of that.

    cgru computes in float32, and what 16 bits round off is more than a difference worth looking at.
    """
    layers: list[Any] = list(getattr(model, "_flatten_layers", list)())
    if not any(getattr(layer, "compute_dtype", "float32") in ("float16", "bfloat16") for layer in layers):
        return model, ""
    twin = type(model).from_config(_widened(model.get_config()))
    twin.set_weights(model.get_weights())
    return twin, " in float32"


def _widened(config: Any) -> Any:
    """A configuration whose types and policies of 16 bits are float32."""
    if isinstance(config, Mapping):
        return {key: _widened(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return type(config)(map(_widened, config))
    return "float32" if config in ("mixed_float16", "mixed_bfloat16", "float16", "bfloat16") else config


def _run(model: Any, x: Any) -> Any:
    for layer in _stateful(model):
        layer.reset_states()
    y = model(_as_taken(model, x), training=False)
    titles = _titles(model)
    if isinstance(y, Mapping) and titles and set(titles) == set(y):
        y = [y[title] for title in titles]
    parts = list(_flat(y))
    return tuple(map(_array, parts)) if len(parts) > 1 else _array(parts[0])


def _as_taken(model: Any, x: Any) -> Any:
    """Several inputs as a model takes them: in order, or by the names of its mapping."""
    if not isinstance(x, Mapping):
        return x
    struct = getattr(model, "_inputs_struct", None)
    if not isinstance(struct, Mapping) or len(struct) != len(x):
        return list(x.values())
    return dict(zip(struct, x.values(), strict=True))


def _titles(model: Any) -> list[str]:
    """What the model calls its outputs, in the order of its configuration, where it gives a mapping."""
    struct = getattr(model, "_outputs_struct", None)
    return list(model.get_config()["output_layers"]) if isinstance(struct, Mapping) else []


def _flat(tree: Any) -> Iterator[Any]:
    if isinstance(tree, (list, tuple)):
        for one in tree:
            yield from _flat(one)
    elif isinstance(tree, Mapping):
        yield from _flat(list(tree.values()))
    else:
        yield tree


def _array(value: Any) -> np.ndarray:
    return np.asarray(plain(value))


def _fixed_sizes(model: Any, names: list[str]) -> tuple[int, dict[str, int]]:
    """Rows, and the steps of each input: the model's own where its inputs say them."""
    shapes = [tuple(x.shape) for x in getattr(model, "inputs", None) or ()]
    batch = next((shape[0] for shape in shapes if shape and shape[0]), BATCH)
    steps = {name: int(shape[1]) for name, shape in zip(names, shapes, strict=False) if len(shape) > 1 and shape[1]}
    return int(batch), steps


def _stateful(layer: Any) -> list[Any]:
    """The recurrent layers, of a model or inside a wrapper, that carry their state from call to call."""
    inner = [*getattr(layer, "layers", ())]
    inner += [getattr(layer, name) for name in ("forward_layer", "backward_layer") if hasattr(layer, name)]
    if inner:
        return [found for one in inner for found in _stateful(one)]
    return [layer] if getattr(layer, "stateful", False) and hasattr(layer, "reset_states") else []


@contextmanager
def _states_kept(model: Any) -> Iterator[None]:
    """Put back what stateful layers carry."""
    variables = [variable for layer in _stateful(model) for variable in layer.states if variable is not None]
    held = [np.array(_array(variable.value)) for variable in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, held, strict=True):
            variable.assign(value)
