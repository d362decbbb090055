"""``cgru info``: anything that is read is listed, and the ``layers=`` that it suggests can be pasted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cgru
from cgru.cli.commands import main
from cgru.errors import CgruError

FIXTURES = Path(__file__).parent / "fixtures"
FILES = sorted(
    path
    for folder in ("containers", "json", "torchscript", "pickles", "hdf5")
    for path in (FIXTURES / folder).iterdir()
    if path.is_file()
)


def readable(path: Path) -> bool:
    try:
        cgru.read(path)
    except CgruError:
        return False
    return True


@pytest.mark.parametrize("folder", ["containers", "json", "torchscript", "pickles", "hdf5"])
def test_whatever_is_read_is_listed(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    listed = 0
    for path in (path for path in FILES if path.parent.name == folder and readable(path)):
        assert main(["info", str(path), "--json"]) == 0, path
        found = json.loads(capsys.readouterr().out)
        if "tensors" in found:
            assert [row["name"] for row in found["tensors"]] == list(cgru.read(path))
            assert found["not_run"]
        else:
            assert found["layers"]
        listed += 1
    assert listed


def test_what_a_tensor_looks_like(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(FIXTURES / "keras" / "gru_after.weights.h5"), "--json"]) == 0
    looks = {row["name"]: row["looks_like"] for row in json.loads(capsys.readouterr().out)["tensors"]}
    assert any(word.startswith("GRU of") for word in looks.values())
    table = "static const rnn_weight bias[2] = {1, 2};\nconst DenseLayer dense = {bias, 1, 2, TANH};\n"
    (tmp_path / "table.c").write_text(table)
    assert main(["info", str(tmp_path / "table.c")]) == 0
    text = capsys.readouterr().out
    assert "bias  2  int8" in text
    assert "dense: DenseLayer: bias, 1, 2, TANH" in text


def gru(path: str, inputs: int, units: int, gates: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(inputs + units)
    shapes = {"weight_ih_l0": (gates * units, inputs), "weight_hh_l0": (gates * units, units),
              "bias_ih_l0": (gates * units,), "bias_hh_l0": (gates * units,)}  # fmt: skip
    return {f"{path}.{name}": rng.normal(size=shape).astype("f4") for name, shape in shapes.items()}


def linear(path: str, inputs: int, units: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(inputs * units)
    return {f"{path}.weight": rng.normal(size=(units, inputs)).astype("f4"), f"{path}.bias": np.ones(units, "f4")}


SUGGESTED = {
    "two heads in a row": gru("rnn", 3, 4) | linear("fc1", 4, 5) | linear("fc2", 5, 2),
    "a linear in front": linear("inp", 3, 4) | gru("rnn", 4, 4) | linear("fc", 4, 2),
    "an RNN": gru("rnn", 3, 4, gates=1) | linear("fc", 4, 2),
    "a tensor of no module": gru("rnn", 3, 4) | linear("fc", 4, 2) | {"scale": np.ones(3, "f4")},
    "an LSTM of the size of its head": gru("rnn", 4, 4, gates=4) | linear("fc", 4, 4),
}


@pytest.mark.parametrize("what", SUGGESTED)
def test_what_is_suggested_can_be_pasted(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors: dict[str, Any] = SUGGESTED[what]
    path = tmp_path / "net.npz"
    np.savez(path, **tensors)
    with pytest.raises(CgruError):
        cgru.load(path)
    assert main(["info", str(path), "--suggest"]) == 0
    line = capsys.readouterr().out.splitlines()[0]
    pasted = eval(line, {"cgru": cgru})
    first = next(name for name in tensors if name.endswith(("weight", "weight_ih_l0")))
    x = np.random.default_rng(0).normal(size=(2, 5, tensors[first].shape[1])).astype(np.float32)
    assert np.isfinite(pasted(x)).all()
    assert main(["info", str(path), "--suggest", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["layers"]
    np.testing.assert_array_equal(cgru.load(path, layers=said)(x), pasted(x))


def test_where_nothing_is_to_be_suggested(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(FIXTURES / "torch" / "forecaster.pt"), "--suggest"]) == 0
    assert "opens as it is" in capsys.readouterr().out
    np.savez(tmp_path / "odd.npz", a=np.ones(3), b=np.ones((2, 2)))
    assert main(["info", str(tmp_path / "odd.npz"), "--suggest"]) == 2
    assert "no layers= can be suggested" in capsys.readouterr().err
