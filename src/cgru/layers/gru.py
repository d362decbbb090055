"""The gated recurrent unit, in every form the field uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from ..arrays import brief, flag, float32
from ..errors import ShapeError, UnsupportedError
from ..spec.cells import CELLS
from .base import called
from .conventions import keras_activation, keras_arrays, plain, tf_kernel
from .recurrent import Recurrent


class GRU(Recurrent):
    """Gated recurrent unit, stacked and bidirectional as torch.nn.GRU is.

    The equations are :func:`cgru.reference.gru_reset_after` (``reset="after"``: PyTorch, Keras' default) and
    :func:`cgru.reference.gru_reset_before` (``reset="before"``: Cho et al. 2014, ONNX' default). The gates are
    stacked r, z, n, and z is the fraction of the old state that is kept; the constructors bring other
    conventions into that form. Calling it has torch's meaning: ``out, h_n = gru(x, h0)``.
    """

    kind = "gru"
    TORCH = ("GRU", "GRUCell")
    GATES = ("r", "z", "n")
    LETTERS: ClassVar[dict[str, str]] = {"r": "r", "z": "z", "u": "z", "n": "n", "h": "n", "c": "n", "a": "n"}
    OPTIONS = tuple(sorted((*Recurrent.OPTIONS, "reset")))

    def __init__(self, arrays: Mapping[str, Any], *, reset: str = "after", **options: Any) -> None:
        if not isinstance(reset, str) or reset not in ("after", "before"):
            where = called(options.get("name"), self.kind)
            raise UnsupportedError(f"{where}: reset={brief(reset)} is neither 'after' nor 'before'")
        self.reset = reset
        self.cell = CELLS[f"gru_reset_{reset}"]
        super().__init__(arrays, **options)

    @classmethod
    def from_keras(
        cls,
        weights: Any,
        *,
        reset_after: bool = True,
        activation: str = "tanh",
        recurrent_activation: str = "sigmoid",
        backward: Sequence[Any] | None = None,
        merge_mode: str | None = "concat",
        return_sequences: bool = True,
        go_backwards: bool = False,
        zero_output_for_mask: bool = False,
        keras_version: int | None = None,
        name: str | None = None,
    ) -> Self:
        """From Keras' ``[kernel (I, 3H), recurrent_kernel (H, 3H), bias]``, gates z, r, h by columns.

        ``bias`` is (2, 3H) with ``reset_after``, else (3H,); leave it out where ``use_bias=False``. ``backward``
        holds the second direction of a Bidirectional wrapper. ``keras_version`` (1, 2 or 3) is needed where an
        activation is "hard_sigmoid", which Keras 3 gave another meaning. ``weights`` may be a live GRU layer, or a
        Bidirectional of one, which says all of this itself.
        """
        live = cls._keras(weights, ("GRU", "GRUCell"), ("recurrent_activation", "reset_after"))
        if live is not None:
            return live if name is None else live.renamed(name)
        where = called(name, cls.kind)
        reset_after = flag(reset_after, f"{where}: reset_after")
        arrays = keras_arrays(weights, backward, 2 if reset_after else 1, where)
        arrays = cls._in_order(arrays, "zrn", where)
        return cls(
            arrays,
            reset="after" if reset_after else "before",
            activation=keras_activation(activation, keras_version, where),
            recurrent_activation=keras_activation(recurrent_activation, keras_version, where),
            bidirectional=backward is not None,
            merge_mode=merge_mode,
            return_sequences=return_sequences,
            go_backwards=go_backwards,
            zero_output_for_mask=zero_output_for_mask,
            name=name,
        )

    @classmethod
    def from_tf(
        cls,
        gate_kernel: Any,
        gate_bias: Any,
        candidate_kernel: Any,
        candidate_bias: Any,
        *,
        activation: str = "tanh",
        name: str | None = None,
    ) -> Self:
        """From the variables of TensorFlow 1's GRUCell: gates/kernel (I + H, 2H), gates/bias (2H,), r and u by columns,
        candidate/kernel (I + H, H) and candidate/bias (H,), all on [x, h].

        Source: tensorflow/python/ops/rnn_cell_impl.py.
        """
        where = called(name, cls.kind)
        gates, candidate = (
            float32(plain(array), f"{where}: {what}", 2)
            for array, what in ((gate_kernel, "gate_kernel"), (candidate_kernel, "candidate_kernel"))
        )
        hidden = candidate.shape[1]
        if gates.shape != (candidate.shape[0], 2 * hidden):
            raise ShapeError(
                f"{where}: gate_kernel has shape {gates.shape}, expected {(candidate.shape[0], 2 * hidden)} beside a "
                f"candidate_kernel of shape {candidate.shape}"
            )
        parts = [tf_kernel(gates, hidden, 2, where, "gate_kernel"),
                 tf_kernel(candidate, hidden, 1, where, "candidate_kernel")]  # fmt: skip
        biases = [float32(plain(array), f"{where}: {what}", 1)
                  for array, what in ((gate_bias, "gate_bias"), (candidate_bias, "candidate_bias"))]  # fmt: skip
        w_ih, w_hh = (np.concatenate(side) for side in zip(*parts, strict=True))
        return cls.from_arrays(
            w_ih, w_hh, np.concatenate(biases), gates="run", reset="before", activation=activation, name=name
        )

    def describe(self) -> str:
        return super().describe() + f", reset {self.reset}"
