"""Convolutions over time and layer normalisation as layers: against PyTorch and Keras, and in networks with others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import noise

import cgru
from cgru import CgruError, UnsupportedError
from cgru.formats.containers import safetensors

X = noise((3, 11, 4), 3)


def conv(units: int = 6, width: int = 3, **options: Any) -> cgru.Conv1d:
    weight = noise((units, 4 // options.get("groups", 1), width), 40)
    return cgru.Conv1d(weight, noise((units,), 41), **options)


def gru(inputs: int, units: int = 5) -> cgru.GRU:
    return cgru.GRU.from_arrays(
        noise((3 * units, inputs), 50) / 2, noise((3 * units, units), 51) / 2, noise((3 * units,), 52)
    )


def network(backend: str | None = None, **options: Any) -> cgru.Model:
    layers = [conv(**options), cgru.LayerNorm(noise((6,), 42), noise((6,), 43)), gru(6), head()]
    return cgru.Model(layers, backend=backend)


def head() -> cgru.Dense:
    return cgru.Dense(noise((2, 5), 44), noise((2,), 45))


def check_same(got: np.ndarray, want: np.ndarray, backend: str) -> None:
    """Equal bits in the packed backend; the others' products over frames depend on how many there are."""
    np.testing.assert_allclose(got, want, rtol=0, atol=0 if backend == "packed" else 1e-6)


# ---- against PyTorch -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1},
        {"padding": "same", "dilation": 2, "bias": False},
        {"stride": 2, "groups": 2},
        {"padding": 4, "stride": 3},
        {"padding": "same", "groups": 4, "kernel_size": 4},
    ],
    ids=str,
)
def test_convolutions_of_torch(torch: Any, options: dict[str, Any], backend: str) -> None:
    units = 4 if options.get("groups") == 4 else 6
    module = torch.nn.Conv1d(4, units, **{"kernel_size": 3, **options})
    with torch.no_grad():
        want = module(torch.from_numpy(X).mT).mT.numpy()
    net = cgru.Model([cgru.Conv1d.from_torch(module)], backend=backend)
    np.testing.assert_allclose(net(X), want, rtol=0, atol=2e-6)


def test_a_causal_convolution_of_torch(torch: Any, backend: str) -> None:
    """What networks write as padding on both ends, of which the frames behind are cut off."""
    module = torch.nn.Conv1d(4, 6, 3, dilation=2, padding=4)
    with torch.no_grad():
        want = module(torch.from_numpy(X).mT)[..., :-4].relu().mT.numpy()
    made = cgru.Conv1d.from_torch(module, padding="causal", activation="relu")
    named = {f"front.{key}": value for key, value in module.state_dict().items()}
    given = cgru.Conv1d.from_torch(named, "front", padding="causal", dilation=2, activation="relu")
    for layer in (made, given):
        net = cgru.Model([layer], backend=backend)
        np.testing.assert_allclose(net(X), want, rtol=0, atol=2e-6)
        stream = net.stream(3)
        check_same(np.stack([stream.step(X[:, t]) for t in range(11)], 1), net(X), backend)


def test_rows_of_several_lengths_are_each_as_alone(backend: str) -> None:
    for options in ({}, {"padding": "same"}, {"padding": "same", "stride": 2}, {"padding": "valid"}):
        net = network(backend, **options)
        together = net(X, lengths=[11, 6, 4])
        for row, length in enumerate((11, 6, 4)):
            alone = net(X[row, :length])
            check_same(together[row, : len(alone)], alone, backend)
            assert not together[row, len(alone) :].any()


def test_a_network_of_torch(torch: Any, backend: str) -> None:
    nn = torch.nn
    modules = nn.Conv1d(4, 6, 3), nn.LayerNorm(6, eps=0.01), nn.GRU(6, 5, batch_first=True), nn.Linear(5, 2)
    front, norm, recurrent, last = modules
    with torch.no_grad():
        norm.weight.copy_(torch.from_numpy(noise((6,), 9)))
        norm.bias.copy_(torch.from_numpy(noise((6,), 10)))
        padded = nn.functional.pad(torch.from_numpy(X).mT, (2, 0))
        want = last(recurrent(norm(front(padded).tanh().mT))[0]).numpy()
    layers = [
        cgru.Conv1d.from_torch(front, padding="causal", activation="tanh"),
        cgru.LayerNorm.from_torch(norm),
        cgru.GRU.from_torch(recurrent),
        cgru.Dense.from_torch(last),
    ]
    np.testing.assert_allclose(cgru.Model(layers, backend=backend)(X), want, rtol=0, atol=2e-6)


def test_layer_norms_of_torch(torch: Any, backend: str) -> None:
    nn = torch.nn
    modules = nn.LayerNorm(4), nn.LayerNorm(4, eps=0.1, bias=False), nn.LayerNorm(4, elementwise_affine=False)
    for module in modules:
        for parameter in module.parameters():
            nn.init.normal_(parameter)
        want = module(torch.from_numpy(X)).detach().numpy()
        net = cgru.Model([cgru.LayerNorm.from_torch(module)], backend=backend)
        np.testing.assert_allclose(net(X), want, rtol=0, atol=2e-6)
    tensors = {f"n.{key}": value for key, value in modules[0].state_dict().items()}
    want = modules[0](torch.from_numpy(X)).detach().numpy()
    np.testing.assert_allclose(cgru.LayerNorm.from_torch(tensors, "n")(X), want, rtol=0, atol=2e-6)


def test_rms_norms_of_torch(torch: Any, backend: str) -> None:
    nn = torch.nn
    modules = nn.RMSNorm(4), nn.RMSNorm(4, eps=0.1), nn.RMSNorm(4, elementwise_affine=False)
    for module in modules:
        for parameter in module.parameters():
            nn.init.normal_(parameter)
        want = module(torch.from_numpy(X)).detach().numpy()
        net = cgru.Model([cgru.RMSNorm.from_torch(module)], backend=backend)
        np.testing.assert_allclose(net(X), want, rtol=0, atol=2e-6)
        np.testing.assert_allclose(net.stream(3).step(X[:, 0]), want[:, 0], rtol=0, atol=2e-6)
    tensors = {f"n.{key}": value for key, value in modules[0].state_dict().items()}
    want = modules[0](torch.from_numpy(X)).detach().numpy()
    np.testing.assert_allclose(cgru.RMSNorm.from_torch(tensors, "n")(X), want, rtol=0, atol=2e-6)


@pytest.mark.parametrize("options", [{"padding": "same"}, {"padding": 2, "stride": 2, "bias": False}, {"dilation": 2}])
@pytest.mark.parametrize("multiplier", [1, 3])
def test_separable_convolutions_of_torch(torch: Any, options: dict[str, Any], multiplier: int, backend: str) -> None:
    nn = torch.nn
    first = nn.Conv1d(4, 4 * multiplier, 3, groups=4, **options)
    last = nn.Conv1d(4 * multiplier, 6, 1, bias=bool(multiplier == 1))
    want = last(first(torch.from_numpy(X).mT)).tanh().mT.detach().numpy()
    made = cgru.SeparableConv1d.from_torch(first, last, activation="tanh")
    np.testing.assert_allclose(cgru.Model([made], backend=backend)(X), want, rtol=0, atol=2e-6)
    if "padding" in options:
        said = {key: value for key, value in options.items() if key != "bias"}
        said["padding"] = "same" if said["padding"] == "same" else (2, 2)
        states = first.state_dict(), last.state_dict()
        given = cgru.SeparableConv1d.from_torch(*states, **said, multiplier=multiplier, activation="tanh")
        np.testing.assert_array_equal(given(X), made(X))
    else:
        causal = nn.functional.pad(torch.from_numpy(X).mT, (4, 0))
        want = last(first(causal)).mT.detach().numpy()
        front = cgru.SeparableConv1d.from_torch(first, last, padding="causal")
        net = cgru.Model([front], backend=backend)
        stream = net.stream(3)
        np.testing.assert_allclose(net(X), want, rtol=0, atol=2e-6)
        check_same(np.stack([stream.step(X[:, t]) for t in range(11)], 1), net(X), backend)


@pytest.mark.parametrize("precision", ["float32", "int8", "fp16"])
def test_separable_convolutions_are_reduced_saved_and_take_a_batch_norm(precision: str, tmp_path: Path) -> None:
    first = cgru.SeparableConv1d(noise((8, 1, 3), 71), noise((6, 8, 1), 72), multiplier=2, padding="same", stride=2)
    norm = cgru.BatchNorm(noise((6,), 73), np.abs(noise((6,), 74)) + 0.1, noise((6,), 75), noise((6,), 76))
    net = cgru.Model([first, norm, cgru.RMSNorm(noise((6,), 77)), gru(6), head()])
    assert [layer.kind for layer in net.layers] == ["separable_conv1d", "rms_norm", "gru", "dense"]
    apart = cgru.RMSNorm(noise((6,), 77))(norm(first(X)))
    np.testing.assert_allclose(net(X), cgru.Model([gru(6), head()])(apart), rtol=0, atol=1e-5)
    model = net if precision == "float32" else net.quantize(precision)
    assert [layer.precision for layer in model.layers] == [precision, "float32", precision, precision]
    assert np.abs(model(X) - net(X)).max() < 0.1
    model.save(tmp_path / "net.safetensors")
    loaded = cgru.load(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(loaded(X), model(X))
    assert "4 → 6, width 3, same, stride 2, multiplier 2" in str(loaded)


# ---- against Keras -------------------------------------------------------------------------------------------------


def test_layers_of_keras(keras: Any, backend: str) -> None:
    layers, random = keras.layers, keras.initializers.RandomUniform
    some = {"gamma_initializer": random(0.5, 2), "beta_initializer": random(-1, 1)}
    moving = {"moving_mean_initializer": random(-1, 1), "moving_variance_initializer": random(0.5, 2)}
    cases: list[tuple[Any, Any]] = [
        (cgru.Conv1d, layers.Conv1D(6, 3, bias_initializer="uniform")),
        (cgru.Conv1d, layers.Conv1D(6, 4, padding="same", activation="relu", use_bias=False)),
        (cgru.Conv1d, layers.Conv1D(6, 3, padding="same", strides=2, groups=2)),
        (cgru.Conv1d, layers.Conv1D(6, 2, padding="causal", dilation_rate=3, activation="hard_sigmoid")),
        (cgru.SeparableConv1d, layers.SeparableConv1D(6, 3, bias_initializer="uniform")),
        (cgru.SeparableConv1d, layers.SeparableConv1D(6, 3, padding="same", dilation_rate=2, depth_multiplier=3)),
        (cgru.SeparableConv1d, layers.SeparableConv1D(6, 4, strides=2, padding="same", activation="relu")),
        (cgru.SeparableConv1d, layers.SeparableConv1D(6, 2, use_bias=False)),
        (cgru.RMSNorm, layers.RMSNormalization()),
        (cgru.RMSNorm, layers.RMSNormalization(epsilon=0.1)),
        (cgru.LayerNorm, layers.LayerNormalization(**some)),
        (cgru.LayerNorm, layers.LayerNormalization(scale=False, epsilon=0.1, **some)),
        (cgru.BatchNorm, layers.BatchNormalization(**some, **moving)),
        (cgru.BatchNorm, layers.BatchNormalization(epsilon=0.2, center=False, **some, **moving)),
        (cgru.BatchNorm, layers.BatchNormalization(scale=False, **some, **moving)),
    ]
    for kind, layer in cases:
        want = keras.ops.convert_to_numpy(layer(X))
        made = kind.from_keras(layer)
        np.testing.assert_allclose(cgru.Model([made], backend=backend)(X), want, rtol=0, atol=2e-6)
        assert made.name == layer.name
        assert kind.from_keras(layer, name="own").name == "own"


def test_arrays_in_kerass_order(keras: Any) -> None:
    layer, norm = keras.layers.Conv1D(6, 3, padding="causal"), keras.layers.LayerNormalization()
    want = keras.ops.convert_to_numpy(norm(layer(X)))
    made = cgru.Conv1d.from_keras(layer.get_weights(), padding="causal")
    behind = cgru.LayerNorm.from_keras(norm.get_weights())
    np.testing.assert_allclose(cgru.Model([made, behind])(X), want, rtol=0, atol=2e-6)


# ---- in a network --------------------------------------------------------------------------------------------------


def test_a_causal_network_streams(backend: str) -> None:
    net = network(backend)
    want, stream, pool = net(X), net.stream(3), net.pool(3)
    streams = [pool.open() for _ in X]
    chunks = [stream.feed(X[:, :4]), stream.feed(X[:, 4:5]), stream.feed(X[:, 5:])]
    check_same(np.concatenate(chunks, 1), want, backend)
    check_same(np.stack([pool.step(streams, X[:, t]) for t in range(11)], 1), want, backend)


def test_one_that_looks_ahead_streams_late(backend: str) -> None:
    net = network(backend, padding="same")
    stream = net.stream(3)
    made = [stream.feed(X[:, :5]), stream.feed(X[:, 5:]), stream.flush()]
    check_same(np.concatenate(made, 1), net(X), backend)


@pytest.mark.parametrize("precision", ["int8", "int8x16", "bf16", "fp16"])
@pytest.mark.parametrize("padding", ["causal", (1, 2)], ids=str)
def test_it_is_reduced_and_saved(precision: str, padding: Any, tmp_path: Path) -> None:
    net = network(padding=padding)
    reduced = net.quantize(precision)
    assert [layer.precision for layer in reduced.layers] == [precision, "float32", precision, precision]
    assert 0 < np.abs(reduced(X) - net(X)).max() < 0.1
    for model in (net, reduced):
        before = model(X)
        model.save(tmp_path / "net.safetensors")
        loaded = cgru.load(tmp_path / "net.safetensors")
        np.testing.assert_array_equal(loaded(X), before)
        assert str(loaded) == str(model)
        assert loaded.is_chain
    assert len(cgru.compare(net, reduced, X).layers) == 4


def test_as_onnx(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed: pip install onnxruntime")
    net = network()
    net.save(tmp_path / "net.onnx")
    session = runtime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    made = session.run(None, {session.get_inputs()[0].name: X})[0]
    np.testing.assert_allclose(made, net(X), rtol=0, atol=3e-6)


def test_it_prints_its_sizes() -> None:
    text = str(network(dilation=2, groups=2, stride=3, padding=(1, 0), activation="relu"))
    assert "4 → 6, width 3, padded 1 + 0, stride 3, dilation 2, groups 2, relu" in text
    assert "LayerNorm" in text
    assert "width 3, causal " in str(network())


@pytest.mark.parametrize("groups", [1, 2])
def test_batch_norm_goes_into_a_convolution_before_it(groups: int, backend: str) -> None:
    mean, gamma, beta = (noise((6,), 60 + i) for i in range(3))
    variance = np.abs(noise((6,), 63)) + 0.1
    norm = cgru.BatchNorm(mean, variance, gamma, beta)
    for bias in (noise((6,), 64), None):
        first = cgru.Conv1d(noise((6, 4 // groups, 3), 65), bias, groups=groups)
        net = cgru.Model([first, norm, cgru.Activation("relu")], backend=backend)
        assert [layer.kind for layer in net.layers] == ["conv1d", "activation"]
        y = cgru.Model([first], backend="reference")(X).astype(np.float64)
        want = np.maximum(gamma * (y - mean) / np.sqrt(variance + 1e-5) + beta, 0)
        np.testing.assert_allclose(net(X), want, rtol=0, atol=1e-5)
    curved = cgru.Model([conv(activation="tanh"), norm])
    assert [layer.kind for layer in curved.layers] == ["conv1d", "batch_norm"]


def test_a_mask_ends_at_a_convolution() -> None:
    mask = np.ones((3, 11), bool)
    mask[:, 4:6] = False
    with pytest.raises(UnsupportedError, match="mask: nothing in the network looks at a mask"):
        network()(X, mask=mask)
    before = cgru.Model([gru(4), cgru.Conv1d(noise((2, 5, 2), 70))])
    want = cgru.Conv1d(noise((2, 5, 2), 70))(cgru.Model([gru(4)])(X, mask=mask))
    np.testing.assert_allclose(before(X, mask=mask), want, rtol=0, atol=1e-6)
    normed = cgru.Model([cgru.LayerNorm(np.ones(4)), gru(4)])
    assert np.abs(normed(X, mask=mask) - normed(X)).max() > 0.01


# ---- what does not fit ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"weight": np.ones((6, 4))}, "weight"),
        ({"bias": np.ones(4)}, r"bias has shape \(4,\), expected \(6,\)"),
        ({"groups": 4}, "6 output channels do not split into 4 groups"),
        ({"padding": "full"}, "expected 'causal', 'same', 'valid' or"),
        ({"padding": 1}, "expected 'causal', 'same', 'valid' or"),
        ({"padding": (-1, 0)}, "at least 0"),
        ({"stride": 0}, "at least 1"),
        ({"dilation": 10**5000}, "at most 1048576 frames"),
        ({"activation": "none such"}, "none such"),
    ],
)
def test_what_is_no_convolution(options: dict[str, Any], says: str) -> None:
    with pytest.raises(CgruError, match=says):
        cgru.Conv1d(**({"weight": np.ones((6, 2, 3))} | options))


@pytest.mark.parametrize(
    ("options", "tensor", "says"),
    [
        ({"padding": "causal", "left": 1}, (6, 4, 3), "'left', which this version does not know"),
        ({"left": 1}, (6, 4, 3), "lacks 'right'"),
        ({"padding": "none"}, (6, 4, 3), "expected 'causal'"),
        ({"padding": "causal"}, (6, 4), "3 axes"),
        ({"padding": "causal", "stride": -1}, (6, 4, 3), "at least 1"),
        ({"padding": "causal", "precision": "bf16"}, (6, 4), "expected 3 axes"),
    ],
    ids=str,
)
def test_files_that_say_something_else(options: dict[str, Any], tensor: Any, says: str, tmp_path: Path) -> None:
    said = {key: value for key, value in options.items() if key != "precision"}
    reduced = {"precision": "bf16"} if "precision" in options else {}
    entry = {"kind": "conv1d", "name": "c", "options": said} | reduced
    notes = {"format": "cgru", "version": "1", "spec": json.dumps({"layers": [entry]})}
    held = {"c.weight": np.zeros(tensor, np.uint16 if reduced else np.float32)}
    safetensors.write(str(tmp_path / "net.safetensors"), held, notes, dtypes={"c.weight": "BF16"} if reduced else {})
    with pytest.raises(CgruError, match=says):
        cgru.load(tmp_path / "net.safetensors")


def _pair(depthwise: Any, pointwise: Any, **options: Any) -> cgru.SeparableConv1d:
    return cgru.SeparableConv1d.from_torch(depthwise, pointwise, **options)


def test_what_is_not_run_is_named(torch: Any, keras: Any) -> None:
    nn, layers = torch.nn, keras.layers
    cases: list[tuple[Any, str]] = [
        (lambda: cgru.Conv1d.from_torch(nn.Conv1d(4, 6, 3, padding=1, padding_mode="reflect")), "reflect"),
        (lambda: cgru.Conv1d.from_torch(nn.Conv1d(4, 6, 3, stride=2), stride=1), "the module has stride=2"),
        (lambda: cgru.Conv1d.from_torch(nn.Conv1d(4, 6, 3).state_dict()), "do not say how a convolution pads"),
        (lambda: cgru.Conv1d.from_torch(nn.Conv2d(4, 6, 3)), "found a Conv2d"),
        (lambda: cgru.LayerNorm.from_torch(nn.LayerNorm((3, 4))), "normalized_shape"),
        (lambda: cgru.Conv1d.from_keras([np.ones((3, 4, 6))]), "do not say how a convolution pads"),
        (lambda: cgru.Conv1d.from_keras(layers.Conv1D(6, 3, data_format="channels_first")), "channels_first"),
        (lambda: cgru.LayerNorm.from_keras(layers.LayerNormalization(axis=1)), "axis=1"),
        (lambda: cgru.BatchNorm.from_keras(layers.BatchNormalization(axis=1)), "axis=1"),
        (lambda: cgru.RMSNorm.from_torch(nn.RMSNorm((3, 4))), "normalized_shape"),
        (lambda: cgru.RMSNorm.from_keras(layers.RMSNormalization(axis=1)), "axis=1"),
        (lambda: cgru.RMSNorm.from_keras([np.ones(4), np.ones(4)]), "found 2 arrays"),
        (lambda: cgru.RMSNorm(np.ones(0)), "no entries"),
        (lambda: cgru.RMSNorm(np.ones(4), epsilon=-1), "epsilon"),
        (lambda: cgru.SeparableConv1d(np.ones((4, 2, 3)), np.ones((6, 4, 1))), r"expected \(I · multiplier, 1, K\)"),
        (lambda: cgru.SeparableConv1d(np.ones((4, 1, 3)), np.ones((6, 5, 1))), r"expected \(O, 4, 1\)"),
        (lambda: cgru.SeparableConv1d(np.ones((4, 1, 3)), np.ones((6, 4, 1)), np.ones(4)), r"expected \(6,\)"),
        (lambda: cgru.SeparableConv1d(np.ones((4, 1, 3)), np.ones((6, 4, 1)), multiplier=3), "do not split into 3"),
        (lambda: _pair(nn.Conv1d(4, 4, 3), nn.Conv1d(4, 6, 1)), "1 groups of 4 channels, expected one for each"),
        (lambda: _pair(nn.Conv1d(4, 4, 3, groups=4), nn.Conv1d(4, 6, 3)), "pointwise is .* expected width 1"),
        (lambda: _pair(nn.Conv1d(4, 4, 3, groups=4), nn.Conv1d(4, 6, 1), multiplier=2), "multiplier=2, but"),
        (lambda: _pair(nn.Conv1d(4, 4, 3, groups=4).state_dict(), nn.Conv1d(4, 6, 1)), "do not say how"),
        (lambda: cgru.SeparableConv1d.from_keras([np.ones((3, 4, 1))]), "found 1 arrays"),
        (lambda: cgru.LayerNorm(None), "weight=np.ones"),
        (lambda: cgru.LayerNorm(np.ones(4), np.ones(3)), r"weight \(4,\), bias \(3,\)"),
        (lambda: cgru.LayerNorm(np.ones(4), epsilon=-1), "epsilon"),
        (lambda: cgru.Model([cgru.LastStep(), conv()]), "needs a sequence"),
    ]
    for make, says in cases:
        with pytest.raises(CgruError, match=says):
            make()
