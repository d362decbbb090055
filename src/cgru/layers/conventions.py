"""Weights as files and texts have them → the canonical arrays of a recurrent layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..arrays import as_array, brief, float32, sequence
from ..errors import CgruError, ShapeError


def plain(value: Any) -> Any:
    """A torch tensor as a numpy array (without importing torch), anything else as it is."""
    if type(value) is not np.ndarray and hasattr(value, "detach"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":
            value = value.float()
        return value.numpy()
    return value


def reorder(
    rows: np.ndarray, order: str, canonical: Sequence[str], letters: Mapping[str, str], where: str
) -> np.ndarray:
    """Blocks of rows in the ``order`` named → the canonical one; ``letters`` says what each letter may stand for."""
    named = [letters.get(letter, "?") for letter in order.lower()] if isinstance(order, str) else []
    if sorted(named) != sorted(canonical):
        raise CgruError(
            f"{where}: gates={brief(order)} does not name each block once, as {''.join(canonical)!r} does; "
            f"letters are {', '.join(letters)}"
        )
    if rows.shape[0] % len(named):
        raise ShapeError(f"{where}: {rows.shape[0]} rows do not split into {len(named)} gates")
    blocks = dict(zip(named, np.split(rows, len(named)), strict=True))
    return np.concatenate([blocks[gate] for gate in canonical])


def listed(value: Any, ndim: int, where: str) -> list[Any]:
    """A list of arrays: the one given, or the several."""
    if isinstance(value, (list, tuple)) and len(value) and as_array(plain(value[0]), where, "numbers").ndim == ndim:
        return list(value)
    array = as_array(plain(value), where, "numbers")
    return list(array) if array.ndim == ndim + 1 else [array]


def stacked(given: Mapping[str, tuple[Any, int]], directions: int, where: str) -> tuple[dict[str, np.ndarray], int]:
    """Arrays of a whole stack by stem and number of axes, None left out → by canonical name, and the layers.

    Each is one array, or a list in the order layer·D + direction.
    """
    groups = {
        stem: listed(value, ndim, f"{where}: {stem}") for stem, (value, ndim) in given.items() if value is not None
    }
    count = max(map(len, groups.values()), default=0)
    if count == 0 or count % directions or any(len(group) != count for group in groups.values()):
        sizes = ", ".join(f"{len(group)} of {stem}" for stem, group in groups.items())
        raise ShapeError(f"{where}: found {sizes}; expected equally many, {directions} for each layer")
    arrays = {}
    for stem, group in groups.items():
        for index, value in enumerate(group):
            key = f"{stem}_l{index // directions}" + ("_reverse" if index % directions else "")
            arrays[key] = float32(plain(value), f"{where}: {key}", given[stem][1])
    return arrays, count // directions


def keras_arrays(
    weights: Sequence[Any], backward: Sequence[Any] | None, bias_axes: int, where: str
) -> dict[str, np.ndarray]:
    """Keras' ``[kernel, recurrent_kernel, bias]`` of one or two directions, columns as rows.

    A bias of two axes holds those of the input and the recurrent side.
    """
    arrays: dict[str, np.ndarray] = {}
    for suffix, parts in (("_l0", weights), ("_l0_reverse", backward)):
        if parts is None:
            continue
        parts = sequence(parts, where, "[kernel, recurrent_kernel, bias]")
        if len(parts) not in (2, 3):
            raise ShapeError(f"{where}: expected [kernel, recurrent_kernel, bias], found {len(parts)} arrays")
        kernel = float32(plain(parts[0]), f"{where}: kernel", 2)
        arrays["weight_ih" + suffix] = kernel.T
        arrays["weight_hh" + suffix] = float32(plain(parts[1]), f"{where}: recurrent_kernel", 2).T
        if len(parts) == 3 and parts[2] is not None:
            bias = float32(plain(parts[2]), f"{where}: bias", bias_axes)
            if bias.shape != (2, kernel.shape[1])[2 - bias_axes :]:
                raise ShapeError(
                    f"{where}: bias has shape {bias.shape}, expected {(2, kernel.shape[1])[2 - bias_axes :]} beside a "
                    f"kernel of shape {kernel.shape}"
                )
            for stem, row in zip(("bias_ih", "bias_hh"), np.atleast_2d(bias), strict=False):
                arrays[stem + suffix] = row
    return arrays


def tf_kernel(kernel: np.ndarray, emitted: int, gates: int, where: str, what: str) -> tuple[np.ndarray, np.ndarray]:
    """TensorFlow 1's kernel (I + H, gates · H) on [x, h] → w_ih and w_hh, a gate's rows after the other."""
    rows, columns = kernel.shape
    if rows <= emitted or columns % gates or not columns:
        raise ShapeError(
            f"{where}: {what} has shape {kernel.shape}, expected (I + {emitted}, {gates} · H), what multiplies the "
            "input first"
        )
    return kernel[: rows - emitted].T, kernel[rows - emitted :].T


def keras_activation(name: str, version: int | None, where: str) -> str:
    """cgru's name of an activation that Keras names: what hard_sigmoid means changed with Keras 3.

    ``version`` is the major one of the Keras that wrote it. Raises :class:`CgruError` where that decides and is None.
    """
    if version is not None and (type(version) is not int or version not in (1, 2, 3)):
        raise CgruError(f"{where}: keras_version={brief(version)}: expected 1, 2 or 3")
    if not isinstance(name, str) or name != "hard_sigmoid":
        return name
    if version is None:
        raise CgruError(
            f"{where}: 'hard_sigmoid' is clip(x / 6 + 0.5, 0, 1) in Keras 3 and clip(0.2 x + 0.5, 0, 1) in Keras 1 and "
            "2: say which by keras_version=3 or keras_version=2"
        )
    return name if version == 3 else "hard_sigmoid_keras2"


def split_concat(
    matrices: Mapping[str, Any], biases: Mapping[str, Any] | None, order: str, where: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """One matrix (H, H + I) for each gate, on [h, x] or [x, h] → w_ih, w_hh and the bias, gates in the order given."""
    if not isinstance(order, str) or order not in ("hx", "xh"):
        raise CgruError(f"{where}: order={brief(order)} is neither 'hx' (the state first) nor 'xh'")
    if not matrices:
        raise CgruError(f"{where}: matrices: expected one for each gate, found none")
    inputs, states, shapes = [], [], set()
    for gate, matrix in matrices.items():
        both = float32(plain(matrix), f"{where}: the matrix of {gate!r}", 2)
        hidden, width = both.shape
        if width <= hidden:
            raise ShapeError(f"{where}: the matrix of {gate!r} has shape {both.shape}, expected (H, H + I)")
        shapes.add(both.shape)
        states.append(both[:, :hidden] if order == "hx" else both[:, width - hidden :])
        inputs.append(both[:, hidden:] if order == "hx" else both[:, : width - hidden])
    if len(shapes) > 1:
        raise ShapeError(f"{where}: the gates' matrices differ in shape: {', '.join(map(str, sorted(shapes)))}")
    bias = None
    if biases is not None:
        if set(biases) != set(matrices):
            raise CgruError(f"{where}: biases are for {', '.join(biases)}, matrices for {', '.join(matrices)}")
        bias = np.concatenate([float32(plain(biases[gate]), f"{where}: the bias of {gate!r}", 1) for gate in matrices])
    return np.concatenate(inputs), np.concatenate(states), bias
