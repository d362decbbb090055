"""The simple recurrent network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from ..errors import CgruError
from ..spec import activations
from ..spec.cells import CELLS
from .base import called
from .conventions import keras_activation, keras_arrays
from .recurrent import Recurrent


class RNN(Recurrent):
    """The simple recurrent network, stacked and bidirectional as torch.nn.RNN is: h' = φ(W x + b + R h + d).

    The equation is :func:`cgru.reference.rnn`; φ is the ``nonlinearity``, "tanh", "relu" or another activation.
    Calling it has torch's meaning: ``out, h_n = rnn(x, h0)``.
    """

    kind = "rnn"
    TORCH = ("RNN", "RNNCell")
    GATES = ("h",)
    LETTERS: ClassVar[dict[str, str]] = {"h": "h"}
    OPTIONS = tuple(key for key in Recurrent.OPTIONS if key != "recurrent_activation")

    def __init__(self, arrays: Mapping[str, Any], *, nonlinearity: str | None = None, **options: Any) -> None:
        where = called(options.get("name"), self.kind)
        given = options.setdefault("activation", "tanh" if nonlinearity is None else nonlinearity)
        if nonlinearity is not None and activations.check(nonlinearity, where) != activations.check(given, where):
            raise CgruError(f"{where}: nonlinearity={nonlinearity!r} and activation={options['activation']!r} differ")
        self.cell = CELLS["rnn"]
        super().__init__(arrays, **options)

    @property
    def nonlinearity(self) -> str:
        """Its activation, by torch's name for the option."""
        return self.activation

    @classmethod
    def from_parts(cls, name: str, options: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        renamed = {"activation" if key == "nonlinearity" else key: value for key, value in options.items()}
        return super().from_parts(name, renamed, arrays)

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
        """From Keras' SimpleRNN: ``[kernel (I, H), recurrent_kernel (H, H), bias (H,)]``, as for :class:`GRU`."""
        live = cls._keras(weights, ("SimpleRNN", "SimpleRNNCell"), ())
        if live is not None:
            return live if name is None else live.renamed(name)
        where = called(name, cls.kind)
        arrays = keras_arrays(weights, backward, 1, where)
        for key in ("activation", "recurrent_activation"):
            if key in options:
                options[key] = keras_activation(options[key], keras_version, where)
        return cls(arrays, bidirectional=backward is not None, name=name, **options)

    def describe(self) -> str:
        return super().describe().removesuffix(" / sigmoid") + (", tanh" if self.activation == "tanh" else "")
