"""Keras' committed files with what Keras made of them, and such files changed in one place."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgru import CgruError
from cgru.formats.readers import keras_files

h5py = pytest.importorskip("h5py", reason="h5py is not installed: Keras' weights are HDF5")

FOLDER = Path(__file__).parent / "fixtures" / "keras"
#: "file|x" and "file|y0", "file|y1", …: an input of each committed file and what Keras gave for it.
GOLDEN = dict(np.load(FOLDER / "golden.npz"))


def golden(name: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """An input of the file, and Keras' outputs for it."""
    outputs = sorted(key for key in GOLDEN if key.startswith(f"{name}|y"))
    return GOLDEN[f"{name}|x"], [GOLDEN[key] for key in outputs]


def keras_zip(
    config: Any = None,
    weights: bytes | None = None,
    base: str = "gru_after.keras",
    **more: bytes,
) -> bytes:
    """The .keras file ``base`` with its configuration (an object, or raw bytes) or its weights replaced."""
    with zipfile.ZipFile(FOLDER / base) as old:
        members = {name: old.read(name) for name in old.namelist()}
    if config is not None:
        members["config.json"] = config if isinstance(config, bytes) else json.dumps(config).encode()
    if weights is not None:
        members["model.weights.h5"] = weights
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as new:
        for name, data in (members | more).items():
            new.writestr(name.replace("__", "/"), data)
    return stream.getvalue()


def config_of(base: str = "gru_after.keras") -> Any:
    return json.loads(keras_files.read(FOLDER / base).metadata["config"])


def layer_of(config: Any, class_name: str) -> Any:
    return next(layer for layer in config["config"]["layers"] if layer["class_name"] == class_name)


def refused(data: bytes, error: type[CgruError], match: str) -> None:
    with pytest.raises(error, match=match):
        keras_files.load(data)


def edited(name: str, edit: Callable[[Any], None], tmp_path: Path) -> bytes:
    """An HDF5 fixture after ``edit`` has had the open file."""
    path = tmp_path / "edited.h5"
    shutil.copy(FOLDER / name, path)
    with h5py.File(path, "r+") as file:
        edit(file)
    return path.read_bytes()


def weights_edited(edit: Callable[[Any], None], tmp_path: Path, base: str = "gru_after.keras") -> bytes:
    path = tmp_path / "weights.h5"
    with zipfile.ZipFile(FOLDER / base) as old:
        path.write_bytes(old.read("model.weights.h5"))
    with h5py.File(path, "r+") as file:
        edit(file)
    return keras_zip(weights=path.read_bytes(), base=base)


def replace(file: Any, path: str, **options: Any) -> None:
    del file[path]
    file.create_dataset(path, **options)
