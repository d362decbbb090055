"""Ordinary Keras architectures of the shared set, in every container that Keras writes, beside Keras itself."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras", reason="Keras is not installed: the comparison with it needs keras and torch")
if keras.backend.backend() != "torch":
    pytest.skip(f"Keras runs on {keras.backend.backend()}; the comparison is made on torch", allow_module_level=True)

import cgru  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
EXPORTS = Path(__file__).parents[2] / "shared" / "models" / "exports" / "keras_models.py"


def _models() -> dict[str, Any]:
    if not EXPORTS.exists():
        return {}
    spec = importlib.util.spec_from_file_location("keras_models", EXPORTS)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return dict(found.MODELS)


MODELS = _models()


@pytest.mark.skipif(not MODELS, reason="the models of ../shared/models/exports are not beside this checkout")
@pytest.mark.parametrize("name", MODELS)
def test_every_container_gives_keras_outputs(name: str, tmp_path: Path) -> None:
    model, x = MODELS[name]()
    wanted = model.predict(x, verbose=0)
    parts = list(wanted) if isinstance(wanted, (list, tuple)) else [wanted]
    model.save(tmp_path / "model.keras")
    model.save(tmp_path / "model.h5")
    model.save_weights(tmp_path / "model.weights.h5")
    for file, config in (("model.keras", None), ("model.h5", None), ("model.weights.h5", model.to_json())):
        net = cgru.load(tmp_path / file, config=config)
        names = net.input_names if isinstance(x, (list, tuple)) else []
        y = net(dict(zip(names, x, strict=True)) if names else x)
        found = list(y.values()) if isinstance(y, Mapping) else [y]
        for ours, theirs in zip(found, parts, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6, err_msg=file)
