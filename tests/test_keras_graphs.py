"""Keras models that are no chains, against Keras itself: live, as .keras, as .h5, and as weights beside their JSON."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras", reason="Keras is not installed: the comparison with it needs keras and torch")
if keras.backend.backend() != "torch":
    pytest.skip(f"Keras runs on {keras.backend.backend()}; the comparison is made on torch", allow_module_level=True)

import cgru  # noqa: E402

L = keras.layers
pytestmark = pytest.mark.filterwarnings("ignore")
RNG = np.random.default_rng(11)
MODELS: dict[str, Callable[[], tuple[Any, list[np.ndarray]]]] = {}


def model(make: Callable[[], tuple[Any, list[np.ndarray]]]) -> Callable[[], tuple[Any, list[np.ndarray]]]:
    MODELS[make.__name__] = make
    return make


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def padded_ids(batch: int, steps: int, vocabulary: int) -> np.ndarray:
    ids = RNG.integers(1, vocabulary, (batch, steps))
    for row in range(1, batch):
        ids[row, steps - 2 * row :] = 0
    return ids


@model
def residual_convolutions() -> Any:
    x = i = keras.Input((None, 6))
    for dilation in (1, 2, 4):
        y = L.Conv1D(6, 3, padding="causal", dilation_rate=dilation, activation="relu")(x)
        x = L.Add()([x, L.Conv1D(6, 1)(y)])
    x = L.GRU(5, return_sequences=True)(L.LayerNormalization()(x))
    return keras.Model(i, L.Dense(2)(x)), [normal(3, 17, 6)]


@model
def every_convolution() -> Any:
    i = keras.Input((None, 4))
    parts = [
        L.Conv1D(6, 4, padding="same", strides=3, activation="leaky_relu")(i),
        L.Conv1D(6, 5, padding="same", dilation_rate=2, groups=2)(i)[:, ::1],
        L.SeparableConv1D(5, 3, depth_multiplier=2, padding="same", activation="gelu")(i),
        L.DepthwiseConv1D(4, depth_multiplier=3, activation="elu")(i),
        L.MaxPooling1D(3, 2, padding="same")(i),
        L.AveragePooling1D(3, 1, padding="same")(i),
        L.AveragePooling1D(2)(i),
        L.Conv1D(3, 2, strides=4, padding="same")(i),
    ]
    ends = [L.GRU(3)(part) for part in parts] + [L.GlobalMaxPooling1D()(parts[0])]
    return keras.Model(i, L.Concatenate()(ends)), [normal(3, 14, 4)]


@model
def steps_changed() -> Any:
    i = keras.Input((None, 4))
    x = L.UpSampling1D(3)(L.Cropping1D((1, 2))(L.ZeroPadding1D((2, 1))(i)))
    return keras.Model(i, [L.GRU(3, return_sequences=True)(x), L.GlobalAveragePooling1D()(x)]), [normal(2, 9, 4)]


@model
def two_texts() -> Any:
    a, b = keras.Input((None,), dtype="int32", name="a"), keras.Input((None,), dtype="int32", name="b")
    embedding, gru = L.Embedding(20, 6, mask_zero=True), L.GRU(4)
    left, right = gru(embedding(a)), gru(embedding(b))
    distance = L.Dot(axes=1, normalize=True)([left, right])
    x = L.Concatenate()([left, right, L.Multiply()([left, right]), L.Subtract()([left, right]), distance])
    return keras.Model([a, b], L.Dense(1, activation="sigmoid")(x)), [padded_ids(3, 9, 20), padded_ids(3, 8, 20)]


@model
def masks_at_joins() -> Any:
    i = keras.Input((None,), dtype="int32")
    x = L.Embedding(20, 6, mask_zero=True)(i)
    a, b = L.GRU(4, return_sequences=True)(x), L.LSTM(4, return_sequences=True)(x)
    outs = [
        L.GlobalAveragePooling1D()(L.Concatenate()([a, b])),
        L.GlobalMaxPooling1D()(a),
        L.GRU(3)(L.Add()([a, b])),
        L.Attention()([a, b]),
        L.GRU(2)(L.Conv1D(3, 2)(a)),
    ]
    return keras.Model(i, outs), [padded_ids(3, 10, 20)]


@model
def translator() -> Any:
    e, d = keras.Input((None, 6)), keras.Input((None, 4))
    both = L.Bidirectional(L.LSTM(4, return_sequences=True, return_state=True))
    memory, *states = both(e)
    h, c = L.Concatenate()([states[0], states[2]]), L.Concatenate()([states[1], states[3]])
    x = L.LSTM(8, return_sequences=True)(d, initial_state=[h, c])
    context = L.AdditiveAttention()([x, memory])
    return keras.Model([e, d], L.Dense(5, activation="softmax")(L.Concatenate()([x, context]))), [
        normal(3, 9, 6), normal(3, 7, 4),
    ]  # fmt: skip


@model
def states_out() -> Any:
    i = keras.Input((None, 3))
    cells = L.RNN([L.GRUCell(3), L.LSTMCell(2)], return_sequences=True, return_state=True)
    y, *states = cells(i)
    z, h, c = L.LSTM(3, return_state=True, go_backwards=True)(i)
    return keras.Model(i, [y, *keras.tree.flatten(states), z, h, c]), [normal(2, 8, 3)]


@model
def unlike_directions() -> Any:
    i = keras.Input((None, 3))
    backward = L.LSTM(4, return_sequences=True, go_backwards=True)
    layer = L.Bidirectional(L.GRU(4, return_sequences=True), backward_layer=backward, merge_mode="mul")
    return keras.Model(i, layer(i)), [normal(2, 8, 3)]


@model
def cnn_lstm() -> Any:
    inner = [L.Conv1D(4, 3, activation="relu"), L.MaxPooling1D(2), L.Flatten()]
    return keras.Sequential([keras.Input((None, 10, 2)), *map(L.TimeDistributed, inner), L.LSTM(5), L.Dense(1)]), [
        normal(3, 6, 10, 2)
    ]


@model
def rows_inside_steps() -> Any:
    inner = L.Bidirectional(L.GRU(3, reset_after=False))
    return keras.Sequential([keras.Input((None, 5, 2)), L.TimeDistributed(inner), L.GRU(4)]), [normal(3, 6, 5, 2)]


@model
def autoencoder() -> Any:
    layers = [L.LSTM(6), L.RepeatVector(7), L.LSTM(5, return_sequences=True), L.TimeDistributed(L.Dense(3))]
    return keras.Sequential([keras.Input((7, 3)), *layers]), [normal(3, 7, 3)]


@model
def forecaster_that_flattens() -> Any:
    i = keras.Input((8, 3))
    x = L.GRU(4, return_sequences=True)(i)
    x = L.Dense(12)(L.Flatten()(L.Permute((2, 1))(x)))
    x = L.Conv1D(3, 2, padding="same", strides=2)(L.Reshape((4, 3))(x))
    scores = L.Dot(axes=(2, 2))([i, L.Reshape((4, 3))(L.Dense(12)(i[:, -1]))])
    return keras.Model(i, [L.Flatten()(x), scores]), [normal(2, 8, 3)]


@model
def attention_by_dot_of_open_lengths() -> Any:
    """Luong's, of a decoder over an encoder: each input has a length of its own."""
    source, target = keras.Input((None, 5), name="source"), keras.Input((None, 3), name="target")
    memory, h = L.GRU(6, return_sequences=True)(source), L.GRU(6, return_sequences=True)(target)
    weights = L.Dropout(0.1)(L.Activation("softmax")(L.Dot(axes=[2, 2])([h, memory])))
    context = L.Dot(axes=[2, 1])([weights, memory])
    y = L.Dense(4, "tanh")(L.Concatenate()([context, h]))
    return keras.Model([source, target], y), [normal(3, 7, 5), normal(3, 4, 3)]


@model
def attention_to_itself_and_pooling_by_dot() -> Any:
    i = keras.Input((None, 5))
    h = L.Bidirectional(L.GRU(3, return_sequences=True))(L.Masking()(i))
    h = L.Add()([L.Dot(axes=(2, 1))([L.Softmax()(L.Dot(axes=2)([L.Dense(4)(h), L.Dense(4)(h)])), h]), i[..., :1]])
    pooled = L.Dot(axes=1)([L.Softmax(axis=1)(L.Dense(1)(h)), h])
    return keras.Model(i, L.Dense(2)(L.Flatten()(pooled))), [normal(3, 8, 5)]


@model
def every_activation() -> Any:
    i = keras.Input((None, 5))
    names = "gelu silu selu mish relu6 exponential log_softmax hard_silu softplus elu celu"
    parts = [L.Activation(name)(i) for name in names.split()]
    parts += [
        L.LeakyReLU(negative_slope=0.1)(i), L.ELU(0.5)(i), L.ReLU(1.5, 0.1)(i), L.ReLU(threshold=0.4)(i),
        L.Softmax()(i),
        L.PReLU(shared_axes=[1], alpha_initializer=keras.initializers.RandomNormal(seed=1))(i),
        L.UnitNormalization()(i), L.RMSNormalization()(i), L.Rescaling(0.3, 1.0)(i),
        L.Maximum()([i, L.Dense(5)(i)]), L.Minimum()([i, L.Dense(5)(i)]), L.Average()([i, L.Dense(5)(i), i]),
        i * 0.5 + L.Dense(5, "tanh")(i), i - 1.0, 2.0 - i,
    ]  # fmt: skip
    return keras.Model(i, L.GRU(4, return_sequences=True)(L.Concatenate()(parts))), [normal(3, 6, 5)]


@model
def context_beside_a_sequence() -> Any:
    i, s = keras.Input((None, 4)), keras.Input((3,))
    x = L.GRU(4, return_sequences=True)(i, initial_state=L.Dense(4)(s))
    y = L.Concatenate()([L.GRU(3)(x), L.Dense(2)(s)])
    return keras.Model([i, s], [L.Dense(1)(y), x]), [normal(3, 6, 4), normal(3, 3)]


@model
def transformer() -> Any:
    i = keras.Input((None, 8))
    x = L.Add()([i, L.MultiHeadAttention(2, 4)(i, i, use_causal_mask=True)])
    x = L.LayerNormalization()(x)
    return keras.Model(i, L.GRU(3)(L.Add()([x, L.Dense(8, "relu")(x)]))), [normal(3, 6, 8)]


@model
def transposed_convolutions() -> Any:
    """The kernel wider than the stride and narrower, the cropped part even and odd."""
    x = i = keras.Input((None, 4))
    for width, stride, padding in ((4, 2, "same"), (4, 3, "same"), (5, 3, "valid"), (1, 2, "same"), (2, 3, "valid")):
        x = L.Conv1DTranspose(4, width, strides=stride, padding=padding, activation="tanh")(x)
    return keras.Model(i, L.GRU(3)(x)), [normal(3, 5, 4)]


@model
def sums_by_einstein() -> Any:
    x = i = keras.Input((None, 6))
    x = L.EinsumDense("abc,cde->abde", (None, 2, 4), bias_axes="de")(x)
    x = L.EinsumDense("abde,dfe->abf", (None, 5), bias_axes="f", activation="tanh")(x)
    x = L.EinsumDense("...x,xy->...y", (4,), bias_axes="y")(x)
    return keras.Model(i, L.GRU(3)(x)), [normal(3, 6, 6)]


@model
def kernels_divided_by_their_norm() -> Any:
    x = i = keras.Input((None, 4))
    x = L.SpectralNormalization(L.Conv1D(5, 3, padding="causal", activation="relu"))(x)
    return keras.Model(i, L.SpectralNormalization(L.Dense(2))(L.GRU(3)(x))), [normal(3, 6, 4)]


@model
def attention_over_words() -> Any:
    i = keras.Input((None,), dtype="int32")
    x = L.Embedding(20, 8, mask_zero=True)(i)
    y = L.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True)
    x = L.Add()([x, y])
    ids = np.where(np.arange(7) < [[7], [4], [2]], RNG.integers(1, 20, (3, 7)), 0)
    return keras.Model(i, [L.GRU(3)(x), L.GlobalAveragePooling1D()(x), y]), [ids]


@model
def attention_to_other_words() -> Any:
    asked, known = keras.Input((None,), dtype="int32"), keras.Input((None,), dtype="int32")
    table = L.Embedding(20, 8, mask_zero=True)
    x = L.MultiHeadAttention(2, 4)(table(asked), L.GRU(8, return_sequences=True)(table(known)))
    ids = np.where(np.arange(7) < [[7], [4], [2]], RNG.integers(1, 20, (3, 7)), 0)
    return keras.Model([asked, known], L.GRU(3)(x)), [ids[:, :5], ids]


@model
def squeeze_and_excite() -> Any:
    """One frame for all: what a global pooling with keepdims gives, and a Reshape to it."""
    i = keras.Input((None, 6))
    x = L.Conv1D(8, 3, padding="same")(i)
    kept = L.Dense(8, "sigmoid")(L.Dense(2, "relu")(L.GlobalAveragePooling1D(keepdims=True)(x)))
    reshaped = L.Dense(8, "sigmoid")(L.Reshape((1, 8))(L.GlobalMaxPooling1D()(x)))
    return keras.Model(i, L.GRU(3)(L.Multiply()([x, kept]) * reshaped)), [normal(3, 9, 6)]


@model
def words_and_characters() -> Any:
    words, characters = keras.Input((None,), dtype="int32"), keras.Input((None, 5), dtype="int32")
    c = L.TimeDistributed(L.Embedding(12, 4))(characters)
    c = L.TimeDistributed(L.GlobalMaxPooling1D())(L.TimeDistributed(L.Conv1D(6, 3))(c))
    x = L.Concatenate()([L.Embedding(20, 6)(words), c])
    return keras.Model([words, characters], L.Dense(3)(L.Bidirectional(L.LSTM(4, return_sequences=True))(x))), [
        padded_ids(2, 8, 20), RNG.integers(0, 12, (2, 8, 5)),
    ]  # fmt: skip


@model
def nested_and_frozen() -> Any:
    layers = [L.Conv1D(4, 3), L.BatchNormalization(), L.GRU(4, return_sequences=True)]
    first = keras.Sequential([keras.Input((None, 4)), *layers])
    second = keras.Sequential([keras.Input((None, 4)), L.BatchNormalization(), L.Dense(4), L.BatchNormalization()])
    second.layers[0].trainable = False
    i = keras.Input((None, 4))
    return keras.Model(i, L.GRU(2)(second(first(i)))), [normal(3, 9, 4)]


@model
def statistics_in_float16() -> Any:
    adapted = L.Normalization(dtype="float32")
    adapted.adapt(RNG.normal(3, 2, size=(50, 6)).astype(np.float32))
    layers = [adapted, L.Normalization(mean=0.5, variance=2.0), L.GRU(4), L.Dense(2)]
    return keras.Sequential([keras.Input((None, 6)), *layers]), [normal(3, 9, 6) * 2 + 3]


def randomised(made: Any) -> None:
    for weight in made.weights:
        kind = weight.path.rpartition("/")[2]
        if kind in ("bias", "beta", "moving_mean"):
            weight.assign(RNG.normal(size=weight.shape).astype(np.float32) * 0.3)
        elif kind in ("gamma", "moving_variance", "scale"):
            weight.assign(RNG.uniform(0.5, 1.5, size=weight.shape).astype(np.float32))


def flat(tree: Any) -> list[np.ndarray]:
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, (list, tuple)):
        return [array for one in tree for array in flat(one)]
    return [np.asarray(keras.ops.convert_to_numpy(tree))] if not isinstance(tree, np.ndarray) else [tree]


def agrees(net: cgru.Model, inputs: list[np.ndarray], expected: list[np.ndarray]) -> None:
    names = getattr(net, "input_names", ["x"])
    found = flat(net(dict(zip(names, inputs, strict=True)) if len(inputs) > 1 else inputs[0]))
    assert [y.shape for y in found] == [y.shape for y in expected]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6 * max(1.0, float(np.abs(theirs).max())))


@pytest.mark.parametrize("name", MODELS)
def test_live_and_every_file(name: str, tmp_path: Path) -> None:
    made, inputs = MODELS[name]()
    randomised(made)
    expected = flat(made(inputs if len(inputs) > 1 else inputs[0], training=False))
    agrees(cgru.from_keras(made), inputs, expected)
    made.save(tmp_path / "model.keras")
    agrees(cgru.load(tmp_path / "model.keras"), inputs, expected)
    made.save(tmp_path / "model.h5")
    agrees(cgru.load(tmp_path / "model.h5"), inputs, expected)
    made.save_weights(tmp_path / "model.weights.h5")
    (tmp_path / "model.json").write_text(made.to_json())
    for config in (tmp_path / "model.json", made.to_json()):
        agrees(cgru.load(tmp_path / "model.weights.h5", config=config), inputs, expected)


def test_mappings_of_inputs_and_outputs(tmp_path: Path) -> None:
    """Keras sorts the keys of what it gives; cgru's are in the order of the configuration, by the same names."""
    series, static = keras.Input((None, 4), name="zeries"), keras.Input((3,), name="static")
    x = L.GRU(5, return_sequences=True)(series, initial_state=L.Dense(5)(static))
    outputs = {"tags": L.Dense(3, name="first")(x), "cls": L.Dense(1, name="second")(L.GlobalMaxPooling1D()(x))}
    made = keras.Model({"zeries": series, "static": static}, outputs)
    given = {"zeries": normal(3, 7, 4), "static": normal(3, 3)}
    expected = made(given, training=False)
    made.save(tmp_path / "model.keras")
    made.save(tmp_path / "model.h5")
    for net in (cgru.from_keras(made), cgru.load(tmp_path / "model.keras"), cgru.load(tmp_path / "model.h5")):
        found: Any = net(given)
        assert set(found) == set(expected) == {"tags", "cls"}
        for name, theirs in expected.items():
            np.testing.assert_allclose(found[name], flat(theirs)[0], rtol=0, atol=2e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_a_policy_of_16_bits_runs_in_float32(policy: str, tmp_path: Path) -> None:
    """Weights are float32 under it: cgru gives what the same weights give in float32, which Keras comes near."""

    layers = [
        L.Conv1D(6, 3, padding="causal", activation="relu"), L.BatchNormalization(), L.GRU(8, return_sequences=True),
        L.Bidirectional(L.LSTM(4)), L.Dense(2),
    ]  # fmt: skip
    wide, x = keras.Sequential([keras.Input((None, 6)), *layers]), normal(3, 9, 6)
    half = keras.Sequential.from_config(_under(policy, wide.get_config()))
    randomised(half)
    wide.set_weights(half.get_weights())
    expected = flat(wide(x, training=False))
    half.save(tmp_path / "model.keras")
    half.save(tmp_path / "model.h5")
    half.save_weights(tmp_path / "model.weights.h5")
    assert half.layers[2].compute_dtype == policy.removeprefix("mixed_")
    assert np.abs(flat(half(x, training=False))[0].astype(np.float32) - expected[0]).max() > 1e-5
    live = cgru.from_keras(half)
    assert "verified against the Keras model in float32" in str(live)
    for net in (
        live, cgru.load(tmp_path / "model.keras"), cgru.load(tmp_path / "model.h5"),
        cgru.load(tmp_path / "model.weights.h5", config=half.to_json()),
    ):  # fmt: skip
        agrees(net, [x], expected)


def _under(policy: str, config: Any) -> Any:
    """A configuration whose layers, but for the last, have this policy."""
    for layer in config["layers"][:-1]:
        if layer["class_name"] != "InputLayer":
            layer["config"]["dtype"] = policy
            for key in ("layer", "backward_layer"):
                if key in layer["config"]:
                    layer["config"][key]["config"]["dtype"] = policy
    return config


def test_a_fixed_length_is_kept() -> None:
    made, (x,) = forecaster_that_flattens()
    net = cgru.from_keras(made)
    with pytest.raises(cgru.ShapeError, match="8 frames"):
        net(x[:, :7])


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda: L.Lambda(lambda x: x * 2), "Lambda.*code"),
        (lambda: L.Flatten(), "known length"),
        (lambda: L.PReLU(), "PReLU"),
        (lambda: L.Conv1DTranspose(3, 2, strides=2, output_padding=1), "output_padding="),
        (lambda: L.EinsumDense("abc,cd->adb", (4, None)), "equation 'abc,cd->adb'"),
        (lambda: L.SpectralNormalization(L.Conv1DTranspose(3, 2)), "wraps a Conv1DTranspose"),
    ],
)
def test_what_cannot_be_known_is_refused_by_name(layer: Any, message: str) -> None:
    i = keras.Input((6 if "PReLU" in message else None, 3))
    made = keras.Model(i, layer()(i))
    with pytest.raises(cgru.UnsupportedError, match=message):
        cgru.from_keras(made)


def test_a_second_attention_under_a_mask_is_refused() -> None:
    """Keras takes the mask off what the first one has read, which then stands without one."""
    i = keras.Input((None,), dtype="int32")
    x = L.Embedding(20, 8, mask_zero=True)(i)
    x = L.Add()([x, L.MultiHeadAttention(2, 4)(x, x)])
    with pytest.raises(cgru.UnsupportedError, match="behind another that did"):
        cgru.from_keras(keras.Model(i, L.MultiHeadAttention(2, 4)(x, x)))


@pytest.mark.parametrize(
    "after",
    [
        lambda scores, h: scores,
        lambda scores, h: L.Softmax()(scores),
        lambda scores, h: L.Dot(axes=(2, 1))([scores, h]),
        lambda scores, h: L.Dot(axes=(1, 1))([L.Softmax()(scores), h]),
        lambda scores, h: L.Dot(axes=(2, 1))([L.Softmax()(L.Softmax()(scores)), h]),
        lambda scores, h: L.Dot(axes=(2, 1))([L.Activation("sigmoid")(scores), h]),
        lambda scores, h: L.Dot(axes=(1, 2))([h, L.Softmax()(scores)]),
    ],
)
def test_scores_of_open_lengths_are_run_as_attention_alone(after: Any, tmp_path: Path) -> None:
    i = keras.Input((None, 5))
    h = L.GRU(5, return_sequences=True)(i)
    keras.Model(i, after(L.Dot(axes=(2, 2))([h, h]), h)).save(tmp_path / "m.keras")
    with pytest.raises(cgru.UnsupportedError, match="steps"):
        cgru.load(tmp_path / "m.keras")
