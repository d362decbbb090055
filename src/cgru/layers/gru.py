"""The gated recurrent unit, in every form the field uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from ..activations import COMPLEMENTARY
from ..arrays import float32
from ..cells import CELLS
from ..errors import CgruError, ShapeError, UnsupportedError
from .recurrent import Recurrent, plain, torch_stack

#: Letters files and texts use for the three gates → the canonical ones.
_GATE_LETTERS = {"r": "r", "z": "z", "u": "z", "n": "n", "h": "n", "c": "n", "a": "n"}


class GRU(Recurrent):
    """Gated recurrent unit, stacked and bidirectional as torch.nn.GRU is.

    The equations are :func:`cgru.reference.gru_reset_after` (``reset="after"``: PyTorch, Keras' default) and
    :func:`cgru.reference.gru_reset_before` (``reset="before"``: Cho et al. 2014, ONNX' default). The gates are
    stacked r, z, n, and z is the fraction of the old state that is kept; the constructors bring other
    conventions into that form. Calling it has torch's meaning: ``out, h_n = gru(x, h0)``.
    """

    kind = "gru"
    OPTIONS = tuple(sorted((*Recurrent.OPTIONS, "reset")))

    def __init__(self, arrays: Mapping[str, Any], *, reset: str = "after", **options: Any) -> None:
        if reset not in ("after", "before"):
            where = options.get("name") or self.kind
            raise UnsupportedError(f"{where}: reset={reset!r} is neither 'after' nor 'before'")
        self.reset = reset
        self.cell = CELLS[f"gru_reset_{reset}"]
        super().__init__(arrays, **options)

    @classmethod
    def from_torch(cls, tensors: Mapping[str, Any], prefix: str = "", *, name: str | None = None) -> Self:
        """From the ``state_dict()`` of a torch.nn.GRU or GRUCell, or of a module that holds it at ``prefix``.

        Raises :class:`FormatError` where a tensor below the prefix is missing or is nothing of a GRU's.
        """
        where = name or (prefix.rstrip(".") or cls.kind)
        arrays, layers, both = torch_stack(tensors, prefix, where)
        return cls(arrays, num_layers=layers, bidirectional=both, name=name)

    @classmethod
    def from_keras(
        cls,
        weights: Sequence[Any],
        *,
        reset_after: bool = True,
        activation: str = "tanh",
        recurrent_activation: str = "sigmoid",
        backward: Sequence[Any] | None = None,
        merge_mode: str | None = "concat",
        return_sequences: bool = True,
        go_backwards: bool = False,
        zero_output_for_mask: bool = False,
        name: str | None = None,
    ) -> Self:
        """From Keras' ``[kernel (I, 3H), recurrent_kernel (H, 3H), bias]``, gates z, r, h by columns.

        ``bias`` is (2, 3H) with ``reset_after``, else (3H,); leave it out where ``use_bias=False``. ``backward``
        holds the second direction of a Bidirectional wrapper.
        """
        where = name or cls.kind
        arrays: dict[str, Any] = {}
        for suffix, parts in (("_l0", weights), ("_l0_reverse", backward)):
            if parts is None:
                continue
            if len(parts) not in (2, 3):
                raise ShapeError(f"{where}: expected [kernel, recurrent_kernel, bias], found {len(parts)} arrays")
            kernel = float32(plain(parts[0]), f"{where}: kernel", 2)
            recurrent = float32(plain(parts[1]), f"{where}: recurrent_kernel", 2)
            arrays["weight_ih" + suffix] = _reorder(kernel.T, "zrn", f"{where}: kernel")
            arrays["weight_hh" + suffix] = _reorder(recurrent.T, "zrn", f"{where}: recurrent_kernel")
            if len(parts) == 3 and parts[2] is not None:
                bias = float32(plain(parts[2]), f"{where}: bias", 2 if reset_after else 1)
                if bias.shape != ((2, kernel.shape[1]) if reset_after else (kernel.shape[1],)):
                    raise ShapeError(
                        f"{where}: bias has shape {bias.shape}, which does not fit reset_after={reset_after} "
                        f"and a kernel of shape {kernel.shape}"
                    )
                rows = bias if reset_after else bias[None]
                for stem, row in zip(("bias_ih", "bias_hh"), rows, strict=False):
                    arrays[stem + suffix] = _reorder(row, "zrn", f"{where}: bias")
        return cls(
            arrays,
            reset="after" if reset_after else "before",
            activation=activation,
            recurrent_activation=recurrent_activation,
            bidirectional=backward is not None,
            merge_mode=merge_mode,
            return_sequences=return_sequences,
            go_backwards=go_backwards,
            zero_output_for_mask=zero_output_for_mask,
            name=name,
        )

    @classmethod
    def from_arrays(
        cls,
        w_ih: Any,
        w_hh: Any,
        b_ih: Any = None,
        b_hh: Any = None,
        *,
        gates: str = "rzn",
        reset: str = "after",
        update: str = "keep",
        bidirectional: bool = False,
        **options: Any,
    ) -> Self:
        """From arrays in any of the field's conventions.

        ``w_ih`` (3H, I), ``w_hh`` (3H, H), ``b_ih`` and ``b_hh`` (3H,) or None; for a stack, a list of each in
        the order layer·D + direction. ``gates`` is the order of the blocks of rows. ``update="keep"`` means
        h' = z·h + (1−z)·n, ``"write"`` the opposite, h' = (1−z)·h + z·n; a write gate is turned into a keep
        gate here, by negating its weights and biases, since σ(−a) = 1 − σ(a).
        """
        where = options.get("name") or cls.kind
        if update not in ("keep", "write"):
            raise UnsupportedError(f"{where}: update={update!r} is neither 'keep' nor 'write'")
        rate = options.get("recurrent_activation", "sigmoid")
        if update == "write" and rate not in COMPLEMENTARY:
            raise UnsupportedError(
                f"{where}: update='write' needs a gate activation with f(−a) = 1 − f(a), and {rate!r} is none"
            )
        groups = {"weight_ih": _listed(w_ih, 2), "weight_hh": _listed(w_hh, 2)}
        biases = {"bias_ih": b_ih, "bias_hh": b_hh}
        groups |= {stem: _listed(value, 1) for stem, value in biases.items() if value is not None}
        count = len(groups["weight_ih"])
        directions = 2 if bidirectional else 1
        if count == 0 or count % directions or any(len(group) != count for group in groups.values()):
            sizes = ", ".join(f"{len(group)} of {stem}" for stem, group in groups.items())
            raise ShapeError(f"{where}: found {sizes}; expected equally many, {directions} for each layer")
        arrays: dict[str, Any] = {}
        for stem, group in groups.items():
            for index, value in enumerate(group):
                suffix = f"_l{index // directions}" + ("_reverse" if index % directions else "")
                rows = float32(plain(value), f"{where}: {stem}{suffix}", 2 if stem.startswith("weight") else 1)
                rows = _reorder(rows, gates, f"{where}: {stem}{suffix}")
                if update == "write":
                    r, z, n = np.split(rows, 3)
                    rows = np.concatenate([r, -z, n])
                arrays[stem + suffix] = rows
        return cls(arrays, reset=reset, num_layers=count // directions, bidirectional=bidirectional, **options)

    def describe(self) -> str:
        return super().describe() + f", reset {self.reset}"


def _reorder(rows: np.ndarray, gates: str, where: str) -> np.ndarray:
    """Blocks of rows in the order ``gates`` → the canonical order r, z, n."""
    order = [_GATE_LETTERS.get(letter) for letter in gates.lower()] if isinstance(gates, str) else []
    if sorted(map(str, order)) != ["n", "r", "z"]:
        raise CgruError(f"{where}: gates={gates!r} does not name the reset, update and candidate blocks, as 'rzn' does")
    if rows.shape[0] % 3:
        raise ShapeError(f"{where}: {rows.shape[0]} rows do not split into three gates")
    blocks = dict(zip(order, np.split(rows, 3), strict=True))
    return np.concatenate([blocks["r"], blocks["z"], blocks["n"]])


def _listed(value: Any, ndim: int) -> list[Any]:
    """A list of arrays: the one given, or the several."""
    if isinstance(value, (list, tuple)) and len(value) and np.ndim(plain(value[0])) == ndim:
        return list(value)
    array = plain(value)
    return list(array) if np.ndim(array) == ndim + 1 else [array]
