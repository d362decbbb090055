"""docs/from.md: its lists are the code's tables, its lines compute what the frameworks do, its masks are Keras'."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cgru

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "from.md").read_text()
RNG = np.random.default_rng(6)
B, T, INPUTS, H = 2, 5, 3, 4


def _tool() -> Any:
    spec = importlib.util.spec_from_file_location("from_page", ROOT / "tools" / "from_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_its_lists_are_the_tables_of_the_code() -> None:
    assert _tool().written(TEXT) == TEXT, "run python tools/from_page.py"


def block(start: str) -> str:
    """The code block that holds the line ``start``."""
    found = next(part for part in re.findall(r"```python\n(.*?)```", TEXT, flags=re.S) if start in part)
    return str(found)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_cells_of_tensorflow_1() -> None:
    """tensorflow/python/ops/rnn_cell_impl.py: BasicLSTMCell.call and GRUCell.call."""
    given: dict[str, Any] = {
        "cgru": cgru, "np": np, "I": INPUTS, "H": H, "forget_bias": 1.0, "kernel": normal(INPUTS + H, 4 * H),
        "bias": normal(4 * H),
        "gate_kernel": normal(INPUTS + H, 2 * H), "candidate_kernel": normal(INPUTS + H, H), "gate_bias": normal(2 * H),
        "candidate_bias": normal(H),
    }  # fmt: skip
    lstm_bias = given["bias"]
    exec(block("# BasicLSTMCell"), given)
    x, h, c = normal(B, T, INPUTS), np.zeros((B, H)), np.zeros((B, H))
    wanted = []
    for t in range(T):
        i, j, f, o = np.split(np.hstack([x[:, t], h]) @ given["kernel"] + lstm_bias, 4, axis=1)
        c = c * sigmoid(f + 1.0) + sigmoid(i) * np.tanh(j)
        h = np.tanh(c) * sigmoid(o)
        wanted.append(h)
    np.testing.assert_allclose(given["lstm"](x)[0], np.stack(wanted, 1), atol=2e-6)
    h, wanted = np.zeros((B, H)), []
    for t in range(T):
        r, u = np.split(sigmoid(np.hstack([x[:, t], h]) @ given["gate_kernel"] + given["gate_bias"]), 2, axis=1)
        n = np.tanh(np.hstack([x[:, t], r * h]) @ given["candidate_kernel"] + given["candidate_bias"])
        h = u * h + (1 - u) * n
        wanted.append(h)
    np.testing.assert_allclose(given["gru"](x)[0], np.stack(wanted, 1), atol=2e-6)


def test_cells_of_flax() -> None:
    """flax/linen/recurrent.py: GRUCell.__call__ and LSTMCell.__call__."""
    p: Any = {f"i{g}": {"kernel": normal(INPUTS, H), "bias": normal(H)} for g in "rzn"}
    p |= {f"h{g}": {"kernel": normal(H, H)} for g in "rzn"}
    p["hn"]["bias"] = normal(H)
    q: Any = {f"i{g}": {"kernel": normal(INPUTS, H)} for g in "ifgo"}
    q |= {f"h{g}": {"kernel": normal(H, H), "bias": normal(H)} for g in "ifgo"}
    given: dict[str, Any] = {"cgru": cgru, "np": np, "H": H, "p": p, "q": q}
    exec(block("# flax.linen.GRUCell"), given)
    x, h, c = normal(B, T, INPUTS), np.zeros((B, H)), np.zeros((B, H))
    wanted = []

    def dense(part: Any, value: np.ndarray) -> np.ndarray:
        return np.asarray(value @ part["kernel"] + part.get("bias", 0))

    for t in range(T):
        r, z = (sigmoid(dense(p["i" + g], x[:, t]) + dense(p["h" + g], h)) for g in "rz")
        n = np.tanh(dense(p["in"], x[:, t]) + r * dense(p["hn"], h))
        h = (1 - z) * n + z * h
        wanted.append(h)
    np.testing.assert_allclose(given["gru"](x)[0], np.stack(wanted, 1), atol=2e-6)
    h, wanted = np.zeros((B, H)), []
    for t in range(T):
        i, f, g, o = (dense(q["i" + gate], x[:, t]) + dense(q["h" + gate], h) for gate in "ifgo")
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        wanted.append(h)
    np.testing.assert_allclose(given["lstm"](x)[0], np.stack(wanted, 1), atol=2e-6)


# ---- masks, beside Keras ------------------------------------------------------------------------------------------

ROWS = {
    name: (does, after)
    for name, does, after in re.findall(r"^\| (\w+) \| ([a-z ,]+) \| (goes on|ends) \|$", TEXT, flags=re.M)
}


def _layers(L: Any) -> dict[str, Any]:
    return {
        "Activation": lambda x: L.Activation("tanh")(x), "Add": lambda x: L.Add()([x, x]),
        "BatchNormalization": L.BatchNormalization(), "Bidirectional": L.Bidirectional(L.GRU(3, return_sequences=True)),
        "Dense": L.Dense(3, activation="relu"), "Dropout": L.Dropout(0.5), "ELU": L.ELU(),
        "GRU": L.GRU(3, return_sequences=True), "GlobalAveragePooling1D": L.GlobalAveragePooling1D(),
        "GlobalMaxPooling1D": L.GlobalMaxPooling1D(), "LSTM": L.LSTM(3, return_sequences=True),
        "LayerNormalization": L.LayerNormalization(), "LeakyReLU": L.LeakyReLU(),
        "SimpleRNN": L.SimpleRNN(3, return_sequences=True), "TimeDistributed": L.TimeDistributed(L.Dense(2)),
    }  # fmt: skip


@pytest.fixture(scope="module")
def keras() -> Any:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    found = pytest.importorskip("keras", reason="Keras is not installed: the comparison with it needs keras and torch")
    if found.backend.backend() != "torch":
        pytest.skip(f"Keras runs on {found.backend.backend()}; the comparison is made on torch")
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ROWS)
def test_what_becomes_of_a_mask(name: str, keras: Any) -> None:
    """Keras' own outputs say what the table says, and cgru's are Keras'."""
    keras.utils.set_random_seed(3)
    does, after = ROWS[name]
    L = keras.layers
    i = keras.Input((None, 3))
    layer = _layers(L)[name]
    y = layer(L.Masking(9.0)(i))
    assert (getattr(y, "_keras_mask", None) is not None) == (after == "goes on")
    model = keras.Model(i, y)
    x = RNG.normal(size=(3, 7, 3)).astype(np.float32)
    x[0, 3] = x[1, 5:] = 9.0
    wanted = model.predict(x, verbose=0)
    np.testing.assert_allclose(cgru.from_keras(model, example=x)(x), wanted, atol=2e-6)
    if after == "goes on":
        more = keras.Model(i, L.GRU(3)(y))
        np.testing.assert_allclose(cgru.from_keras(more, example=x)(x), more.predict(x, verbose=0), atol=2e-6)
    if does.endswith("repeats the output"):
        np.testing.assert_array_equal(wanted[0, 3], wanted[0, 2])
    elif does.endswith("gives zeros"):
        assert not np.any(wanted[0, 3])
    else:
        # Masking makes zeros of what is masked: nothing else differs where the layer does not look at the mask.
        bare = keras.Model(i, layer(i))
        unmasked = bare.predict(np.where(x == 9.0, np.float32(0), x), verbose=0)
        assert np.allclose(unmasked, wanted, atol=1e-6) == (does == "nothing")


def test_every_row_has_a_case_and_every_case_a_row(keras: Any) -> None:
    assert set(ROWS) == set(_layers(keras.layers))
