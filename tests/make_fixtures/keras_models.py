"""Write tests/fixtures/keras: small models in Keras' containers, with inputs and Keras' own outputs.

Run with Keras 3 on torch: ``KERAS_BACKEND=torch python tests/make_fixtures/keras_models.py``. Weights and inputs
are seeded; the dates and object ids inside the files differ from run to run. The larger .keras files are packed
again with deflate, which Keras reads as well; it stores them itself.
"""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np

os.environ.setdefault("KERAS_BACKEND", "torch")
import keras

L = keras.layers
FOLDER = Path(__file__).parent.parent / "fixtures" / "keras"
GOLDEN: dict[str, np.ndarray] = {}
RNG = np.random.default_rng(20)


def randomise(model: Any) -> Any:
    for weight in model.weights:
        if weight.path.endswith("bias"):
            weight.assign(RNG.normal(size=weight.shape).astype(np.float32) * 0.3)
    return model


def outputs(model: Any, x: np.ndarray) -> list[np.ndarray]:
    y = model(x)
    return [keras.ops.convert_to_numpy(part) for part in (y if isinstance(y, (list, tuple)) else [y])]


def record(name: str, model: Any, x: np.ndarray) -> None:
    GOLDEN[f"{name}|x"] = x
    for index, y in enumerate(outputs(model, x)):
        GOLDEN[f"{name}|y{index}"] = y


def save(model: Any, x: np.ndarray, *names: str, golden: Any = None) -> None:
    for name in names:
        model.save_weights(FOLDER / name) if name.endswith(".weights.h5") else model.save(FOLDER / name)
        record(name, golden or model, x)


def deflate() -> None:
    for path in FOLDER.glob("*.keras"):
        if path.stat().st_size > 20_000:
            with zipfile.ZipFile(path) as old:
                members = {name: old.read(name) for name in old.namelist()}
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as new:
                for name, data in members.items():
                    new.writestr(name, data)


def sequence(batch: int = 2, steps: int = 6, size: int = 3) -> np.ndarray:
    return RNG.normal(size=(batch, steps, size)).astype(np.float32)


def gappy() -> np.ndarray:
    """Masked head, gap and tail, and a row that is masked altogether."""
    x = sequence(4, 7)
    x[0, :2] = x[1, 3] = x[2, 4:] = x[3] = 0
    return x


def plain() -> None:
    for reset_after, name in ((True, "after"), (False, "before")):
        model = keras.Sequential(
            [
                L.Input((None, 3)),
                L.GRU(5, reset_after=reset_after, return_sequences=True),
                L.Dense(2, activation="tanh"),
            ]
        )
        save(randomise(model), sequence(), f"gru_{name}.keras")
        if reset_after:
            save(model, sequence(), "gru_after.h5", "gru_after.weights.h5")
    model = keras.Sequential(
        [L.Input((None, 3)), L.GRU(4, use_bias=False, recurrent_activation="hard_sigmoid", go_backwards=True)]
    )
    save(model, sequence(), "hard_sigmoid_keras3.keras")


def bidirectional() -> None:
    layers = [
        L.Bidirectional(L.GRU(3, return_sequences=True), merge_mode=mode)
        for mode in ("concat", "sum", "mul", "ave", None)
    ]
    save(randomise(keras.Sequential([L.Input((None, 3)), *layers])), sequence(), "bidirectional.keras")
    model = keras.Sequential(
        [L.Input((None, 3)), L.Masking(), L.Bidirectional(L.GRU(3, return_sequences=True)), L.GRU(2)]
    )
    save(randomise(model), gappy(), "bidirectional_masked.h5")


def masked() -> None:
    inputs = L.Input((None, 3))
    x = L.Masking(0.0)(inputs)
    x = L.Bidirectional(L.GRU(3, return_sequences=True), merge_mode="sum")(x)
    x = L.GRU(4, return_sequences=True, go_backwards=True)(x)
    x = L.TimeDistributed(L.Dense(3))(L.Dropout(0.2)(x))
    save(randomise(keras.Model(inputs, L.GRU(2, zero_output_for_mask=True)(x))), gappy(), "functional_masked.keras")
    ids = L.Input((None,), dtype="int32")
    x = L.GRU(4, return_sequences=True)(L.Embedding(6, 3, mask_zero=True)(ids))
    model = randomise(keras.Model(ids, L.Dense(3, activation="softmax")(x)))
    save(model, np.array([[0, 1, 2, 0, 5], [3, 4, 0, 0, 0], [0, 0, 0, 0, 0]]), "functional_ids.h5")


def stacked() -> None:
    """More than ten layers of one class, which HDF5 lists out of order; nested, partly frozen; stacked cells."""
    inner = keras.Sequential(
        [L.Input((None, 3)), L.GRU(3, return_sequences=True), L.Dense(3), L.GRU(3, return_sequences=True)]
    )
    inner.layers[0].trainable = False
    model = keras.Sequential([L.Input((None, 3)), inner, L.RNN([L.GRUCell(3), L.GRUCell(2)])])
    save(randomise(model), sequence(), "nested.keras", "nested.h5")
    layers = [L.Dense(3, activation="tanh") for _ in range(12)]
    save(randomise(keras.Sequential([L.Input((None, 3)), *layers, L.GRU(2)])), sequence(), "twelve_dense.keras")


def fitted() -> None:
    model = randomise(keras.Sequential([L.Input((6, 3)), L.GRU(4, dropout=0.1), L.Dropout(0.3), L.Dense(1)]))
    model.compile("adam", "mse", metrics=["mae"])
    model.fit(sequence(8), np.zeros((8, 1)), epochs=2, verbose=0)
    save(model, sequence(), "fitted.keras", "fitted.h5")


def half() -> None:
    """Stored in half precision; the outputs are those of the same weights in float32, as cgru runs them."""
    for dtype in ("float16", "bfloat16"):
        models = [
            keras.Sequential(
                [
                    L.Input((None, 3)),
                    L.GRU(4, recurrent_initializer="glorot_uniform", dtype=kind),
                    L.Dense(2, dtype=kind),
                ]
            )
            for kind in (dtype, "float32")
        ]
        for narrow, wide in zip(models[0].weights, models[1].weights, strict=True):
            narrow.assign(RNG.normal(size=wide.shape).astype(np.float32) * 0.4)
            wide.assign(keras.ops.cast(narrow.value, "float32"))
        names = [f"{dtype}.keras"] if dtype == "float16" else [f"{dtype}.keras", f"{dtype}.h5"]
        save(models[0], sequence(), *names, golden=models[1])


def by_hand(name: str, version: str, layers: list[dict], weights: dict[str, list[tuple[str, np.ndarray]]]) -> None:
    """A legacy file as Keras 2 wrote it."""
    with h5py.File(FOLDER / name, "w") as file:
        file.attrs["keras_version"] = version.encode()
        file.attrs["backend"] = b"tensorflow"
        file.attrs["model_config"] = json.dumps(
            {"class_name": "Sequential", "config": {"name": "net", "layers": layers}}
        ).encode()
        top = file.create_group("model_weights")
        top.attrs["layer_names"] = np.array([layer.encode() for layer in weights])
        for layer, arrays in weights.items():
            group = top.create_group(layer)
            # Old versions split long lists; a reader must put them together again.
            group.attrs["weight_names0"] = np.array([arrays[0][0].encode()])
            group.attrs["weight_names1"] = np.array([key.encode() for key, _ in arrays[1:]])
            for key, array in arrays:
                group.create_dataset(key, data=array)


def keras2() -> None:
    """No reset_after (so False), hard_sigmoid in Keras 2's meaning, and a Bidirectional without backward_layer."""

    def old_hard_sigmoid(x: Any) -> Any:
        return keras.ops.clip(0.2 * x + 0.5, 0.0, 1.0)

    keras.saving.get_custom_objects()["old_hard_sigmoid"] = old_hard_sigmoid
    options: dict[str, Any] = {"reset_after": False, "recurrent_activation": old_hard_sigmoid, "return_sequences": True}
    both, last = L.Bidirectional(L.GRU(3, **options)), L.GRU(4, **options | {"return_sequences": False})
    model = randomise(keras.Sequential([L.Input((None, 3)), both, last]))
    model.set_weights([weight * 1.5 for weight in model.get_weights()])
    common = {"trainable": True, "activation": "tanh", "recurrent_activation": "hard_sigmoid", "use_bias": True,
              "implementation": 1, "dropout": 0.0, "recurrent_dropout": 0.0, "go_backwards": False, "stateful": False,
              "unroll": False, "return_state": False,
              "kernel_initializer": {"class_name": "VarianceScaling", "config": {}}}  # fmt: skip
    inner = {"class_name": "GRU", "config": {"name": "gru_1", "units": 3, "return_sequences": True, **common}}
    layers = [
        {"class_name": "Bidirectional", "config": {"name": "bidirectional_1", "trainable": True, "merge_mode": "concat",
         "batch_input_shape": [None, None, 3], "dtype": "float32", "layer": inner}},
        {"class_name": "GRU", "config": {"name": "gru_2", "units": 4, "return_sequences": False, **common}},
    ]  # fmt: skip
    slots = ("kernel", "recurrent_kernel", "bias")
    held = [keras.ops.convert_to_numpy(weight) for weight in model.weights]
    names = [f"bidirectional_1/{way}_gru_1/{slot}:0" for way in ("forward", "backward") for slot in slots]
    by_hand("keras2_hard_sigmoid.h5", "2.2.4", layers, {
        "bidirectional_1": list(zip(names, held[:6], strict=True)),
        "gru_2": [(f"gru_2/{slot}:0", array) for slot, array in zip(slots, held[6:], strict=True)],
    })  # fmt: skip
    record("keras2_hard_sigmoid.h5", model, sequence())


def cudnn() -> None:
    """A CuDNNGRU layer: the arrays of a plain GRU, laid out so that Keras 2's own conversion gives them back."""
    model = randomise(keras.Sequential([L.Input((None, 3)), L.GRU(4, return_sequences=True)]))
    kernel, recurrent, bias = (keras.ops.convert_to_numpy(weight) for weight in model.weights)
    blocks = [np.ascontiguousarray(block.T).reshape(block.shape) for block in np.split(kernel, 3, axis=1)]
    for stored, block in zip(blocks, np.split(kernel, 3, axis=1), strict=True):
        assert np.array_equal(stored.T.reshape(stored.shape, order="F"), block)
    states = np.concatenate([block.T for block in np.split(recurrent, 3, axis=1)], axis=1)
    config = {"name": "cu_dnngru", "units": 4, "return_sequences": True, "return_state": False, "go_backwards": False,
              "stateful": False, "trainable": True, "batch_input_shape": [None, None, 3]}  # fmt: skip
    arrays = (np.concatenate(blocks, axis=1), states, bias.reshape(-1))
    slots = ("kernel", "recurrent_kernel", "bias")
    named = [(f"cu_dnngru/{slot}:0", array) for slot, array in zip(slots, arrays, strict=True)]
    by_hand("cudnn_gru.h5", "2.2.4", [{"class_name": "CuDNNGRU", "config": config}], {"cu_dnngru": named})
    record("cudnn_gru.h5", model, sequence())


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(20)
    for make in (plain, bidirectional, masked, stacked, fitted, half, keras2, cudnn):
        make()
    deflate()
    np.savez_compressed(FOLDER / "golden.npz", **GOLDEN)  # type: ignore[arg-type]
    size = sum(path.stat().st_size for path in FOLDER.iterdir())
    print(f"{len(list(FOLDER.iterdir()))} files, {size:,} bytes")
