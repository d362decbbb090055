"""Weights that PyTorch stores in parts: weight and spectral normalisation, folded to the weight that the network used.

Both names that torch gave the parts over time are known: ``weight_g`` and ``weight_v`` or ``weight_orig``, ``weight_u``
and ``weight_v`` beside the module's other tensors, and ``parametrizations.weight.original…`` below it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from ...errors import FormatError

Arrays = Mapping[str, np.ndarray]

_NEW = re.compile(
    r"(?P<path>.*\.|)parametrizations\.(?P<name>[^.]+)\.(?P<part>original0|original1|original|0\._u|0\._v)"
)
_OLD = re.compile(r"(?P<path>.*\.|)(?P<name>(?:weight|bias)\w*?)_(?P<part>g|v|orig|u)")
_PARTS = {"original0": "g", "original1": "v", "original": "orig", "0._u": "u", "0._v": "v"}


def folded(tensors: Arrays) -> dict[str, np.ndarray]:
    """The tensors with every weight that is whole in parts put together, at the place of its first part.

    Weight normalisation (Salimans and Kingma 2016): w = g v / ‖v‖, the norm over all axes along which g has size 1.
    Spectral normalisation (Miyato et al. 2018), as it is at inference: w / (uᵀ W v), W the weight as a matrix whose
    rows are the axis as long as u. Raises :class:`~cgru.FormatError` where the parts do not fit each other.
    """
    found: dict[str, dict[str, str]] = {}
    for name in tensors:
        match = _NEW.fullmatch(name) or _OLD.fullmatch(name)
        if match:
            part = _PARTS.get(match["part"], match["part"])
            found.setdefault(match["path"] + match["name"], {})[part] = name
    whole = {
        weight: parts
        for weight, parts in found.items()
        if weight not in tensors and parts.keys() in ({"g", "v"}, {"orig", "u", "v"})
    }
    if not whole:
        return dict(tensors)
    owner = {name: weight for weight, parts in whole.items() for name in parts.values()}
    made: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        weight = owner.get(name)
        if weight is None:
            made[name] = array
        elif weight not in made:
            parts = {part: np.asarray(tensors[key], np.float64) for part, key in whole[weight].items()}
            with np.errstate(all="ignore"):
                value = _weight_norm(weight, **parts) if "g" in parts else _spectral_norm(weight, **parts)
                made[weight] = value.astype(np.float32)
    return made


def _weight_norm(where: str, g: np.ndarray, v: np.ndarray) -> np.ndarray:
    if g.ndim == 0:  # dim=None: one length for all
        return v * (g / np.sqrt((v * v).sum()))
    if g.ndim != v.ndim or any(a not in (1, b) for a, b in zip(g.shape, v.shape, strict=True)):
        raise FormatError(
            f"{where}: weight normalisation of {v.shape} with lengths of shape {g.shape}, which do not fit"
        )
    return v * (g / _norm(v, g))


def _norm(v: np.ndarray, g: np.ndarray) -> np.ndarray:
    """‖v‖ over the axes along which g has size 1."""
    axes = tuple(i for i, size in enumerate(g.shape) if size == 1)
    return np.sqrt((v * v).sum(axis=axes, keepdims=True))


def _spectral_norm(where: str, orig: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    # torch's rows are axis 0, or axis 1 for transposed convolutions; u is as long as they are, v as long as a row.
    for axis in range(min(orig.ndim, 2)):
        if u.shape == (orig.shape[axis],) and v.size * u.size == orig.size:
            matrix = np.moveaxis(orig, axis, 0).reshape(u.size, -1)
            break
    else:
        raise FormatError(
            f"{where}: spectral normalisation of {orig.shape} with vectors of shapes {u.shape} and {v.shape}, which do "
            "not fit"
        )
    return orig / (u @ matrix @ v)
