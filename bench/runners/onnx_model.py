"""The cell as an ONNX model: the form in which ONNX Runtime, tract and MNN take it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from cells import Cell

OPSET = 17


def gates_zrh(array: np.ndarray, H: int) -> np.ndarray:
    """Reorder gates along the first axis from PyTorch's r, z, n to ONNX's z, r, h."""
    return np.concatenate([array[H : 2 * H], array[:H], array[2 * H :]])


def gates_iofc(array: np.ndarray, H: int) -> np.ndarray:
    """Reorder gates along the first axis from PyTorch's i, f, g, o to ONNX's i, o, f, c."""
    return np.concatenate([array[:H], array[3 * H :], array[H : 3 * H]])


def layer_arrays(cell: Cell, tensors: dict[str, np.ndarray], layer: int) -> tuple[np.ndarray, ...]:
    """W (D, G·H, I), R (D, G·H, H), b_ih and b_hh (D, G·H) of one layer, gates in ONNX's order."""
    order = gates_iofc if cell.unit == "lstm" else gates_zrh
    suffixes = [f"l{layer}", f"l{layer}_reverse"][: cell.D]
    return tuple(
        np.stack([order(tensors[f"{name}_{suffix}"], cell.H) for suffix in suffixes])
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )


def build(cell: Cell, tensors: dict[str, np.ndarray], reset: str, sequence_output: bool = True) -> bytes:
    """Serialise the model: inputs x (T, B, I), h0 (L·D, B, H); outputs y, h_n (L·D, B, H). LSTM: c0, c_n as well.

    y is (T, B, H) for one direction and (T, 2, B, H) for two: the operator's own result, not copied once
    more. With `sequence_output=False` (one step) h_n alone is produced.
    """
    from onnx import TensorProto, checker, helper, numpy_helper

    nodes, weights = [], []
    lstm = cell.unit == "lstm"
    letters = ("h", "c") if lstm else ("h",)
    finals: dict[str, list[str]] = {letter: [] for letter in letters}
    form: dict[str, object] = {} if lstm else {"linear_before_reset": int(reset == "after")}

    def constant(name: str, array: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    x = "x"
    for layer in range(cell.L):
        w, r, b_ih, b_hh = layer_arrays(cell, tensors, layer)
        begins = [f"{letter}0" for letter in letters]
        if cell.L > 1:
            begin = constant(f"begin_{layer}", np.array([layer * cell.D]))
            end = constant(f"end_{layer}", np.array([(layer + 1) * cell.D]))
            axis = constant(f"axis_{layer}", np.array([0]))
            begins = [f"{letter}0_{layer}" for letter in letters]
            for letter, name in zip(letters, begins, strict=True):
                nodes.append(helper.make_node("Slice", [f"{letter}0", begin, end, axis], [name]))
        last = layer == cell.L - 1
        y = f"y_{layer}"
        ends = [f"{letter}_n" if cell.L == 1 else f"{letter}_n_{layer}" for letter in letters]
        for letter, name in zip(letters, ends, strict=True):
            finals[letter].append(name)
        arguments = [constant(f"{name}_{layer}", array) for name, array in
                     (("W", w), ("R", r), ("b", np.concatenate([b_ih, b_hh], axis=1)))]  # fmt: skip
        wanted = ["y" if last and cell.D == 2 else y, *ends] if sequence_output or not last else ["", *ends]
        nodes.append(
            helper.make_node(
                cell.unit.upper(), [x, *arguments, "", *begins], wanted, hidden_size=cell.H,
                direction="bidirectional" if cell.D == 2 else "forward", **form,
            )
        )  # fmt: skip
        if cell.D == 1 and (sequence_output or not last):
            x = "y" if last else f"x_{layer + 1}"
            nodes.append(helper.make_node("Squeeze", [y, constant(f"axes_{layer}", np.array([1]))], [x]))
        elif cell.D == 2 and not last:  # (T, 2, B, H) → (T, B, 2H)
            x = f"x_{layer + 1}"
            nodes.append(helper.make_node("Transpose", [y], [f"side_{layer}"], perm=[0, 2, 1, 3]))
            shape = constant(f"shape_{layer}", np.array([cell.T, cell.B, 2 * cell.H]))
            nodes.append(helper.make_node("Reshape", [f"side_{layer}", shape], [x]))
    if cell.L > 1:
        for letter in letters:
            nodes.append(helper.make_node("Concat", finals[letter], [f"{letter}_n"], axis=0))

    state = [cell.L * cell.D, cell.B, cell.H]
    sequence = [cell.T, cell.B, cell.H] if cell.D == 1 else [cell.T, 2, cell.B, cell.H]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, sequence)] if sequence_output else []
    graph = helper.make_graph(
        nodes, cell.unit,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [cell.T, cell.B, cell.I]),
         *(helper.make_tensor_value_info(f"{letter}0", TensorProto.FLOAT, state) for letter in letters)],
        [*outputs, *(helper.make_tensor_value_info(f"{letter}_n", TensorProto.FLOAT, state) for letter in letters)],
        weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    checker.check_model(model)
    return model.SerializeToString()


def batch_first(y: np.ndarray, cell: Cell) -> np.ndarray:
    """y of the model, (T, B, H) or (T, 2, B, H), as (B, T, D·H)."""
    if cell.D == 1:
        return y.transpose(1, 0, 2)
    return y.transpose(2, 0, 1, 3).reshape(cell.B, cell.T, 2 * cell.H)
