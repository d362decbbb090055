"""Networks that make_fixtures/trained_*.py trained on real data, against their framework: from their files, live, in
ONNX, whole and as streams, in every precision.

The files hold what the framework gave, in float32 and in float64, so most of this needs no framework.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cgru

FOLDER = Path(__file__).parent / "fixtures" / "trained"

#: File, the name of its input in the golden file, and of what the framework gave in float32.
FILES = {
    "spotter": ("spotter.pt2", "frames", "logits"),
    "co2": ("co2.pt2", "x", "y"),
    "sunspots": ("sunspots.pt2", "x", "y"),
    "tagger": ("tagger.keras", "characters", "made"),
}
CAUSAL = ("co2", "sunspots")


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{name}.npz") as file:
        return dict(file)


def told(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Input, and what the framework gives of it in float32 and in float64."""
    arrays, (_, given, made) = golden(name), FILES[name]
    return arrays[given], arrays[made], arrays["exact"]


def agrees(ours: np.ndarray, theirs: np.ndarray, exact: np.ndarray) -> None:
    """Within 2e-6 of float64, or of twice the framework's own error."""
    assert ours.shape == exact.shape
    most = max(2e-6, 2 * float(np.abs(theirs - exact).max()))
    np.testing.assert_allclose(ours, exact, rtol=0, atol=most)


@pytest.mark.parametrize("backend", ["packed", "reference"])
@pytest.mark.parametrize("name", FILES)
def test_from_its_file(name: str, backend: str) -> None:
    x, theirs, exact = told(name)
    net = cgru.load(FOLDER / FILES[name][0], backend=backend)
    assert set(net.backends) == {backend}
    agrees(net(x), theirs, exact)


@pytest.mark.parametrize("name", FILES)
def test_a_batch_is_its_rows_to_the_bit(name: str) -> None:
    x, _, _ = told(name)
    net = cgru.load(FOLDER / FILES[name][0])
    whole = net(x)
    np.testing.assert_array_equal(np.concatenate([net(x[row : row + 1]) for row in range(len(x))]), whole)
    np.testing.assert_array_equal(net(x, threads=2), whole)


@pytest.mark.parametrize("name", CAUSAL)
def test_a_forecaster_streams_to_the_bit(name: str) -> None:
    x, _, _ = told(name)
    net = cgru.load(FOLDER / FILES[name][0])
    whole, stream, pool = net(x), net.stream(len(x)), net.pool(2)
    assert stream.delay == 0
    parts = [stream.feed(x[:, cut]) for cut in (slice(0, 1), slice(1, 37), slice(37, None))]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
    sids = [pool.open() for _ in x]
    steps = [pool.step(sids, x[:, t]) for t in range(x.shape[1])]
    np.testing.assert_array_equal(np.stack(steps, axis=1), whole)


@pytest.mark.parametrize("name", sorted(set(FILES) - set(CAUSAL)))
def test_what_needs_the_whole_sequence_says_so(name: str) -> None:
    with pytest.raises(cgru.UnsupportedError, match="stream"):
        cgru.load(FOLDER / FILES[name][0]).stream()


#: Relative root mean square error of the outputs, a third above the largest of the four networks.
MOST = {"int8": 1.6e-2, "int8x16": 1.6e-2, "bf16": 5e-3, "fp16": 8e-4}


@pytest.mark.parametrize("precision", MOST)
@pytest.mark.parametrize("name", FILES)
def test_in_fewer_bits(name: str, precision: str, tmp_path: Path) -> None:
    x, _, exact = told(name)
    net = cgru.load(FOLDER / FILES[name][0]).quantize(precision)
    made = net(x)
    error = float(np.sqrt(np.mean((made - exact) ** 2) / np.mean(exact**2)))
    print(f"{name} in {precision}: {error:.1e}")
    assert 0 < error <= MOST[precision]
    net.save(tmp_path / "small.safetensors")
    np.testing.assert_array_equal(cgru.load(tmp_path / "small.safetensors")(x), made)


def test_they_do_what_they_were_trained_for() -> None:
    """Six words in noise; the languages of lines that it had not met, of which it knows four in five."""
    heard, read = golden("spotter"), golden("tagger")
    words = cgru.load(FOLDER / "spotter.pt2")(heard["frames"]).argmax(axis=-1)
    assert words.tolist() == heard["classes"].tolist()
    languages = cgru.load(FOLDER / "tagger.keras")(read["characters"]).argmax(axis=-1)
    assert (languages == read["right"]).sum() >= 9


# ---- live, and as ONNX ----------------------------------------------------------------------------------------------


@pytest.fixture
def scripts() -> Iterator[None]:
    """The scripts that define and train the networks can be imported."""
    sys.path.insert(0, str(Path(__file__).parent / "make_fixtures"))
    yield
    sys.path.pop(0)


def module(name: str) -> Any:
    """The PyTorch module with the weights of its file."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; pip install cgru[parity]")
    if name == "spotter":
        from trained_spotter import Spotter

        made: Any = Spotter()
    else:
        from trained_forecasters import Forecaster

        made = Forecaster(8, 24, 32, 26, 0.4) if name == "co2" else Forecaster(1, 16, 24, 5, 0.3)
    weights = cgru.read(FOLDER / f"{name}.pt2")
    made.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in weights.items()}, strict=False)
    return made.eval()


@pytest.mark.parametrize("name", ["spotter", "co2", "sunspots"])
def test_live(name: str, scripts: None) -> None:
    x, theirs, exact = told(name)
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; pip install cgru[parity]")
    made = module(name)
    with torch.no_grad():
        np.testing.assert_allclose(made(torch.from_numpy(x)).numpy(), theirs, rtol=0, atol=1e-5)
    agrees(cgru.from_torch(made, example=torch.from_numpy(x[:2]))(x), theirs, exact)


def test_live_from_sound_on(scripts: None) -> None:
    """The log-mel front end and the spotter in one: a transform by convolution, powers, bands, logarithms."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; pip install cgru[parity]")
    from trained_spotter import SoundSpotter

    arrays = golden("spotter")
    sound = arrays["sound"].astype(np.float32) / 32768
    whole = SoundSpotter(module("spotter")).eval()
    with torch.no_grad():
        theirs = whole(torch.from_numpy(sound)).numpy()
    net = cgru.from_torch(whole, example=torch.from_numpy(sound[:2]))
    agrees(net(sound), theirs, arrays["exact_from_sound"])


@pytest.mark.parametrize("name", ["spotter", "co2", "sunspots"])
def test_as_onnx(name: str, tmp_path: Path, scripts: None) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; pip install cgru[parity]")
    pytest.importorskip("onnx", reason="onnx is not installed; pip install cgru[parity]")
    x, theirs, exact = told(name)
    torch.onnx.export(
        module(name), (torch.from_numpy(x),), str(tmp_path / "net.onnx"), input_names=["x"], output_names=["y"],
        dynamic_axes={"x": {0: "batch", 1: "time"}}, dynamo=False,
    )  # fmt: skip
    net = cgru.load(tmp_path / "net.onnx")
    agrees(net(x), theirs, exact)
    if name in CAUSAL:
        stream = net.stream(len(x))
        np.testing.assert_array_equal(np.concatenate([stream.feed(x[:, :20]), stream.feed(x[:, 20:])], 1), net(x))


def test_live_keras() -> None:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras", reason="Keras is not installed; pip install cgru[parity]")
    x, theirs, exact = told("tagger")
    made = keras.saving.load_model(FOLDER / "tagger.keras")
    np.testing.assert_allclose(keras.ops.convert_to_numpy(made(x)), theirs, rtol=0, atol=1e-5)
    agrees(cgru.from_keras(made)(x), theirs, exact)
