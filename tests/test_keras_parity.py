"""cgru against live Keras on its torch backend: same network, same numbers, within 2e-6."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras", reason="Keras is not installed: the comparison with it needs keras and torch")
if keras.backend.backend() != "torch":
    pytest.skip(f"Keras runs on {keras.backend.backend()}; the comparison is made on torch", allow_module_level=True)

from cgru import Model, UnsupportedError  # noqa: E402
from cgru.engine import backends  # noqa: E402
from cgru.formats.readers import keras_files  # noqa: E402
from cgru.formats.readers.keras_layers import from_model  # noqa: E402

L = keras.layers
TOLERANCE = 2e-6
BACKENDS = [name for name in backends.BACKENDS if backends.backend(name).unavailable() is None]
SETTINGS = settings(suppress_health_check=list(HealthCheck), max_examples=int(os.environ.get("CGRU_PARITY", "40")))
# Keras warns that a nested Sequential drops the mask, and then does not drop it.
pytestmark = pytest.mark.filterwarnings("ignore")


def to_numpy(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(map(to_numpy, value))
    return keras.ops.convert_to_numpy(value)


def randomise(model: Any, rng: np.random.Generator) -> None:
    """Nonzero biases; the other weights stay as Keras initialises them."""
    for weight in model.weights:
        if weight.path.endswith("bias"):
            weight.assign(rng.normal(size=weight.shape).astype(np.float32) * 0.3)


def masks(rng: np.random.Generator, batch: int, steps: int) -> np.ndarray:
    """Gaps, masked heads and tails, a row without any step, and a full one, in turn."""
    mask = rng.random((batch, steps)) < 0.7
    for row in range(batch):
        kind = rng.integers(5)
        if kind == 0:
            mask[row, : rng.integers(steps + 1)] = False
        elif kind == 1:
            mask[row, rng.integers(steps + 1) :] = False
        elif kind == 2:
            mask[row] = False
        elif kind == 3:
            mask[row] = True
    return mask


def masked_input(rng: np.random.Generator, batch: int, steps: int, size: int, value: float = 0.0) -> np.ndarray:
    x = rng.normal(size=(batch, steps, size)).astype(np.float32)
    x[~masks(rng, batch, steps)] = value
    return x


def assert_equal(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, tuple):
        assert isinstance(ours, tuple)
        for one, other in zip(ours, theirs, strict=True):
            assert_equal(one, other)
        return
    assert (ours.shape, ours.dtype) == (theirs.shape, np.float32)
    # Only unbounded activations leave [-1, 1]; there the tolerance is relative to the largest output.
    scale = max(1.0, float(np.abs(theirs).max(initial=0)))
    assert np.abs(ours - theirs).max(initial=0) <= TOLERANCE * scale


def check(model: Any, x: np.ndarray) -> None:
    """``model`` on every backend there is against Keras itself."""
    expected = to_numpy(model(x))
    net = Model(from_model(model))
    for backend in BACKENDS:
        assert_equal(net(x, backend=backend), expected)


def gru_options(draw: Any) -> dict[str, Any]:
    return {
        "units": draw(st.sampled_from([1, 2, 3, 7, 8, 15, 16, 17, 33])),
        "reset_after": draw(st.booleans()),
        "use_bias": draw(st.booleans()),
        "activation": draw(st.sampled_from(["tanh", "tanh", "relu", "linear", "softsign"])),
        "recurrent_activation": draw(st.sampled_from(["sigmoid", "sigmoid", "hard_sigmoid"])),
        "zero_output_for_mask": draw(st.booleans()),
    }


@SETTINGS
@given(st.data())
def test_single_gru_in_every_form(data: Any) -> None:
    """reset_after × biases × activations × sequences × direction × masks, alone or with a Dense behind."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    options = gru_options(data.draw)
    zero = options.pop("zero_output_for_mask")
    layer = L.GRU(
        **options,
        return_sequences=data.draw(st.booleans()),
        go_backwards=data.draw(st.booleans()),
        zero_output_for_mask=zero,
    )
    batch, size = data.draw(st.sampled_from([1, 2, 5])), data.draw(st.sampled_from([1, 3, 8, 17]))
    # An unbounded candidate amplifies float32's own rounding step by step.
    steps = data.draw(st.integers(1, 50 if options["activation"] in ("tanh", "softsign") else 8))
    layers = [L.Input((None, size)), layer]
    if data.draw(st.booleans()):
        layers.insert(1, L.Masking(data.draw(st.sampled_from([0.0, -1.5, 0.1]))))
    if data.draw(st.booleans()):
        layers.append(L.Dense(3, activation="tanh"))
    model = keras.Sequential(layers)
    randomise(model, rng)
    value = layers[1].mask_value if isinstance(layers[1], L.Masking) else 0.0
    check(model, masked_input(rng, batch, steps, size, value))


@SETTINGS
@given(st.data())
def test_bidirectional_in_every_form(data: Any) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    options = gru_options(data.draw)
    options |= {"activation": "tanh", "return_sequences": data.draw(st.booleans())}
    merge_mode = data.draw(st.sampled_from(["concat", "sum", "mul", "ave", None]))
    backward = L.GRU(**options, go_backwards=True) if data.draw(st.booleans()) else None
    layer = L.Bidirectional(L.GRU(**options), merge_mode=merge_mode, backward_layer=backward)
    size = data.draw(st.sampled_from([1, 3, 8]))
    model = keras.Sequential([L.Input((None, size)), *([L.Masking()] if data.draw(st.booleans()) else []), layer])
    randomise(model, rng)
    check(model, masked_input(rng, data.draw(st.integers(1, 4)), data.draw(st.integers(1, 30)), size))


@SETTINGS
@given(st.data())
def test_stacks_behind_masks(data: Any) -> None:
    """A mask's way through several layers, with go_backwards and Bidirectional among them."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    batch, steps, vocabulary = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 20)), 11
    if takes_ids := data.draw(st.booleans()):
        layers = [L.Input((None,), dtype="int32"), L.Embedding(vocabulary, 5, mask_zero=data.draw(st.booleans()))]
    else:
        layers = [L.Input((None, 5)), *([L.Masking()] if data.draw(st.booleans()) else [])]
    count = data.draw(st.integers(1, 3))
    for index in range(count):
        options = gru_options(data.draw) | {"activation": "tanh", "units": data.draw(st.sampled_from([2, 5]))}
        options["return_sequences"] = index < count - 1 or data.draw(st.booleans())
        kind = data.draw(st.sampled_from(["plain", "backwards", "both", "cells", "nested"]))
        if kind == "both":
            layers.append(L.Bidirectional(L.GRU(**options), merge_mode=data.draw(st.sampled_from(["concat", "sum"]))))
        elif kind == "cells":
            last, zero = options.pop("return_sequences"), options.pop("zero_output_for_mask")
            cells = [L.GRUCell(**options), L.GRUCell(3)][: data.draw(st.integers(1, 2))]
            layers.append(
                L.RNN(cells if len(cells) > 1 else cells[0], return_sequences=last, zero_output_for_mask=zero)
            )
        elif kind == "nested":
            first = L.GRU(**options) if data.draw(st.booleans()) or index == count - 1 else L.Dense(5)
            layers.append(keras.Sequential([first, L.Dropout(0.5)]))
        else:
            layers.append(L.GRU(**options, go_backwards=kind == "backwards"))
        if options.get("return_sequences") and data.draw(st.booleans()):
            layers.append(L.TimeDistributed(L.Dense(4, activation="relu")) if data.draw(st.booleans()) else L.Dense(4))
            layers.append(L.SpatialDropout1D(0.3))
    layers += [L.Dense(3), L.Activation("softmax")]
    if data.draw(st.booleans()):
        model = keras.Sequential(layers)
    else:
        inputs = output = layers[0] if not isinstance(layers[0], L.InputLayer) else layers[0].output
        for layer in layers[1:]:
            output = layer(output)
        model = keras.Model(inputs, output)
    randomise(model, rng)
    x = rng.integers(0, vocabulary, (batch, steps)) if takes_ids else masked_input(rng, batch, steps, 5)
    if takes_ids:
        x[~masks(rng, batch, steps)] = 0
    check(model, x)


@SETTINGS
@given(st.data())
def test_initial_state_and_mask(data: Any) -> None:
    """A given state with masked first steps: Keras emits zeros until the first step that counts."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    batch, steps = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 12))
    both, last = data.draw(st.booleans()), data.draw(st.booleans())
    options = {"return_sequences": not last, "zero_output_for_mask": data.draw(st.booleans())}
    if not both:
        options["go_backwards"] = data.draw(st.booleans())
    layer = L.GRU(4, return_state=True, **options)
    layer = L.Bidirectional(layer) if both else layer
    layer.build((None, None, 3))
    randomise(layer, rng)
    x = rng.normal(size=(batch, steps, 3)).astype(np.float32)
    mask = masks(rng, batch, steps)
    mask[0, 0] = False
    h0 = rng.normal(size=(2 if both else 1, batch, 4)).astype(np.float32)
    out, *states = to_numpy(layer(x, initial_state=list(h0), mask=mask))

    from cgru import GRU

    arrays = [to_numpy(weight) for weight in layer.weights]
    ours = GRU.from_keras(
        arrays[:3],
        backward=arrays[3:] or None,
        return_sequences=not last,
        go_backwards=options.get("go_backwards", False),
        zero_output_for_mask=not last if both else options["zero_output_for_mask"],
    )
    for backend in BACKENDS:
        y, h = ours(x, h0, mask=mask, backend=backend)
        assert_equal(y, out)
        assert_equal(h, np.stack(states))


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("seed", range(4))
def test_saved_files(suffix: str, seed: int, tmp_path: Any) -> None:
    """Through both containers: more than ten layers of one class, nested, frozen and fitted ones."""
    rng = np.random.default_rng(seed)
    inner = keras.Sequential(
        [L.Input((None, 4)), L.GRU(5, return_sequences=True), L.Dense(4), L.GRU(4, return_sequences=True)]
    )
    inner.layers[0].trainable = seed % 2 == 0
    model = keras.Sequential(
        [
            L.Input((6, 3)),
            L.Masking(),
            *[L.Dense(3 + i % 2, activation="tanh") for i in range(12)],
            inner,
            L.Bidirectional(
                L.GRU(3, return_sequences=True, reset_after=seed < 2), merge_mode=["sum", "concat"][seed % 2]
            ),
            L.RNN([L.GRUCell(3), L.GRUCell(4)], return_sequences=True),
            L.GRU(3),
        ]
    )
    randomise(model, rng)
    if seed > 1:
        model.compile("adam", "mse", metrics=["mae"])
        model.fit(rng.normal(size=(4, 6, 3)), np.zeros((4, 3)), verbose=0)
    path = tmp_path / f"model{suffix}"
    model.save(path)
    x = masked_input(rng, 3, 6, 3)
    assert_equal(Model(keras_files.load(path))(x, backend="reference"), to_numpy(model(x)))


def test_softmax_layer_behind_a_mask_is_refused() -> None:
    """Keras' Softmax layer applies the mask; it fails or differs by shape, so it is refused by its name."""
    model = keras.Sequential([L.Input((4, 4)), L.Masking(), L.GRU(4, return_sequences=True), L.Softmax()])
    with pytest.raises(UnsupportedError, match="softmax"):
        from_model(model)


def test_a_mask_from_elsewhere_is_used() -> None:
    inputs = L.Input((None, 3))
    mask = keras.ops.any(keras.ops.not_equal(inputs, 7.0), axis=-1)
    masked = L.Masking(0.0)(inputs)
    x = np.random.default_rng(0).normal(size=(4, 9, 3)).astype(np.float32)
    x[0, 2:4], x[1, 6:], x[2, :2], x[3] = 7.0, 7.0, 0.0, 7.0
    check(keras.Model(inputs, L.GRU(3)(masked, mask=mask)), x)
