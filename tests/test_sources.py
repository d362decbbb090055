"""A file may come as a path of either kind, as bytes of three kinds, or open: whatever format it is."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cgru

FIXTURES = Path(__file__).parent / "fixtures"
FILES = [
    "torch/cell.pt", "containers/legacy.pt", "containers/library.safetensors", "containers/stored.npz",
    "json/names.json", "json/rtneural.json", "torchscript/loop.scripted.pt", "keras/gru_after.keras",
    "keras/gru_after.h5",
    "keras/gru_after.weights.h5", "tensorflow/frozen.pb", "onnx/stepped.fixed.onnx",
    "keras_versions/3.8-graph.keras.gz", "c",
]  # fmt: skip
TABLE = b"static const int a[3] = {1, 2, 3};\n"
FORMS: dict[str, Callable[[Path], Any]] = {
    "text": str, "bytes": Path.read_bytes, "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()), "open": lambda path: path.open("rb"),
    "in memory": lambda path: io.BytesIO(path.read_bytes()),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("file", FILES)
def test_every_form_of_every_format(file: str, form: str, tmp_path: Path) -> None:
    path = FIXTURES / file
    if file == "c":
        path = tmp_path / "table.c"
        path.write_bytes(TABLE)
    given = FORMS[form](path)
    wanted, found = cgru.read(path), cgru.read(given)
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)
    if hasattr(given, "close"):
        given.close()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_configuration(form: str) -> None:
    folder = FIXTURES / "keras_versions"
    golden = np.load(folder / "3.8.npz")
    config = FORMS[form](folder / "3.8-graph.json")
    net = cgru.load(FORMS[form](folder / "3.8-graph.weights.h5.gz"), config=config)
    np.testing.assert_allclose(net(golden["graph:x"]), golden["graph:y"], rtol=0, atol=2e-6)
    if hasattr(config, "close"):
        config.close()
