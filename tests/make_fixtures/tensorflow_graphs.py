"""Makes tests/fixtures/tensorflow: a frozen graph with constants of several types, a SavedModel's own file, the arrays.

Run ``python tests/make_fixtures/tensorflow_graphs.py`` with tensorflow-cpu 2.16.1 installed.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf  # type: ignore[import-not-found,import-untyped,unused-ignore]

FOLDER = Path(__file__).resolve().parent.parent / "fixtures" / "tensorflow"


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(9)
    arrays: dict[str, Any] = {
        "rnn/kernel": rng.normal(size=(5, 6)).astype(np.float32), "rnn/bias": np.full(6, 0.5, np.float32),
        "ids": np.array([[1, -2], [3, 1 << 40]]), "flags": np.array([True, False]), "double": rng.normal(size=3),
        "half": np.array([1.5, -2], np.float16), "bytes": np.array([1, 255], np.uint8), "scalar": np.float32(3.5),
        "small": np.array([-128, 2], np.int8),
    }  # fmt: skip
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, (None, 5), name="x")
        for name, array in arrays.items():
            tf.constant(array, name=name)
        tf.constant("words", name="words")
        tf.constant([1.5, -2.0], tf.bfloat16, name="brain")
        tf.linalg.matmul(x, graph.get_tensor_by_name("rnn/kernel:0"), name="y")
    (FOLDER / "frozen.pb").write_bytes(graph.as_graph_def().SerializeToString(deterministic=True))
    np.savez_compressed(FOLDER / "frozen.npz", **arrays, brain=np.array([1.5, -2], np.float32))

    module = tf.Module()
    module.kernel = tf.Variable(arrays["rnn/kernel"])
    module.f = tf.function(lambda x: x @ module.kernel, input_signature=[tf.TensorSpec((None, 5), tf.float32)])
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, options=tf.saved_model.SaveOptions(save_debug_info=False))
        (FOLDER / "saved_model.pb").write_bytes(Path(folder, "saved_model.pb").read_bytes())


if __name__ == "__main__":
    main()
