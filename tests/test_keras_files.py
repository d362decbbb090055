"""Keras' files without Keras: golden outputs of committed models, and what cgru does not run, each refused by name."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras_crafted import FOLDER, GOLDEN, config_of, golden, keras_zip, layer_of, refused

import cgru
from cgru import Model, UnsupportedError
from cgru.formats.containers import hdf5
from cgru.formats.readers import keras_files
from cgru.formats.readers.keras_functions import FUNCTIONS
from cgru.formats.readers.keras_graph import FUNCTION_NAMES
from cgru.formats.readers.keras_recurrent import snake_case

h5py = pytest.importorskip("h5py", reason="h5py is not installed: Keras' weights are HDF5")

MODELS = sorted({key.partition("|")[0] for key in GOLDEN} - {"gru_after.weights.h5"})


# ---- golden files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("engine", ["reference", None])
def test_golden_outputs(name: str, engine: str | None) -> None:
    x, expected = golden(name)
    y = Model(keras_files.load(FOLDER / name), backend=engine)(x)
    found = list(y) if isinstance(y, tuple) else [y]
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= 2e-6


def test_bytes_and_paths_give_the_same_layers() -> None:
    for name in ("gru_after.keras", "gru_after.h5"):
        one, other = keras_files.load(FOLDER / name), keras_files.load((FOLDER / name).read_bytes())
        for a, b in zip(one, other, strict=True):
            assert a.options() == b.options()
            assert all(np.array_equal(a.arrays()[key], b.arrays()[key]) for key in a.arrays())


@pytest.mark.parametrize("name", ["gru_after.keras", "gru_before.keras", "gru_after.h5"])
def test_a_file_that_is_rewritten_afterwards_changes_nothing(name: str, tmp_path: Path) -> None:
    path = Path(shutil.copy(FOLDER / name, tmp_path))
    arrays, net = cgru.read(path), cgru.load(path)
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.write(bytes(size))
    assert all(np.array_equal(values, cgru.read(FOLDER / name)[key]) for key, values in arrays.items())
    x, (expected,) = golden(name)
    assert np.abs(net(x) - expected).max() <= 2e-6


def test_read_gives_every_array_and_the_configuration() -> None:
    file = keras_files.read(FOLDER / "gru_after.keras")
    assert file.kind == "keras"
    assert {name: array.shape for name, array in file.tensors.items()} == {
        "layers/dense/vars/0": (5, 2),
        "layers/dense/vars/1": (2,),
        "layers/gru/cell/vars/0": (3, 15),
        "layers/gru/cell/vars/1": (5, 15),
        "layers/gru/cell/vars/2": (2, 15),
    }
    assert file.metadata["keras_version"].startswith("3.")
    assert json.loads(file.metadata["config"])["class_name"] == "Sequential"
    assert not any(array.flags.writeable for array in file.tensors.values())
    fitted = keras_files.read(FOLDER / "fitted.keras").tensors
    assert any(name.startswith("optimizer/") for name in fitted)


def test_bfloat16_is_widened_exactly() -> None:
    for name in ("bfloat16.keras", "bfloat16.h5"):
        tensors = keras_files.read(FOLDER / name).tensors
        assert tensors
        for array in tensors.values():
            assert array.dtype == np.float32
            assert not np.any(array.view(np.uint32) & 0xFFFF)


def test_weights_alone_are_read_but_not_loaded() -> None:
    path = FOLDER / "gru_after.weights.h5"
    assert len(keras_files.read(path).tensors) == 5
    with pytest.raises(UnsupportedError, match="configuration"):
        keras_files.load(path)


def test_hard_sigmoid_follows_the_version() -> None:
    old = keras_files.load(FOLDER / "keras2_hard_sigmoid.h5")
    new = keras_files.load(FOLDER / "hard_sigmoid_keras3.keras")
    assert {layer.options()["recurrent_activation"] for layer in Model(old).layers} == {"hard_sigmoid_keras2"}
    assert {layer.options()["recurrent_activation"] for layer in Model(new).layers} == {"hard_sigmoid"}
    assert {layer.options()["reset"] for layer in Model(old).layers} == {"before"}


def test_functions_are_told_from_layers_in_files_without_modules() -> None:
    assert frozenset(FUNCTIONS) == FUNCTION_NAMES


def test_the_sniffer() -> None:
    assert hdf5.looks_like((FOLDER / "gru_after.h5").read_bytes()[:16])
    assert not hdf5.looks_like((FOLDER / "gru_after.keras").read_bytes()[:16])
    assert not hdf5.looks_like(b"")


def test_class_names_in_paths() -> None:
    names = {"GRU": "gru", "GRUCell": "gru_cell", "ReLU": "re_lu", "TimeDistributed": "time_distributed", "RNN": "rnn",
             "SpatialDropout1D": "spatial_dropout1d", "StackedRNNCells": "stacked_rnn_cells"}  # fmt: skip
    assert {name: snake_case(name) for name in names} == names


@pytest.mark.parametrize("name", ["gru_after.keras", "gru_after.h5"])
def test_h5py_is_never_imported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert cgru.load(FOLDER / name).layers


# ---- configurations that cgru does not run ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("lora_rank", 4, "lora_rank"),
        ("quantization_config", {"class_name": "Int8"}, "quantization_config"),
        ("time_major", True, "time_major"),
        ("phased", 1, "phased"),
        ("activation", "gelu", "gelu"),
        ("activation", {"module": "builtins", "class_name": "function", "config": "mine"}, "mine"),
        ("dtype", {"class_name": "QuantizedDTypePolicy", "config": {"name": "int8_from_float32"}}, "int8"),
    ],
)
def test_settings_that_matter_are_refused_by_name(key: str, value: Any, match: str) -> None:
    config = config_of()
    layer_of(config, "GRU")["config"][key] = value
    refused(keras_zip(config), UnsupportedError, rf"(?s)gru.*{match}")


def test_settings_that_do_not_matter_are_accepted() -> None:
    config = config_of()
    layer_of(config, "GRU")["config"] |= {
        "unroll": True,
        "stateful": True,
        "implementation": 1,
        "seed": 4,
        "time_major": False,
    }
    x, (expected,) = golden("gru_after.keras")
    assert np.abs(Model(keras_files.load(keras_zip(config)))(x) - expected).max() <= 2e-6


@pytest.mark.parametrize("class_name", ["Lambda", "ConvLSTM1D", "TextVectorization", "Conv3D"])
def test_other_layers_are_refused_by_name(class_name: str) -> None:
    config = config_of()
    layer_of(config, "GRU")["class_name"] = class_name
    refused(keras_zip(config), UnsupportedError, class_name)


def test_lambda_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    """Keras marshals the code of a Lambda into the configuration; cgru has no way to run it."""
    import base64
    import marshal

    target = tmp_path / "written"
    code = compile(f"open({str(target)!r}, 'w')", "x", "exec")
    function = {"class_name": "__lambda__", "config": {"code": base64.b64encode(marshal.dumps(code)).decode()}}
    for class_name, key in (("Lambda", "function"), ("Activation", "activation")):
        config = config_of()
        extra = {"class_name": class_name, "module": "keras.layers", "config": {"name": "last", key: function}}
        config["config"]["layers"].append(extra)
        refused(keras_zip(config), UnsupportedError, r"Lambda|custom function")
    assert not target.exists()


@pytest.mark.parametrize(
    "outer",
    [
        {"module": "os", "class_name": "system"},
        {"module": "kerasic.layers"},
        {"registered_name": "mine>GRU"},
        {"module": "keras_hub.layers"},
    ],
)
def test_custom_classes_are_refused(outer: dict) -> None:
    config = config_of()
    layer_of(config, "GRU").update(outer)
    refused(keras_zip(config), UnsupportedError, "custom class")


def test_directions_that_differ_are_refused() -> None:
    for key, value in (
        ("return_sequences", False),
        ("go_backwards", False),
    ):
        config = config_of("bidirectional.keras")
        layer_of(config, "Bidirectional")["config"]["backward_layer"]["config"][key] = value
        refused(keras_zip(config, base="bidirectional.keras"), UnsupportedError, "direction|go_backwards")


def test_a_second_mask_is_refused() -> None:
    config = config_of()
    masking = [
        {"class_name": "Masking", "module": "keras.layers", "config": {"name": f"m{k}", "mask_value": 0.0}}
        for k in (1, 2)
    ]
    config["config"]["layers"][1:1] = masking
    refused(keras_zip(config), UnsupportedError, "m2.*second mask")


def test_subclassed_models_are_refused() -> None:
    refused(keras_zip({"class_name": "Net", "module": "keras", "config": {}}), UnsupportedError, "subclassed")
