"""The tensors of a file that is not known to be a network: names, shapes, and what their modules look like."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

#: Rows of a matrix for each unit, where recurrent weights are units wide → the cells that have as many.
_GATES = {1: "RNN", 3: "GRU", 4: "LSTM"}
_HIDDEN = re.compile(r"(?:weight_hh|weight_hh_l\d+)\Z")
_NORMS = {"running_mean", "running_var"}


def rows(tensors: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """A dict a tensor: ``name``, ``shape``, ``dtype``, and ``looks_like``, empty where nothing is known to look so."""
    groups: dict[str, dict[str, np.ndarray]] = {}
    for name, array in tensors.items():
        path, _, leaf = name.rpartition(".")
        groups.setdefault(path, {})[leaf] = array
    looks = {path: _module(parts) for path, parts in groups.items()} | _keras_groups(tensors)
    return [
        {
            "name": name,
            "shape": list(array.shape),
            "dtype": str(array.dtype),
            "looks_like": looks.get(name.rpartition("/")[0] + "/") or looks[name.rpartition(".")[0]],
        }
        for name, array in tensors.items()
    ]


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """The rows as text."""
    lines = [[row["name"], "×".join(map(str, row["shape"])) or "1", row["dtype"], row["looks_like"]] for row in found]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _keras_groups(tensors: Mapping[str, np.ndarray]) -> dict[str, str]:
    """What the arrays below one path of Keras' files are, kernels (in, out): by the path and a slash."""
    groups: dict[str, list[np.ndarray]] = {}
    for name, array in tensors.items():
        path, slash, _ = name.rpartition("/")
        if slash:
            groups.setdefault(path + slash, []).append(array)
    found = {}
    for path, arrays in groups.items():
        shapes = [array.shape for array in arrays]
        if len(shapes) > 1 and len(shapes[0]) == len(shapes[1]) == 2 and shapes[1][0]:
            units, columns = shapes[1]
            kind = _GATES.get(columns // units) if columns % units == 0 and shapes[0][1] == columns else None
            found[path] = f"{kind} of {units}" if kind else ""
        elif len(shapes[0]) == 2:
            word = "Dense" if shapes[1:] == [shapes[0][1:]] else "Dense without bias, or Embedding"
            found[path] = f"{word} of {shapes[0][1]}" if word == "Dense" else word
        elif len(shapes[0]) == 3:
            found[path] = f"Conv1D of {shapes[0][2]}"
    return found


def _module(parts: Mapping[str, np.ndarray]) -> str:
    """What the tensors below one path are by PyTorch's names and shapes."""
    hidden = next((array for leaf, array in parts.items() if _HIDDEN.match(leaf)), None)
    if hidden is not None and hidden.ndim == 2 and hidden.shape[1] and hidden.shape[0] % hidden.shape[1] == 0:
        kind = _GATES.get(hidden.shape[0] // hidden.shape[1])
        return f"{kind} of {hidden.shape[1]}" if kind else ""
    weight = parts.get("weight")
    if weight is None:
        return ""
    if parts.keys() & _NORMS:
        return f"BatchNorm of {weight.size}"
    if weight.ndim == 3:
        return f"Conv1d of {weight.shape[0]}"
    if weight.ndim == 2:
        return f"Linear of {weight.shape[0]}" if "bias" in parts else "Linear without bias, or Embedding"
    if weight.ndim == 1:
        return "normalisation" if "bias" in parts else "PReLU, or normalisation without bias"
    return ""
