"""ONNX' arrays as a network of cgru takes them, and its results in ONNX' axes again, as the reader tells them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

import cgru
from cgru.formats.readers.onnx_network import Network


def given(network: Network, name: str, array: np.ndarray, *, frame: bool = False) -> np.ndarray:
    """An input as (B, T, *features): axes of size 1 go where cgru leaves them out. ``frame``: it is one step."""
    rows, steps = network.rows[name], network.steps[name]
    front = [axis for axis in (rows, steps) if axis is not None]
    array = array.transpose(front + [axis for axis in range(array.ndim) if axis not in front])
    batch = array.shape[0] if rows is not None else 1
    shape = [batch, *([array.shape[len(front) - 1]] if steps is not None else [1] if frame else [])]
    return array.reshape(*shape, *network.graph.inputs[name].features)


def in_onnx_axes(
    network: Network, name: str, found: np.ndarray, shape: tuple[int, ...], *, frame: bool = False
) -> np.ndarray:
    """An output (B, T, *features) in the axes that ONNX gives it."""
    if frame:
        found = found[:, 0]
    axes = [atom for atoms in network.axes[name] for atom in atoms]
    first = 1 + ("T" in axes)
    order = [{"B": 0, "T": 1}[atom] if isinstance(atom, str) else first + atom for atom in axes]
    if "B" not in axes:
        found, order = found[0], [axis - 1 for axis in order]
    rest = [axis for axis in range(found.ndim) if axis not in order]
    return found.transpose(order + rest).reshape(shape)


def run(
    network: Network, arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], *, frame: bool = False
) -> dict[str, np.ndarray]:
    """Every output in ONNX' axes, of inputs in ONNX' axes."""
    g = network.graph
    found = cgru.Model(g)({name: given(network, name, arrays[name], frame=frame) for name in g.inputs})
    made = found if isinstance(found, dict) else {g.outputs[0]: found}
    by_output = dict(zip(network.axes, g.outputs, strict=True))
    return {
        name: in_onnx_axes(network, name, np.asarray(made[by_output[name]]), shape, frame=frame)
        for name, shape in shapes.items()
    }
