"""Long short-term memory, plain, with peepholes, or projected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from ..arrays import flag, mapping
from ..errors import UnsupportedError
from ..spec.cells import CELLS
from .base import called
from .conventions import keras_activation, keras_arrays, stacked
from .recurrent import Recurrent


class LSTM(Recurrent):
    """Long short-term memory, stacked and bidirectional as torch.nn.LSTM is.

    The equations are :func:`cgru.reference.lstm`, :func:`cgru.reference.lstm_projected` where there is a
    ``weight_hr_l0`` (P, H) (torch's proj_size), and :func:`cgru.reference.lstm_peephole` where there is a
    ``weight_ph_l0`` (3·H,) (ONNX' P, stacked i, f, o). The gates are stacked i, f, g, o. Calling it has torch's
    meaning: ``out, (h_n, c_n) = lstm(x, (h0, c0))``. ``activation`` is the candidate's, and that of c on its way out.
    """

    kind = "lstm"
    TORCH = ("LSTM", "LSTMCell")
    GATES = ("i", "f", "g", "o")
    LETTERS: ClassVar[dict[str, str]] = {"i": "i", "f": "f", "g": "g", "c": "g", "o": "o"}

    def __init__(self, arrays: Mapping[str, Any], **options: Any) -> None:
        stems = {key.partition("_l")[0] for key in mapping(arrays, called(options.get("name"), self.kind))}
        if {"weight_hr", "weight_ph"} <= stems:
            where = called(options.get("name"), self.kind)
            raise UnsupportedError(f"{where}: an LSTM with both a projection and peepholes is not run")
        extra = "_projected" if "weight_hr" in stems else "_peephole" if "weight_ph" in stems else ""
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
        bidirectional: bool = False,
        **options: Any,
    ) -> Self:
        """From arrays in any of the field's conventions; a list of each for a stack, in the order layer·D + direction.

        ``w_ih`` (4H, I), ``w_hh`` (4H, H), ``b_ih`` and ``b_hh`` (4H,) or None. ``gates`` is the order of the blocks
        of rows: "ifgo" for PyTorch and Keras, "iofc" for ONNX. ``peepholes`` (3H,) are in the order of ``gates``
        without the candidate, as ONNX has them. ``w_hr`` (P, H) projects what is emitted; ``w_hh`` is (4H, P) then.
        """
        where = called(options.get("name"), cls.kind)
        bidirectional = flag(bidirectional, f"{where}: bidirectional")
        given = {"weight_ih": (w_ih, 2), "weight_hh": (w_hh, 2), "bias_ih": (b_ih, 1), "bias_hh": (b_hh, 1)}
        given |= {"weight_ph": (peepholes, 1), "weight_hr": (w_hr, 2)}
        arrays, layers = stacked(given, 2 if bidirectional else 1, where)
        beside = {key: rows for key, rows in arrays.items() if key.startswith(("weight_ph", "weight_hr"))}
        arrays = cls._in_order({key: rows for key, rows in arrays.items() if key not in beside}, gates, where)
        for key, rows in beside.items():
            if key.startswith("weight_ph"):
                seen = [cls.LETTERS[letter] for letter in gates.lower() if cls.LETTERS[letter] != "g"]
                blocks = dict(zip(seen, np.array_split(rows, 3), strict=True))
                rows = np.concatenate([blocks[gate] for gate in "ifo"])
            arrays[key] = rows
        return cls(arrays, num_layers=layers, bidirectional=bidirectional, **options)

    def describe(self) -> str:
        words = super().describe()
        if self.emitted_size != self.hidden_size or self.cell.name == "lstm_projected":
            words += f", projected to {self.emitted_size}"
        return words + (", peepholes" if self.cell.name == "lstm_peephole" else "")
