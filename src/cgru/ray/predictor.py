"""Datasets: a column of sequences through a network, on every node of a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .. import arrays
from ..archive.batches import run
from ..archive.columns import sequences, to_column
from ..engine import one_array
from ..engine.model import Model
from ..errors import ArgumentTypeError, CgruError
from .shipping import received, ship


def predict(
    dataset: Any,
    net: Model,
    *,
    column: str = "x",
    output: str = "y",
    lengths: str | None = None,
    keep: Sequence[str] | None = None,
    workers: int | tuple[int, int] = 1,
    rows: int = 1024,
    **options: Any,
) -> Any:
    """``dataset`` (a ``ray.data.Dataset``) with the outputs of ``net`` in a new column, as :class:`Predictor` makes it.

    ``keep`` names the other columns that go along, all of them by default: a column of inputs that nobody needs behind
    the network is most of what Ray would move. ``workers`` actors, or (least, most), each on one core; ``rows`` a
    batch. ``options`` are those of ``Dataset.map_batches``. Lazy, as everything of Ray Data.
    """
    return dataset.map_batches(
        Predictor,
        fn_constructor_args=(ship(net),),
        fn_constructor_kwargs={"column": column, "output": output, "lengths": lengths, "keep": keep},
        concurrency=workers,
        batch_size=rows,
        batch_format="pyarrow",
        **{"num_cpus": 1, **options},
    )


class Predictor:
    """For ``Dataset.map_batches``: batches with a column of sequences → the same with their outputs.

    ``column`` holds sequences (T, I), or ids (T,), of any lengths: lists as :mod:`cgru.archive.columns` says, or Ray's
    tensors, all of one shape or not. ``lengths`` names a column of how many steps of each count, where they were padded
    to one shape; outputs are as long as that. Other columns, such as ids, pass as they are; with ``keep`` those that it
    names do. Each output has the bits of ``net(x)``, however the dataset is cut up and wherever it runs.

    ``batch_format`` may be "pyarrow" or "numpy". Raises :class:`CgruError` for a row that does not fit.
    """

    def __init__(
        self,
        net: Any,
        *,
        column: str = "x",
        output: str = "y",
        lengths: str | None = None,
        keep: Sequence[str] | None = None,
    ) -> None:
        self.net = received(net)
        one_array.check(self.net, "cgru.ray.Predictor")
        if isinstance(keep, str):
            raise ArgumentTypeError(f"keep: expected a list of columns' names, found the text {keep[:80]!r}")
        self.column, self.output, self.lengths = column, output, lengths
        self.keep = None if keep is None else list(keep)

    def __call__(self, batch: Any) -> Any:
        named = batch.column_names if not isinstance(batch, dict) else list(batch)
        for name in (self.column, *([self.lengths] if self.lengths else []), *(self.keep or ())):
            if name not in named:
                raise CgruError(f"no column is named {name!r}; there are {', '.join(named)}")
        if self.output in (named if self.keep is None else self.keep):
            raise CgruError(f"there is a column {self.output!r} already; name the outputs otherwise (output=)")
        outputs = [y for _, y in run(self.net, enumerate(self._sequences(batch)), 1)]
        if isinstance(batch, dict):
            made = np.empty(len(outputs), object)
            made[:] = outputs
            return {**{name: batch[name] for name in (named if self.keep is None else self.keep)}, self.output: made}
        if self.keep is not None:
            batch = batch.select(self.keep)
        width = self.net.output_size or self.net.input_size
        return batch.append_column(self.output, to_column(outputs, width, last=self.net.gives_last))

    def _sequences(self, batch: Any) -> Iterator[np.ndarray]:
        counts: Any = None
        if self.lengths is not None:
            counts = batch[self.lengths]
            counts = np.asarray(counts if isinstance(batch, dict) else counts.to_numpy())
        for at, x in enumerate(self._column(batch)):
            yield x if counts is None else x[: int(arrays.lengths(counts[at : at + 1], 1, len(x))[0])]  # type: ignore[index]

    def _column(self, batch: Any) -> Iterator[np.ndarray]:
        found = batch[self.column]
        if isinstance(batch, dict):
            yield from found
            return
        chunks = found.chunks if hasattr(found, "chunks") else [found]
        for chunk in chunks:
            if hasattr(chunk.type, "extension_name"):  # Ray's tensors, of one shape or of several
                yield from chunk.to_numpy_ndarray() if hasattr(chunk, "to_numpy_ndarray") else chunk.to_numpy()
            else:
                yield from sequences(chunk, self.net)


