"""Long short-term memory, plain, with peepholes, or projected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from ..arrays import flag, float32, mapping, number, sequence
from ..errors import CgruError, ShapeError
from ..spec.cells import CELLS
from .base import called
from .conventions import keras_activation, keras_arrays, plain, stacked, tf_kernel
from .recurrent import Recurrent


class LSTM(Recurrent):
    """Long short-term memory, stacked and bidirectional as torch.nn.LSTM is.

    The equations are :func:`cgru.reference.lstm`, :func:`cgru.reference.lstm_projected` where there is a
    ``weight_hr_l0`` (P, H) (torch's proj_size), :func:`cgru.reference.lstm_peephole` where there is a
    ``weight_ph_l0`` (3·H,) (ONNX' P, stacked i, f, o), and :func:`cgru.reference.lstm_peephole_projected` where there
    are both. The gates are stacked i, f, g, o. Calling it has torch's
    meaning: ``out, (h_n, c_n) = lstm(x, (h0, c0))``. ``activation`` is the candidate's, and that of c on its way out.
    """

    kind = "lstm"
    TORCH = ("LSTM", "LSTMCell")
    GATES = ("i", "f", "g", "o")
    LETTERS: ClassVar[dict[str, str]] = {"i": "i", "f": "f", "g": "g", "c": "g", "j": "g", "o": "o"}

    def __init__(self, arrays: Mapping[str, Any], **options: Any) -> None:
        stems = {key.partition("_l")[0] for key in mapping(arrays, called(options.get("name"), self.kind))}
        extra = ("_peephole" if "weight_ph" in stems else "") + ("_projected" if "weight_hr" in stems else "")
        self.cell = CELLS["lstm" + extra]
        super().__init__(arrays, **options)

    @classmethod
    def from_keras(
        cls,
        weights: Any,
        *,
        backward: Sequence[Any] | None = None,
        keras_version: int | None = None,
        name: str | None = None,
        **options: Any,
    ) -> Self:
        """From Keras' ``[kernel (I, 4H), recurrent_kernel (H, 4H), bias (4H,)]``, gates i, f, c, o by columns.

        Leave the bias out where ``use_bias=False``; ``backward`` holds the second direction of a Bidirectional wrapper.
        ``keras_version`` and live layers are as for :class:`GRU`.
        """
        live = cls._keras(weights, ("LSTM", "LSTMCell"), ("recurrent_activation",))
        if live is not None:
            return live if name is None else live.renamed(name)
        where = called(name, cls.kind)
        arrays = keras_arrays(weights, backward, 1, where)
        for key in ("activation", "recurrent_activation"):
            if key in options:
                options[key] = keras_activation(options[key], keras_version, where)
        return cls(arrays, bidirectional=backward is not None, name=name, **options)

    @classmethod
    def from_arrays(
        cls,
        w_ih: Any,
        w_hh: Any = None,
        b_ih: Any = None,
        b_hh: Any = None,
        *,
        gates: str = "ifgo",
        peepholes: Any = None,
        w_hr: Any = None,
        forget_bias: float = 0.0,
        bidirectional: bool = False,
        **options: Any,
    ) -> Self:
        """From arrays in any of the field's conventions; a list of each for a stack, in the order layer·D + direction.

        ``w_ih`` (4H, I), ``w_hh`` (4H, H), ``b_ih`` and ``b_hh`` (4H,) or None. ``gates`` is the order of the blocks
        of rows: "ifgo" for PyTorch and Keras, "iofc" for ONNX, "ijfo" for TensorFlow 1, whose ``forget_bias`` (1 by
        default there) is added to what goes into f. ``peepholes`` (3H,) are in the order of ``gates`` without the
        candidate, as ONNX has them. ``w_hr`` (P, H) projects what is emitted; ``w_hh`` is (4H, P) then.
        """
        where = called(options.get("name"), cls.kind)
        bidirectional = flag(bidirectional, f"{where}: bidirectional")
        given = {"weight_ih": (w_ih, 2), "weight_hh": (w_hh, 2), "bias_ih": (b_ih, 1), "bias_hh": (b_hh, 1)}
        given |= {"weight_ph": (peepholes, 1), "weight_hr": (w_hr, 2)}
        arrays, layers = stacked(given, 2 if bidirectional else 1, where)
        beside = {key: rows for key, rows in arrays.items() if key.startswith(("weight_ph", "weight_hr"))}
        arrays = cls._in_order({key: rows for key, rows in arrays.items() if key not in beside}, gates, where)
        forget_bias = number(forget_bias, f"{where}: forget_bias")
        if not np.isfinite(forget_bias):
            raise CgruError(f"{where}: forget_bias={forget_bias} is no finite number")
        if forget_bias:
            for key in [key for key in arrays if key.startswith("weight_ih")]:
                bias = "bias_ih" + key.removeprefix("weight_ih")
                rows = np.array(arrays.get(bias, np.zeros(len(arrays[key]), np.float32)))
                units, place = len(rows) // 4, cls.GATES.index("f")
                rows[place * units : (place + 1) * units] += np.float32(forget_bias)
                arrays[bias] = rows
        for key, rows in beside.items():
            if key.startswith("weight_ph"):
                seen = [cls.LETTERS[letter] for letter in gates.lower() if cls.LETTERS[letter] != "g"]
                blocks = dict(zip(seen, np.array_split(rows, 3), strict=True))
                rows = np.concatenate([blocks[gate] for gate in "ifo"])
            arrays[key] = rows
        return cls(arrays, num_layers=layers, bidirectional=bidirectional, **options)

    @classmethod
    def from_tf(
        cls,
        kernel: Any,
        bias: Any = None,
        *,
        forget_bias: float = 1.0,
        peepholes: Sequence[Any] | None = None,
        projection: Any = None,
        activation: str = "tanh",
        name: str | None = None,
    ) -> Self:
        """From the variables of TensorFlow 1's BasicLSTMCell or LSTMCell.

        ``kernel`` (I + H, 4H), or (I + P, 4H) with a ``projection`` (H, P), on [x, h], gates i, j, f, o by columns, and
        ``bias`` (4H,). ``peepholes`` are w_i_diag, w_f_diag and w_o_diag, (H,) each. ``forget_bias`` is the cell's, 1
        unless it was made with another. A cell that clips (cell_clip, proj_clip) is none of cgru's.
        Source: tensorflow/python/ops/rnn_cell_impl.py.
        """
        where = called(name, cls.kind)
        matrix, projected = float32(plain(kernel), f"{where}: kernel", 2), None
        hidden = matrix.shape[1] // 4
        if projection is not None:
            projected = float32(plain(projection), f"{where}: projection", 2)
            if projected.shape[0] != hidden:
                raise ShapeError(f"{where}: projection has shape {projected.shape}, expected ({hidden}, P)")
        w_ih, w_hh = tf_kernel(matrix, hidden if projected is None else projected.shape[1], 4, where, "kernel")
        diagonals = None
        if peepholes is not None:
            parts = sequence(peepholes, f"{where}: peepholes", "[w_i_diag, w_f_diag, w_o_diag]")
            if len(parts) != 3:
                raise ShapeError(f"{where}: peepholes: expected w_i_diag, w_f_diag and w_o_diag, found {len(parts)}")
            diagonals = np.concatenate([float32(plain(part), f"{where}: peepholes", 1) for part in parts])
        return cls.from_arrays(
            w_ih, w_hh, bias, gates="ijfo", peepholes=diagonals, forget_bias=forget_bias, activation=activation,
            w_hr=None if projected is None else projected.T, name=name,
        )  # fmt: skip

    def describe(self) -> str:
        words = super().describe()
        if self.emitted_size != self.hidden_size or "weight_hr" in self.cell.arrays:
            words += f", projected to {self.emitted_size}"
        return words + (", peepholes" if "weight_ph" in self.cell.arrays else "")
