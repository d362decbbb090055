"""Makes tests/fixtures/keras_versions: two models as the Keras that runs this saves them, and their outputs.

Run with each Keras in an environment of its own, PyTorch as backend, tf_keras (Keras 2) on TensorFlow::

    pip install keras==3.3.3 torch numpy h5py && KERAS_BACKEND=torch python tests/make_fixtures/keras_versions.py
    pip install keras==3.8.0 torch numpy h5py && KERAS_BACKEND=torch python tests/make_fixtures/keras_versions.py
    pip install tensorflow-cpu==2.16.1 tf_keras==2.16.0 && python tests/make_fixtures/keras_versions.py tf_keras

Each model is saved as ``.keras``, ``.h5``, and ``.weights.h5`` beside its configuration ``.json``, packed by gzip.
``<version>.npz`` holds under ``<model>:x`` and ``<model>:y`` what it was given and gave.
"""

from __future__ import annotations

import gzip
import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).resolve().parent.parent / "fixtures" / "keras_versions"


def chain(keras: Any) -> tuple[Any, np.ndarray]:
    L = keras.layers
    model = keras.Sequential([
        keras.Input((None, 3)), L.Masking(-1.0), L.Bidirectional(L.LSTM(3, return_sequences=True)),
        L.GRU(4, return_sequences=True, reset_after=False, recurrent_activation="hard_sigmoid"),
        L.LayerNormalization(), L.TimeDistributed(L.Dense(3, activation="relu")), L.SimpleRNN(2, go_backwards=True),
        L.Dense(2, activation="softmax"),
    ])  # fmt: skip
    x = np.random.default_rng(1).normal(size=(3, 6, 3)).astype(np.float32)
    x[1, 4:] = x[2, 1:] = -1
    return model, x


def graph(keras: Any) -> tuple[Any, np.ndarray]:
    L = keras.layers
    ids = keras.Input((8,), dtype="int32")
    h = L.Embedding(9, 4)(ids)
    c = L.BatchNormalization()(L.Conv1D(4, 3, padding="causal", activation="tanh")(h))
    h = L.Add()([h, c])
    h = L.concatenate([L.GlobalMaxPooling1D()(h), L.GRU(3)(L.MaxPooling1D(2)(h))])
    model = keras.Model(ids, L.Dense(2)(L.LeakyReLU()(h)))
    return model, np.random.default_rng(2).integers(0, 9, (3, 8))


def main(package: str = "keras") -> None:
    keras = importlib.import_module(package)
    FOLDER.mkdir(parents=True, exist_ok=True)
    version = ".".join(keras.__version__.split(".")[:2])
    golden: dict[str, Any] = {}
    for make in (chain, graph):
        keras.utils.set_random_seed(5)
        model, x = make(keras)
        rng = np.random.default_rng(3)
        model.set_weights([rng.uniform(0.1, 0.6, w.shape) * (-1) ** (w.ndim > 1 and 1) for w in model.get_weights()])
        stem = str(FOLDER / f"{version}-{make.__name__}")
        for ending in (".keras", ".h5"):
            try:
                model.save(stem + ending)
            except Exception as error:  # what this Keras cannot save is no fixture
                print(f"{stem + ending}: {error}", file=sys.stderr)
        model.save_weights(stem + ".weights.h5")
        Path(stem + ".json").write_text(model.to_json())
        golden |= {f"{make.__name__}:x": x, f"{make.__name__}:y": np.asarray(model.predict(x, verbose=0))}
    np.savez_compressed(FOLDER / f"{version}.npz", **golden)
    for path in [*FOLDER.glob("*.h5"), *FOLDER.glob("*.keras")]:
        Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
        path.unlink()


if __name__ == "__main__":
    main(*sys.argv[1:])
