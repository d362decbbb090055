"""Columns of sequences in Parquet and Arrow: lists of numbers in, lists of numbers out.

A sequence is a list of steps, each a list of I numbers (``list<list<float>>`` or ``list<fixed_size_list<float>[I]>``);
or one list of T·I numbers, step after step (``list<float>``). Token ids are ``list<int>``. Outputs are
``list<fixed_size_list<float>[O]>``, or ``fixed_size_list<float>[O]`` where the network gives its last output alone.
Needs ``pip install "cgru[arrow]"``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..engine import one_array
from ..engine.model import Model
from ..errors import CgruError, FormatError, UnsupportedError
from .batches import admit, run
from .folders import Tally, write_whole
from .progress import Progress

#: Rows that are read, run and written at a time; a run that was stopped goes on from the last of them.
PART = 8192


def pyarrow() -> Any:
    """The package, or an error that says how to install it."""
    try:
        import pyarrow as found
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError as error:
        raise UnsupportedError(f'Parquet and Arrow need pyarrow ({error}): pip install "cgru[arrow]"') from error
    return found


def sequences(column: Any, net: Model) -> Iterator[np.ndarray]:
    """The sequences of a column, views of its memory where it can be. Raises :class:`CgruError` for null ones."""
    pa = pyarrow()
    if isinstance(column, pa.ChunkedArray):
        for chunk in column.chunks:
            yield from sequences(chunk, net)
        return
    if not isinstance(column, pa.Array):
        raise UnsupportedError(f"dataset: expected a pyarrow column of lists, found {type(column).__name__}")
    rows = _Rows(pa, column, net)
    for at in range(len(column)):
        yield rows[at]


class _Rows:
    """The sequences of an array of lists: views of its numbers, unless something about them needs a look at each."""

    def __init__(self, pa: Any, column: Any, net: Model) -> None:
        self._pa, self._column, self._net = pa, column, net
        self._plain = _plain(pa, column, net)

    def __getitem__(self, at: int) -> np.ndarray:
        if self._plain is None:
            return _sequence(self._pa, self._column, at, self._net)
        values, ends = self._plain
        return values[ends[at] : ends[at + 1]]


def _plain(pa: Any, column: Any, net: Model) -> tuple[np.ndarray, np.ndarray] | None:
    """All steps of all rows (S, I), or ids (S,), and where each row ends; None where a row could be wrong."""
    if not len(column) or not _is_list(pa, column.type) or column.null_count:
        return None
    ends = np.cumsum(column.value_lengths().to_numpy(zero_copy_only=False))
    values = column.flatten()
    width = None if net.takes_ids else net.input_size
    if _is_list(pa, values.type):
        if not len(values) or values.null_count:
            return None
        widths = values.value_lengths()
        least, most = pa.compute.min_max(widths).values()
        if least != most:
            return None
        width, values = least.as_py(), values.flatten()
    elif width is not None:
        if not width or (ends % width).any():
            return None
        ends = ends // width
    right = pa.types.is_floating(values.type) or (net.takes_ids and pa.types.is_integer(values.type))
    if values.null_count or not right:
        return None
    flat = values.to_numpy(zero_copy_only=False)
    return (flat if width is None else flat.reshape(-1, width)), np.concatenate([[0], ends])


def _sequence(pa: Any, column: Any, at: int, net: Model) -> np.ndarray:
    kind = column.type
    if not _is_list(pa, kind):
        raise UnsupportedError(f"expected a column of lists, found one of {kind}")
    found = column[at]
    if not found.is_valid:
        raise FormatError(f"row {at} is null; leave such rows out, or give them empty lists")
    row = found.values
    shape: tuple[int, ...] = (-1,)
    if _is_list(pa, row.type):
        if row.null_count:
            raise FormatError(f"row {at} has a step that is null")
        widths = np.unique(row.value_lengths().to_numpy(zero_copy_only=False)) if len(row) else [net.input_size]
        if len(widths) != 1:
            raise FormatError(f"row {at} has steps of different numbers of features")
        shape = (len(row), int(widths[0]))
        row = row.flatten()
    elif not net.takes_ids:
        if not net.input_size or len(row) % net.input_size:
            raise FormatError(f"row {at} has {len(row)} numbers, no multiple of {net.input_size} features a step")
        shape = (len(row) // net.input_size, net.input_size)
    if row.null_count:
        raise FormatError(f"row {at} has numbers that are null")
    try:
        values = row.to_numpy(zero_copy_only=False)
    except pa.ArrowException as error:
        raise UnsupportedError(f"row {at}: expected numbers, found {row.type} ({error})") from error
    if not net.takes_ids and values.dtype.kind in "iu":
        raise UnsupportedError(f"row {at}: expected floating-point numbers, found {row.type}; cast the column")
    return values.reshape(shape)


def _is_list(pa: Any, kind: Any) -> bool:
    types = pa.types
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def to_column(outputs: list[np.ndarray | None], width: int, *, last: bool) -> Any:
    """Outputs (T, O), or (O,) with ``last``, as a column; None becomes null."""
    pa = pyarrow()
    missing = np.array([y is None for y in outputs], bool)
    filled = [np.zeros((0, width) if not last else width, np.float32) if y is None else y for y in outputs]
    flat = np.concatenate([y.reshape(-1) for y in filled]) if filled else np.empty(0, np.float32)
    steps = pa.FixedSizeListArray.from_arrays(pa.array(flat), width)
    mask = pa.array(missing) if missing.any() else None
    if last:
        if mask is None:
            return steps
        return pa.FixedSizeListArray.from_arrays(pa.array(flat), width, mask=mask)
    offsets = np.concatenate([[0], np.cumsum([len(y) for y in filled])])
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), steps, mask=mask)


def run_table(
    net: Model,
    source: str,
    target: str,
    *,
    column: str | None = None,
    output: str = "y",
    jobs: int = 1,
    strict: bool = False,
    complain: Callable[[str], None] = print,
) -> Tally:
    """Run a column of a .parquet or .arrow file and write the table with the outputs beside it.

    :data:`PART` rows are in memory at a time; each part is written beside ``target`` as it is done, and a run that was
    stopped goes on from there. A row that cannot be run is told to ``complain`` and its output is null; with ``strict``
    it raises instead.
    """
    pa = pyarrow()
    one_array.check(net, "a run over a column")
    if os.path.realpath(source) == os.path.realpath(target):
        raise CgruError(f"{target}: the output would take the place of the input; give another name")
    schema, rows, batches = _open(pa, source)
    name = _column(pa, schema, column, source)
    if output in schema.names:
        raise CgruError(f"{source}: it has a column {output!r} already; name the outputs otherwise (--output-column)")
    width = net.output_size or net.input_size
    tally = Tally()
    folder = Path(f"{target}.parts")
    _claim_parts(net, folder, source, name, output)
    bar = Progress(rows, "rows")
    parts = []
    first = 0

    def bad(row: int, error: CgruError) -> None:
        said = str(error).partition(" ")[2].partition(" ")[2]  # past "row N", which counts from the part's first
        if strict:
            raise type(error)(f"{source}: row {row} {said}") from error
        tally.bad[f"row {row}"] = said
        complain(f"{source}: row {row} {said}")
        bar.add()

    try:
        for number, batch in enumerate(batches):
            part = folder / f"{number:08}.parquet"
            parts.append(part)
            if part.exists():
                tally.there += batch.num_rows
                bar.before += batch.num_rows
                first += batch.num_rows
                continue
            outputs: list[np.ndarray | None] = [None] * batch.num_rows
            for at, y in run(net, _good(batch.column(name), net, first, bad), jobs):
                if isinstance(y, tuple):
                    raise UnsupportedError(f"{target}: the network gives several arrays a step, which no column holds")
                outputs[at] = y
                tally.run += 1
                bar.add()
            made = pa.Table.from_batches([batch]).append_column(output, to_column(outputs, width, last=net.gives_last))
            sink = pa.BufferOutputStream()
            pa.parquet.write_table(made, sink)
            write_whole(part, memoryview(sink.getvalue()))
            first += batch.num_rows
        _join(pa, parts, Path(target), schema)
    finally:
        bar.close()
    for left in folder.iterdir():
        left.unlink()
    folder.rmdir()
    return tally


def _good(
    column: Any, net: Model, first: int, bad: Callable[[int, CgruError], None]
) -> Iterator[tuple[int, np.ndarray]]:
    """The sequences that can be run, by their rows; ``bad`` is told of the others, counted from ``first``."""
    rows = _Rows(pyarrow(), column, net)
    for at in range(len(column)):
        try:
            x = admit(net, rows[at], f"row {at}")
        except CgruError as error:
            bad(first + at, error)
            continue
        yield at, x


def _open(pa: Any, source: str) -> tuple[Any, int | None, Iterable[Any]]:
    """Schema, rows (None where nobody knows) and record batches of :data:`PART` rows."""
    try:
        if source.endswith(".parquet"):
            file = pa.parquet.ParquetFile(source)
            return file.schema_arrow, file.metadata.num_rows, file.iter_batches(PART)
        mapped = pa.memory_map(source)
        try:
            reader = pa.ipc.open_file(mapped)
            found: Iterable[Any] = (reader.get_batch(i) for i in range(reader.num_record_batches))
        except pa.ArrowInvalid:
            mapped.seek(0)
            reader = found = pa.ipc.open_stream(mapped)
        return reader.schema, None, _resized(pa, found)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise FormatError(f"{source}: no readable {Path(source).suffix} file ({str(error).splitlines()[0]})") from error


def _resized(pa: Any, batches: Iterable[Any]) -> Iterator[Any]:
    """The same rows, :data:`PART` at a time."""
    held: list[Any] = []
    rows = 0
    for batch in batches:
        held.append(batch)
        rows += batch.num_rows
        while rows >= PART:
            table = pa.Table.from_batches(held)
            yield table.slice(0, PART).combine_chunks().to_batches()[0]
            held, rows = table.slice(PART).to_batches(), rows - PART
    if rows:
        yield pa.Table.from_batches(held).combine_chunks().to_batches()[0]


def _column(pa: Any, schema: Any, wanted: str | None, source: str) -> str:
    lists = [field.name for field in schema if _is_list(pa, field.type)]
    if wanted is None:
        if len(lists) != 1:
            found = ", ".join(lists) or "none"
            raise CgruError(f"{source}: which column holds the sequences? Columns of lists: {found} (--column)")
        return str(lists[0])
    if wanted not in schema.names:
        raise CgruError(f"{source}: no column is named {wanted!r}; there are {', '.join(schema.names)}")
    if not _is_list(pa, schema.field(wanted).type):
        raise UnsupportedError(f"{source}: {wanted!r}: expected a column of lists, found {schema.field(wanted).type}")
    return wanted


def _claim_parts(net: Model, folder: Path, source: str, column: str, output: str) -> None:
    """The parts of another network, file or column are none to go on from."""
    told = os.stat(source)
    mine = {"network": net._fingerprint().hex(), "column": column, "output": output, "rows": PART,
            "source": [os.path.realpath(source), told.st_size, told.st_mtime_ns]}  # fmt: skip
    mark = folder / "run.json"
    if folder.exists():
        if mark.exists() and json.loads(mark.read_text(encoding="utf-8")) == mine:
            return
        raise CgruError(f"{folder}: it holds parts of another run; remove it, or give another output")
    folder.mkdir(parents=True)
    write_whole(mark, json.dumps(mine).encode())


def _join(pa: Any, parts: list[Path], target: Path, schema: Any) -> None:
    """All parts as one file, a part in memory at a time."""
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        first = pa.parquet.read_schema(parts[0]) if parts else schema
        if target.suffix == ".parquet":
            writer = pa.parquet.ParquetWriter(beside, first)
        else:
            writer = pa.ipc.new_file(str(beside), first)
        with writer:
            for part in parts:
                writer.write_table(pa.parquet.read_table(part))
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)
