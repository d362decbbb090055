"""What a type checker makes of the public names: mypy reads this file with the others, nothing runs it.

Each line says a type that users rely on; ``assert_type`` is an error of mypy's where it is another.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, assert_type

import numpy as np

import cgru
from cgru.engine.backends import _packed
from cgru.engine.pool import Pool
from cgru.engine.stream import Stream


def networks(net: cgru.Model, x: np.ndarray) -> None:
    assert_type(cgru.load("model.pt"), cgru.Model)
    assert_type(cgru.load(Path("model.pt")), cgru.Model)
    assert_type(cgru.read("model.pt"), dict[str, np.ndarray])
    assert_type(net.quantize("int8"), cgru.Model)
    assert_type(net.run(x), tuple[Any, cgru.State])
    assert_type(net.state(batch=3), cgru.State)
    assert_type(net.stream(), Stream)
    assert_type(net.pool(capacity=3), Pool)
    assert_type(net.pool(capacity=3).open(), int)
    assert_type(cgru.compare(net, net, x), cgru.Comparison)
    assert_type(cgru.verify(net, x, x), cgru.Difference)


def layers(tensors: dict[str, np.ndarray], x: np.ndarray) -> None:
    assert_type(cgru.GRU.from_torch(tensors), cgru.GRU)
    assert_type(cgru.LSTM.from_torch(tensors), cgru.LSTM)
    assert_type(cgru.Dense(x), cgru.Dense)
    assert_type(cgru.Dense(x).renamed("head"), cgru.Dense)
    assert_type(cgru.Dense(x).quantized("int8"), cgru.Dense)


def graphs(g: cgru.Graph) -> None:
    assert_type(g.input(3), str)
    assert_type(g.node("activation", "x", activation="relu"), str)
    assert_type(cgru.Model(g), cgru.Model)


def extension() -> None:
    assert_type(_packed.isa_in_use(), str)
    assert_type(_packed.isa_available(), list[str])
    assert_type(_packed.Matrix("float32", np.zeros((2, 3), np.float32), None).units, int)
