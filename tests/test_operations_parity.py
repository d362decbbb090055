"""Operations against PyTorch in float64: the ones that torch has, in its layout (B, C, T) or (B, C, T, W)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cgru

torch = pytest.importorskip("torch", reason="torch is not installed")
functional = torch.nn.functional

RNG = np.random.default_rng(17)


def arr(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) * 0.7).astype(np.float32)


def run(features: Any, build: Callable[[cgru.Graph, str], str], x: np.ndarray) -> np.ndarray:
    g = cgru.Graph()
    g.output(build(g, g.input(features)))
    return cgru.Model(g)(x)


def channels_first(x: np.ndarray) -> Any:
    """(B, T, C, …) → torch's (B, C, T, …), float64."""
    return torch.tensor(x).double().transpose(1, 2)


def same(found: np.ndarray, wanted: Any, atol: float = 2e-6) -> None:
    """``wanted`` in torch's layout where it has channels and time."""
    wanted = wanted.detach()
    wanted = wanted.transpose(1, 2) if wanted.ndim > 2 else wanted
    assert found.shape == tuple(wanted.shape)
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=atol)


ACTIVATIONS: dict[str, tuple[dict[str, float], Any]] = {
    "hard_tanh": ({}, torch.nn.Hardtanh()), "relu6": ({}, torch.nn.ReLU6()), "selu": ({}, torch.nn.SELU()),
    "silu": ({}, torch.nn.SiLU()), "gelu": ({}, torch.nn.GELU()), "gelu_tanh": ({}, torch.nn.GELU("tanh")),
    "mish": ({}, torch.nn.Mish()), "hard_swish": ({}, torch.nn.Hardswish()), "log_sigmoid": ({}, torch.nn.LogSigmoid()),
    "leaky_relu": ({"alpha": 0.03}, torch.nn.LeakyReLU(0.03)), "elu_alpha": ({"alpha": 0.6}, torch.nn.ELU(0.6)),
    "celu": ({"alpha": 0.6}, torch.nn.CELU(0.6)), "hard_shrink": ({"alpha": 0.4}, torch.nn.Hardshrink(0.4)),
    "soft_shrink": ({"alpha": 0.4}, torch.nn.Softshrink(0.4)),
    "softplus_beta": ({"alpha": 3.0}, torch.nn.Softplus(3.0, 1e9)),
    "threshold": ({"alpha": 0.2, "beta": -1.5}, torch.nn.Threshold(0.2, -1.5)),
}  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    parameters, module = ACTIVATIONS[name]
    x = np.concatenate([arr(2, 50, 21) * 4, np.zeros((2, 1, 21), np.float32)], axis=1)
    found = run(21, lambda g, v: g.activation(v, activation=name, **parameters), x)
    np.testing.assert_allclose(found, module(torch.tensor(x).double()), rtol=2e-6, atol=5e-7)


def test_parameters_are_given_where_they_are_read_and_only_there() -> None:
    g = cgru.Graph()
    x = g.input(3)
    with pytest.raises(cgru.ShapeError, match="leaky_relu takes alpha, found neither"):
        g.activation(x, activation="leaky_relu")
    with pytest.raises(cgru.ShapeError, match="gelu takes neither alpha nor beta, found alpha"):
        g.activation(x, activation="gelu", alpha=1.0)
    with pytest.raises(cgru.ShapeError, match="celu divides by alpha"):
        g.activation(x, activation="celu", alpha=0.0)


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("wide", [False, True])
def test_group_norm_over_time(groups: int, wide: bool) -> None:
    shape = (6, 5) if wide else (6,)
    x, weight, bias = arr(3, 11, *shape) + 3, arr(6), arr(6)
    weights = {"weight": weight, "bias": bias}
    found = run(shape, lambda g, v: g.group_norm(v, groups=groups, over_time=True, epsilon=1e-4, weights=weights), x)
    tensors = [torch.tensor(array).double() for array in (weight, bias)]
    same(found, functional.group_norm(channels_first(x), groups, *tensors, 1e-4))
    if groups == 6:
        norm = torch.nn.InstanceNorm2d if wide else torch.nn.InstanceNorm1d
        found = run(shape, lambda g, v: g.group_norm(v, groups=6, over_time=True), x)
        same(found, norm(6)(channels_first(x)), 3e-6)


def test_group_norm_of_each_frame() -> None:
    x = arr(2, 7, 6, 5)
    found = run((6, 5), lambda g, v: g.group_norm(v, groups=3, over_time=False), x)
    wanted = functional.group_norm(torch.tensor(x).double().flatten(0, 1), 3).unflatten(0, (2, 7))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6)


PLANES = [
    {"width": 3, "left": 2, "right": 0, "kernel": (3,), "pads": (1, 1)},
    {"width": 3, "left": 1, "right": 1, "kernel": (5,), "pads": (2, 2), "strides": (2,), "groups": 2},
    {"width": 2, "left": 4, "right": 0, "kernel": (1,), "pads": (0, 0), "dilation": 4, "groups": 4},
    {"width": 3, "left": 0, "right": 2, "kernel": (3,), "pads": (0, 0), "stride": 2, "dilations": (2,)},
]


@pytest.mark.parametrize("options", PLANES)
def test_conv2d(options: dict[str, Any]) -> None:
    x, groups = arr(2, 13, 4, 9), options.get("groups", 1)
    weight, bias = arr(8, 4 // groups, options["width"], *options["kernel"]), arr(8)
    weights = {"weight": weight, "bias": bias}
    found = run((4, 9), lambda g, v: g.conv2d(v, units=8, activation="relu", weights=weights, **options), x)
    padded = functional.pad(channels_first(x), (*options["pads"], options["left"], options["right"]))
    wanted = functional.conv2d(
        padded, torch.tensor(weight).double(), torch.tensor(bias).double(),
        stride=(options.get("stride", 1), *options.get("strides", (1,))),
        dilation=(options.get("dilation", 1), *options.get("dilations", (1,))), groups=groups,
    ).relu()  # fmt: skip
    same(found, wanted)


@pytest.mark.parametrize(
    ("width", "stride", "padding", "extra"), [(4, 2, 1, 0), (5, 2, 2, 1), (3, 3, 0, 0), (8, 4, 2, 0)]
)
def test_conv_transpose_then_cropped(width: int, stride: int, padding: int, extra: int) -> None:
    """torch's padding and output_padding are frames cropped and added: ``pad_time`` behind ``conv_transpose``."""
    x, weight, bias = arr(2, 9, 4), arr(4, 6, width), arr(6)
    right = -(-width // stride) - 1

    def build(g: cgru.Graph, v: str) -> str:
        weights = {"weight": weight, "bias": bias}
        y = g.conv_transpose(v, units=6, width=width, stride=stride, right=right, weights=weights)
        full = (right + 1) * stride - width  # frames behind the last kernel
        return g.pad_time(y, left=-padding, right=extra - padding - full)

    wanted = functional.conv_transpose1d(
        channels_first(x), torch.tensor(weight).double(), torch.tensor(bias).double(), stride, padding, extra
    )
    same(run(4, build, x), wanted)


def test_conv_transpose_of_planes() -> None:
    x, weight = arr(2, 7, 4, 5), arr(4, 3, 3, 3)
    found = run(
        (4, 5),
        lambda g, v: g.conv_transpose(
            v, units=6, width=3, stride=1, right=2, groups=2, kernel=(3,), strides=(2,), pads=(1, 1), extra=(1,),
            weights={"weight": weight},
        ), x,
    )  # fmt: skip
    wanted = functional.conv_transpose2d(
        channels_first(x), torch.tensor(weight).double(), None, (1, 2), (0, 1), (0, 1), groups=2
    )
    same(found, wanted)


@pytest.mark.parametrize(("mode", "theirs"), [("edge", "replicate"), ("reflect", "reflect"), ("wrap", "circular")])
def test_pad_time(mode: str, theirs: str) -> None:
    x = arr(2, 9, 4)
    found = run(4, lambda g, v: g.pad_time(v, left=3, right=2, mode=mode), x)
    same(found, functional.pad(channels_first(x), (3, 2), mode=theirs))
    if mode != "edge":
        with pytest.raises(cgru.ShapeError, match="it has at most"):
            run(4, lambda g, v: g.pad_time(v, left=3, mode=mode), x[:, :2])


def test_attention_pooling() -> None:
    """softmax over time of a score a frame, and the weighted sum: rows of any length as alone."""
    x, w = arr(3, 10, 4), arr(1, 4)
    g = cgru.Graph()
    v = g.input(4)
    weight = g.softmax_time(g.dense(v, units=1, weights={"weight": w}))
    g.output(g.pool_whole(g.mul(v, weight), kind="sum"))
    net = cgru.Model(g)
    lengths = [10, 1, 6]
    found = net(x, lengths=lengths)
    for row, length in enumerate(lengths):
        rows = torch.tensor(x[row, :length]).double()
        share = (rows @ torch.tensor(w).double().T).softmax(0)
        np.testing.assert_allclose(found[row], (rows * share).sum(0), rtol=0, atol=2e-6)


@pytest.mark.parametrize("correction", [0, 1])
def test_statistics_pooling(correction: int) -> None:
    x = arr(2, 12, 5) + 10
    g = cgru.Graph()
    v = g.input(5)
    spread = g.unary(g.pool_whole(v, kind="variance", correction=correction), kind="sqrt")
    g.output(g.concat(g.pool_whole(v, kind="mean"), spread))
    rows = torch.tensor(x).double()
    wanted = torch.cat([rows.mean(1), rows.std(1, correction=correction)], dim=1)
    np.testing.assert_allclose(cgru.Model(g)(x), wanted, rtol=3e-6, atol=0)
