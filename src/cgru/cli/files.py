"""Arrays in and out of the command line: .npy, .npz, .csv and .wav, or a pipe."""

from __future__ import annotations

import csv
import io
import os
import struct
import sys
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ..errors import CgruError, FormatError, UnsupportedError

if TYPE_CHECKING:
    from ..engine.model import Model

PIPE = "-"
FORMATS = ("npy", "npz", "csv", "wav")

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_FMT = struct.Struct("<HHIIHH")


@dataclass(frozen=True)
class Input:
    """What ``cgru run`` hands to a network. ``rate`` (Hz) is known of a .wav alone."""

    x: np.ndarray
    kind: str
    lengths: np.ndarray | None = None
    mask: np.ndarray | None = None
    rate: int | None = None


@dataclass(frozen=True)
class Named:
    """As :class:`Input`, for a network of several inputs: an array of each by its name."""

    x: dict[str, np.ndarray]
    lengths: np.ndarray | None = None
    mask: np.ndarray | None = None
    kind: str = "npz"
    rate: int | None = None


def read_for(path: str, net: Model) -> Input | Named:
    """The sequences of a file for that network.

    Where it takes several inputs the file is an .npz with an array of each by its name, and with lengths, mask, or the
    lengths of a memory, ``memory_lengths``, if any.
    """
    names = net.input_names
    if len(names) == 1:
        return read_input(path, ids=net.takes_ids, features=net.input_size)
    shown = "standard input" if path == PIPE else path
    with _open(path) as stream:
        data = stream.read()
    if data[:2] != b"PK":
        raise FormatError(
            f"{shown}: the network takes the inputs {', '.join(names)}; give an .npz with an array of each: "
            f"np.savez(path, {', '.join(f'{name}=…' for name in names)})"
        )
    return _named(_npz_arrays(data, shown))


def _named(arrays: dict[str, np.ndarray]) -> Named:
    return Named(arrays, arrays.pop("lengths", None), arrays.pop("mask", None))


def read_input(path: str, *, ids: bool, features: int) -> Input:
    """The sequences in a file, or on standard input where ``path`` is "-"; the kind is told by the first bytes.

    With ``ids``, numbers in a .csv are whole and become int64. Where a step is a single feature, a lone axis is
    time. Raises :class:`FormatError` or :class:`UnsupportedError`.
    """
    with _open(path) as stream:
        return parse_input(stream, "standard input" if path == PIPE else path, ids=ids, features=features)


def parse_input(stream: BinaryIO, shown: str, *, ids: bool, features: int) -> Input:
    """:func:`read_input` from something that can seek; ``shown`` names it in messages."""
    head = stream.read(6)
    stream.seek(0)
    if not head:
        raise FormatError(f"{shown}: is empty; expected .npy, .npz, .wav or numbers with commas between")
    if head == b"\x93NUMPY":
        found = Input(_npy(stream, shown), "npy")
    elif head[:2] == b"PK":
        found = _npz(stream.read(), shown)
    elif head[:4] == b"RIFF":
        found = _wav(stream.read(), shown)
    else:
        found = Input(_csv(stream.read(), shown, ids), "csv")
    if features == 1 and not ids and found.x.ndim == 1:
        return Input(found.x[:, None], found.kind, found.lengths, found.mask, found.rate)
    return found


def output_kind(path: str, given: Input | Named) -> str:
    """The format to write: by the name's ending; on standard output csv, or npy where npy or npz came in."""
    if path == PIPE:
        if sys.stdout is None:
            raise CgruError("standard output is closed; name a file with -o")
        return "npy" if given.kind in ("npy", "npz") and not sys.stdout.isatty() else "csv"
    kind = os.path.splitext(path)[1].removeprefix(".").lower()
    if kind not in FORMATS:
        raise UnsupportedError(f"{path}: expected a name that ends in {', '.join('.' + name for name in FORMATS)}")
    if kind == "wav" and given.rate is None:
        raise UnsupportedError(f"{path}: a .wav can only be written from a .wav, whose sampling rate it takes")
    return kind


def write_output(path: str, y: Any, kind: str, rate: int | None) -> None:
    """Write what a network gave: one array, or a tuple or a mapping of them (.npz only)."""
    encoded = encode_output(path, y, kind, rate)
    if path == PIPE:
        left = encoded
        while left:  # an unbuffered standard output (python -u) takes a part at a time
            left = left[sys.stdout.buffer.write(left) :]
        sys.stdout.buffer.flush()
    else:
        with open(path, "wb") as file:
            file.write(encoded)


def by_name(y: Any) -> dict[str, np.ndarray]:
    """What a network gave, as an .npz holds it: by the names of its outputs, y, or y_0 and y_1."""
    if isinstance(y, dict):
        return y
    return {f"y_{i}": part for i, part in enumerate(y)} if isinstance(y, tuple) else {"y": y}


def encode_output(shown: str, y: Any, kind: str, rate: int | None) -> memoryview:
    """The bytes of a file of that kind; ``shown`` names it in messages."""
    if isinstance(y, (tuple, dict)) and kind != "npz":
        raise UnsupportedError(f"{shown}: the network gives {len(y)} arrays, which only an .npz can hold (-o OUT.npz)")
    buffer = io.BytesIO()
    if kind == "npz":
        with zipfile.ZipFile(buffer, "w") as archive:  # np.savez takes no output that is called "file"
            for name, array in by_name(y).items():
                with archive.open(f"{name}.npy", "w") as part:
                    np.lib.format.write_array(part, np.asarray(array), allow_pickle=False)
    elif kind == "npy":
        np.lib.format.write_array(buffer, y, allow_pickle=False)
    elif y.ndim > 2:
        raise UnsupportedError(f"{shown}: a .{kind} holds one sequence, found shape {y.shape}; write .npy or .npz")
    elif kind == "wav":
        buffer.write(_wav_bytes(np.atleast_2d(y), rate or 0))
    else:
        np.savetxt(buffer, np.atleast_2d(y), fmt="%.9g", delimiter=",")
    return buffer.getbuffer()


def _open(path: str) -> BinaryIO:
    """A stream that can seek: the file itself, or everything that a pipe gave."""
    if path == PIPE:
        if sys.stdin is None:
            raise CgruError("standard input is closed; name a file instead of -")
        return io.BytesIO(sys.stdin.buffer.read())
    file = open(path, "rb")  # noqa: SIM115 (the caller closes it)
    if file.seekable():
        return file
    with file:
        return io.BytesIO(file.read())


def _npy(stream: BinaryIO, shown: str) -> np.ndarray:
    try:
        array = np.load(stream, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise FormatError(f"{shown}: no readable .npy array ({_first_line(error)})") from error
    assert isinstance(array, np.ndarray)
    return array


def read_checked(path: str, net: Model) -> tuple[Input | Named, Any]:
    """An .npz with what to verify a network by: x (and lengths or mask) and y, the outputs for it.

    Several inputs or outputs are arrays of their names; y_0 and y_1 are those of two arrays without names.
    """
    shown = "standard input" if path == PIPE else path
    with _open(path) as stream:
        data = stream.read()
    arrays = _npz_arrays(data, shown) if data[:2] == b"PK" else {}
    inputs, outputs = net.input_names, list(net.graph.outputs)
    takes = inputs if len(inputs) > 1 else ["x"]
    gives = outputs if len(outputs) > 1 else ["y_0", "y_1"] if "y_0" in arrays else ["y"]
    alone = len(inputs) == 1 and arrays.keys() - {"x", "lengths", "mask", *gives}
    if alone or any(name not in arrays for name in (*takes, *gives)):
        wanted, found = [*takes, *gives], ", ".join(arrays) or "no array" if data[:2] == b"PK" else "no .npz"
        raise FormatError(
            f"{shown}: expected {', '.join(wanted[:-1])} and {wanted[-1]} (with lengths or mask, if any), found {found}"
            f"; save them by np.savez(path, {', '.join(f'{name}={name}' for name in wanted)})"
        )
    made = {name: arrays.pop(name) for name in gives}
    y = made if len(outputs) > 1 else tuple(made.values()) if len(made) > 1 else made["y"]
    given = _named(arrays)
    return given if len(inputs) > 1 else Input(given.x["x"], "npz", given.lengths, given.mask), y


def _npz_arrays(data: bytes, shown: str) -> dict[str, np.ndarray]:
    from ..formats.containers import npz

    try:
        return dict(npz.read(data).tensors)
    except CgruError as error:
        raise type(error)(str(error).replace("<bytes>", shown)) from error


def _npz(data: bytes, shown: str) -> Input:
    arrays = _npz_arrays(data, shown)
    if len(arrays) == 1 and "x" not in arrays:
        return Input(arrays.popitem()[1], "npz")
    if "x" not in arrays or arrays.keys() - {"x", "lengths", "mask"}:
        raise FormatError(
            f"{shown}: expected one array, or x with lengths or mask, found {', '.join(arrays) or 'no array'}"
        )
    return Input(arrays["x"], "npz", arrays.get("lengths"), arrays.get("mask"))


def _csv(data: bytes, shown: str, ids: bool) -> np.ndarray:
    """Rows of numbers, one time step each (one sequence each where they are ids), a header allowed."""
    try:
        rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig"))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise FormatError(f"{shown}: neither .npy, .npz, .wav nor text with comma-separated numbers") from error
    numbered = [(number, row) for number, row in enumerate(rows, 1) if any(cell.strip() for cell in row)]
    if numbered and not any(_is_number(cell) for cell in numbered[0][1]):
        del numbered[0]
    if not numbered:
        raise FormatError(f"{shown}: it holds no numbers with commas between")
    width = len(numbered[0][1])
    convert = int if ids else float
    values = []
    for number, row in numbered:
        if len(row) != width:
            raise FormatError(f"{shown}: line {number} has {len(row)} columns, those before it {width}")
        for column, cell in enumerate(row, 1):
            try:
                values.append(convert(cell))
            except ValueError:
                wanted = "a whole number (a token id)" if ids else "a number"
                raise FormatError(
                    f"{shown}: line {number}, column {column}: expected {wanted}, found {cell[:40]!r}"
                ) from None
    try:
        array = np.array(values, np.int64 if ids else np.float64).reshape(-1, width)
    except OverflowError:
        raise FormatError(f"{shown}: a token id is larger than 64 bits hold") from None
    return array.ravel() if ids and 1 in array.shape else array


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _wav(data: bytes, shown: str) -> Input:
    """RIFF/WAVE: PCM of 8, 16, 24 or 32 bits or floats → (T, channels), full scale at ±1."""
    chunks: dict[bytes, bytes] = {}
    at = 12
    while data[8:12] == b"WAVE" and at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        chunks.setdefault(name, data[at + 8 : at + 8 + size])
        at += 8 + size + size % 2
    form = chunks.get(b"fmt ", b"")
    if len(form) < _FMT.size or b"data" not in chunks:
        raise FormatError(f"{shown}: a RIFF file, but no WAVE audio with its format and its samples")
    tag, channels, rate, _, frame, bits = _FMT.unpack_from(form)
    if tag == _EXTENSIBLE and len(form) >= 26:
        tag = int.from_bytes(form[24:26], "little")
    if (tag, bits) not in [(_PCM, 8), (_PCM, 16), (_PCM, 24), (_PCM, 32), (_FLOAT, 32), (_FLOAT, 64)]:
        raise UnsupportedError(f"{shown}: expected PCM or float samples, found WAVE format {tag} with {bits} bits")
    if not channels or frame != channels * bits // 8:
        raise FormatError(f"{shown}: {channels} channels of {bits} bits do not make a frame of {frame} bytes")
    body = chunks[b"data"]
    samples = np.frombuffer(body[: len(body) // frame * frame], np.uint8).reshape(-1, bits // 8)
    values: np.ndarray
    if tag == _FLOAT:
        values = samples.view(f"<f{bits // 8}").astype(np.float32)
    elif bits == 8:
        values = (samples.astype(np.float32) - 128) / 128
    else:
        # Every width in the upper bytes of 32 bits, so that one scale serves all.
        wide = np.zeros((len(samples), 4), np.uint8)
        wide[:, 4 - bits // 8 :] = samples
        values = (wide.view("<i4") / 2.0**31).astype(np.float32)
    return Input(values.reshape(-1, channels), "wav", rate=rate)


def _wav_bytes(y: np.ndarray, rate: int) -> bytes:
    """(T, channels) as a WAVE file of 32-bit floats, which clip nothing."""
    channels, body = y.shape[1], np.ascontiguousarray(y, "<f4").tobytes()
    form = _FMT.pack(_FLOAT, channels, rate, rate * channels * 4, channels * 4, 32) + b"\0\0"
    fact = struct.pack("<I", len(y))
    inner = b"WAVE" + b"".join(
        name + struct.pack("<I", len(part)) + part for name, part in ((b"fmt ", form), (b"fact", fact), (b"data", body))
    )
    return b"RIFF" + struct.pack("<I", len(inner)) + inner


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:200]
