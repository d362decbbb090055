"""Makes tests/fixtures/onnx_keras: Keras 3 networks as their exporters write them, on TensorFlow and on torch.

    python tests/make_fixtures/onnx_keras.py tensorflow     # needs tensorflow 2.21 and tf2onnx 1.17
    python tests/make_fixtures/onnx_keras.py torch          # needs torch 2.13, onnx and onnxscript

The networks are random and of this script, so the fixtures are under cgru's own licence. tf2onnx writes a GRU or
SimpleRNN as a Loop, keeps an LSTM, and turns directions round with ReverseSequence. On torch the steps stand one behind
the other where their number is fixed; where it is open, the file holds one step alone and is wrong.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

FOLDER = Path(__file__).resolve().parent.parent / "fixtures" / "onnx_keras"
BACKEND = sys.argv[1] if len(sys.argv) > 1 else "torch"
os.environ["KERAS_BACKEND"] = BACKEND


def networks(layers: Any) -> dict[str, tuple[int | None, list[Any]]]:
    """Steps (None: any number) and layers of each network, over 5 features."""
    gru, lstm = layers.GRU, layers.LSTM
    hard = {"recurrent_activation": "hard_sigmoid", "activation": "relu"}
    if BACKEND == "torch":
        return {
            "unrolled_gru": (4, [gru(6, return_sequences=True), layers.Dense(3)]),
            "unrolled_lstm": (4, [lstm(6)]),
            "traced_gru": (None, [gru(6, return_sequences=True), layers.Dense(3)]),
            "traced_lstm": (None, [lstm(6)]),
        }
    return {
        "gru": (None, [gru(6, return_sequences=True), layers.Dense(3)]),
        "gru_fixed": (7, [gru(6, return_sequences=True), layers.Dense(3)]),
        "gru_before": (None, [gru(6, return_sequences=True, reset_after=False)]),
        "gru_no_bias": (None, [gru(6, return_sequences=True, use_bias=False)]),
        "gru_hard": (None, [gru(6, return_sequences=True, **hard)]),
        "gru_backwards": (None, [gru(6, return_sequences=True, go_backwards=True)]),
        "two_grus": (None, [gru(6, return_sequences=True), gru(4), layers.Dense(2)]),
        "both_ways_gru": (None, [layers.Bidirectional(gru(4, return_sequences=True)), layers.Dense(3)]),
        "both_ways_lstm": (None, [layers.Bidirectional(lstm(4, return_sequences=True)), layers.Dense(3)]),
        "simple_rnn": (None, [layers.SimpleRNN(6, return_sequences=True), layers.Dense(3)]),
        "masked_gru": (None, [layers.Masking(), gru(6, return_sequences=True)]),
        "masked_lstm": (None, [layers.Masking(), lstm(6)]),
    }


def main() -> None:
    import keras

    FOLDER.mkdir(parents=True, exist_ok=True)
    golden = {}
    for name, (steps, layers) in networks(keras.layers).items():
        keras.utils.set_random_seed(sum(name.encode()))
        model = keras.Sequential([keras.Input((steps, 5), name="x"), *layers])
        for weight in model.weights:
            weight.assign(np.random.default_rng(len(name)).standard_normal(weight.shape) * 0.4)
        x = np.random.default_rng(3).standard_normal((2, steps or 7, 5)).astype(np.float32)
        if name.startswith("masked"):
            x[0, 4:] = 0
            x[1, 2] = 0
        golden[f"{name}|x"], golden[f"{name}|y"] = x, keras.ops.convert_to_numpy(model(x))
        path = FOLDER / f"{name}.onnx"
        (_with_tensorflow if BACKEND == "tensorflow" else _with_torch)(model, path, steps)
        _shortened(path)
    np.savez_compressed(FOLDER / f"golden_{BACKEND}.npz", **golden)  # type: ignore[arg-type]


def _with_tensorflow(model: Any, path: Path, steps: int | None) -> None:
    import tensorflow
    import tf2onnx

    spec = (tensorflow.TensorSpec((None, steps, 5), tensorflow.float32, name="x"),)
    function: Callable[..., Any] = tensorflow.function(lambda x: model(x), input_signature=spec)
    tf2onnx.convert.from_function(function, input_signature=spec, opset=17, output_path=str(path))


def _with_torch(model: Any, path: Path, steps: int | None) -> None:
    model.export(path, format="onnx", verbose=False)


def _shortened(path: Path) -> None:
    """Values have names of a hundred letters: numbers stand for them, and what only describes is left out."""
    model = onnx.load(path)
    names: dict[str, str] = {"": "", **{item.name: item.name for item in (*model.graph.input, *model.graph.output)}}

    def short(name: str) -> str:
        return names.setdefault(name, f"v{len(names)}")

    def renamed(graph: Any) -> None:
        del graph.value_info[:], graph.metadata_props[:]
        graph.doc_string = ""
        for item in (*graph.input, *graph.output, *graph.initializer):
            item.name = short(item.name)
            del item.metadata_props[:]
            item.doc_string = ""
        for node in graph.node:
            node.input[:], node.output[:] = map(short, node.input), map(short, node.output)
            node.name = re.sub(r".*/", "", node.name)[-24:]
            del node.metadata_props[:]
            node.doc_string = ""
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    renamed(attribute.g)

    renamed(model.graph)
    del model.metadata_props[:]
    onnx.checker.check_model(model)
    onnx.save(model, path)


if __name__ == "__main__":
    main()
