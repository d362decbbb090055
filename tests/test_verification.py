"""Comparing a network with outputs that the trained one gave: cgru.verify, load(check=), cgru verify, print(net)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from test_cli import call, complain, succeed
from test_torch_layers import gru, linear

import cgru
from cgru.engine.verification import difference
from cgru.errors import CgruError, ShapeError

X = np.random.default_rng(2).standard_normal((3, 7, 4)).astype("f4")
TENSORS = gru(4, 5) | linear(5, 2)


def forward(x: np.ndarray, *, relu: bool = False, lengths: Any = None) -> np.ndarray:
    """The trained network in float64: a GRU, a relu where asked for, a Linear."""
    arrays = {key.removeprefix("rnn."): array for key, array in TENSORS.items()}
    hidden = oracle.gru(arrays, x, np.zeros((1, len(x), 5)), lengths)[0]
    hidden = np.maximum(hidden, 0) if relu else hidden
    return hidden @ TENSORS["fc.weight"].T.astype(np.float64) + TENSORS["fc.bias"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    np.savez(tmp_path / "net.npz", **TENSORS)  # type: ignore[arg-type]
    return tmp_path / "net.npz"


# cgru.verify ----------------------------------------------------------------------------------------------


def test_verify_gives_the_difference(file: Path) -> None:
    net, y = cgru.load(file), forward(X)
    found = cgru.verify(net, X, y)
    apart = net(X) - y
    assert found.max_abs == pytest.approx(np.abs(apart).max(), rel=1e-6)
    assert found.relative_rms == pytest.approx(np.sqrt(np.mean(apart**2) / np.mean(y**2)), rel=1e-6)
    assert found.relative_rms < 1e-6
    assert cgru.verify(net, X[0], y[0]).max_abs < 1e-5


def test_verify_refuses_a_network_that_lacks_a_relu(file: Path) -> None:
    y = forward(X, relu=True)
    net = cgru.load(file)
    with pytest.raises(CgruError, match=r"y: the network gives other outputs: largest difference [\d.]+.*layers="):
        cgru.verify(net, X, y)
    assert cgru.verify(net, X, y, tolerance=10).max_abs == pytest.approx(np.abs(net(X) - y).max())
    assert cgru.verify(cgru.load(file, layers=["rnn", "relu", "fc"]), X, y).relative_rms < 1e-6


def test_one_wrong_number_among_many_is_found(file: Path) -> None:
    """The root mean square of a million right numbers hides it; the largest difference does not."""
    net = cgru.load(file)
    y = np.array(net(np.zeros((1000, 7, 4), "f4")))
    y[500, 3, 1] += 0.002 * np.abs(y).max()
    assert difference(net(np.zeros((1000, 7, 4), "f4")), y).relative_rms < 1e-4
    with pytest.raises(CgruError, match="other outputs"):
        cgru.verify(net, np.zeros((1000, 7, 4), "f4"), y)


def test_steps_that_do_not_count_are_not_compared(file: Path) -> None:
    lengths = [7, 3, 0]
    y = forward(X, lengths=lengths)  # a Linear gives its bias past the ends
    assert np.abs(y[1, 3:]).max() > 0.1
    net = cgru.load(file)
    assert cgru.verify(net, X, y, lengths).relative_rms < 1e-6
    y[1, 2] += 1
    with pytest.raises(CgruError, match="other outputs"):
        cgru.verify(net, X, y, lengths)


def test_reduced_weights_are_named_as_the_reason(file: Path) -> None:
    net = cgru.load(file).quantize("int8")
    with pytest.raises(CgruError, match=r"weights are int8.*tolerance="):
        cgru.verify(net, X, forward(X))
    assert 1e-4 < cgru.verify(net, X, forward(X), tolerance=0.1).relative_rms < 0.1


@pytest.mark.parametrize(
    ("y", "says"),
    [
        (np.zeros((3, 2)), r"gives shape \(3, 7, 2\).*found \(3, 2\)"),
        (np.zeros((3, 7, 2), complex), "expected an array of real numbers"),
        ((np.zeros((3, 7, 2)), np.zeros((3, 7, 2))), "gives 1 arrays, found 2"),
    ],
)
def test_what_no_outputs_are(file: Path, y: Any, says: str) -> None:
    with pytest.raises(ShapeError, match=says):
        cgru.verify(cgru.load(file), X, y)


@pytest.mark.parametrize("tolerance", [-1, float("nan"), float("inf"), "small", True, None])
def test_what_no_tolerance_is(file: Path, tolerance: Any) -> None:
    with pytest.raises(CgruError, match="tolerance: expected a number"):
        cgru.verify(cgru.load(file), X, forward(X), tolerance=tolerance)


def test_nothing_to_compare_is_no_agreement(file: Path) -> None:
    with pytest.raises(CgruError, match="nothing to compare"):
        cgru.verify(cgru.load(file), X[:0], forward(X)[:0])


def test_not_a_number_differs_from_every_number() -> None:
    nan, one = np.array([np.nan, 1.0]), np.array([1.0, 1.0])
    assert difference(nan, one).relative_rms == np.inf
    assert difference(one, nan).relative_rms == np.inf
    assert difference(nan, nan).relative_rms == 0
    assert difference(np.zeros(2), np.zeros(2)).relative_max == 0
    assert difference(one, np.zeros(2)).relative_rms == np.inf


# load(check=) and what is said ----------------------------------------------------------------------------


def test_load_refuses_what_does_not_give_the_outputs(file: Path) -> None:
    net = cgru.load(file, check=(X, forward(X)))
    assert "verified against the outputs given" in str(net)
    assert "assumed" not in str(net)
    with pytest.raises(CgruError, match=rf"{file.name}: check: y: the network gives other outputs"):
        cgru.load(file, check=(X, forward(X, relu=True)))
    assert cgru.load(file, layers=["rnn", "relu", "fc"], check=(X, forward(X, relu=True))).layers
    for wrong in (X, (X,), 3):
        with pytest.raises(CgruError, match="check: "):
            cgru.load(file, check=wrong)  # type: ignore[arg-type]


def test_what_was_inferred_is_said(file: Path, tmp_path: Path) -> None:
    net = cgru.load(file)
    assert "rnn → fc; assumed, since tensors do not hold forward()" in str(net)
    assert "cgru.verify(net, x, y)" in str(net)
    assert "assumed" in str(net.quantize("int8"))
    assert "assumed" not in str(cgru.load(file, layers=["rnn", "fc"]))
    assert "assumed" in succeed("info", file).decode()
    assert "assumed" in json.loads(succeed("info", file, "--json"))["notes"][0]
    net.save(tmp_path / "own.safetensors")
    assert json.loads(succeed("info", tmp_path / "own.safetensors", "--json"))["notes"] == []


# cgru verify and cgru compare -----------------------------------------------------------------------------


def test_the_command_ends_with_1_where_outputs_differ(file: Path, tmp_path: Path) -> None:
    right, wrong = tmp_path / "io.npz", tmp_path / "wrong.npz"
    np.savez(right, x=X, y=forward(X))
    np.savez(wrong, x=X, y=forward(X, relu=True))
    assert b"the outputs agree: largest difference" in succeed("verify", file, right)
    done = call("verify", file, wrong)
    assert (done.returncode, done.stderr) == (1, b"")
    assert b"the outputs differ: largest difference" in done.stdout
    done = call("verify", file, wrong, "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["ok"], found["tolerance"]) == (1, False, 1e-4)
    assert found["max_abs"] > 0.1
    assert succeed("verify", file, wrong, "--tolerance", "100")
    assert succeed("verify", file, wrong, "--layers", "rnn,relu,fc")
    lengths = [7, 3, 1]
    np.savez(right, x=X, y=forward(X, lengths=lengths), lengths=lengths)
    assert succeed("verify", file, right)


def test_what_the_command_cannot_use(file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    io = tmp_path / "io.npz"
    np.savez(io, x=X)
    assert "io.npz: expected x and y" in complain(capfd, "verify", file, io)
    np.savez(io, x=X, y=X)
    assert "io.npz: y: the network gives shape (3, 7, 2)" in complain(capfd, "verify", file, io)
    assert "relative difference" in complain(capfd, "verify", file, io, "--tolerance", "-1")


def test_compare_ends_with_1_beyond_a_tolerance(file: Path, tmp_path: Path) -> None:
    small, x = tmp_path / "small.safetensors", tmp_path / "x.npy"
    np.save(x, X)
    cgru.load(file).quantize("int8").save(small)
    for tolerance, status in ((None, 0), ("0.5", 0), ("1e-6", 1)):
        more = () if tolerance is None else ("--tolerance", tolerance)
        done = call("compare", file, small, x, *more)
        assert (done.returncode, done.stderr) == (status, b"")
        assert b"second, int8" in done.stdout
