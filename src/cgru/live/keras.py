"""A live Keras model → a network. Keras is not imported: the model brings its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..engine.model import Model
from ..formats.readers import keras_layers
from ..formats.readers.naming import errors_name
from ..layers.build import plain
from .verification import BATCH, STEPS, random_inputs, verify_against


def from_keras(model: Any, *, example: Any = None, verify: bool = True, backend: str | None = None) -> Model:
    """A network from a live Keras 3 model: Sequential, or a functional graph without branches.

    The model runs beside the network, not in training, on ``example`` (B, T, I) or three random inputs; states of
    stateful layers start at zero there and are put back. ``verify=False`` leaves that out, and ``print(net)`` says so.

    Raises :class:`UnsupportedError` naming the layer or setting that cgru does not run, and where model and network
    differ.
    """
    net = Model(keras_layers.from_model(model), backend=backend)
    if not verify:
        return net.noting("not verified: from_keras was told verify=False")
    inputs = random_inputs(net, *_fixed_sizes(model)) if example is None else [np.asarray(plain(example))]
    with errors_name(type(model).__name__), _states_kept(model):
        found = verify_against(net, lambda x: _run(model, x), inputs)
    what = f"{len(inputs)} random inputs" if example is None else "the example"
    return net.noting(f"verified against the Keras model on {what}: {found}")


def _run(model: Any, x: np.ndarray) -> Any:
    for layer in _stateful(model):
        layer.reset_states()
    y = model(x, training=False)
    return tuple(map(_array, y)) if isinstance(y, (list, tuple)) else _array(y)


def _array(value: Any) -> np.ndarray:
    return np.asarray(plain(value))


def _fixed_sizes(model: Any) -> tuple[int, int]:
    """Rows and steps of an input: the model's own where its input says them."""
    shape = getattr(model, "input_shape", None)
    sizes = shape[:2] if isinstance(shape, tuple) and len(shape) > 1 else (None, None)
    return sizes[0] or BATCH, sizes[1] or STEPS


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
