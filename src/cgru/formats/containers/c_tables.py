"""C source that is a table of weights: ``static const rnn_weight NAME[N] = {…};``, as RNNoise's ``rnn_data.c`` has it.

Arrays of numbers are read by name, with the shape that their brackets say; whole numbers stay whole. An initialiser
that names other things (a struct of arrays, sizes and an activation) goes to ``metadata`` as text. Nothing is compiled,
and macros are not expanded: what is no number where one is expected is refused.
"""

from __future__ import annotations

import math
import re

import numpy as np

from ...errors import CgruError, FormatError, UnsupportedError
from .file_bytes import Source, open_bytes
from .file_bytes import shown as shown_name
from .messages import brief
from .tensorfile import TensorFile

_MAX_SIZE = 256 << 20
_MAX_ARRAYS = 20_000
_MAX_HEAD = 600
_MAX_NOTE = 2_000
_MAX_DEPTH = 8
_TABLE = re.compile(rb"\b(?:static|const)\s[\w \t*+/\[\]-]{1,200}=\s{0,99}\{")
_BEGIN = re.compile(r"=\s{0,99}\{")
_BRACE = re.compile(r"[{}]")
_HEAD = re.compile(r"((?:\w+[ \t\n]+)+)(\w+)\s*((?:\[[^\[\]]{0,80}\]\s*)*)\Z")
_SIZE = re.compile(r"\[\s*([^\[\]]*?)\s*\]")
#: What an array of decimal numbers may hold; suffixes and hexadecimal take the slower way.
_DECIMAL = re.compile(r"[-+0-9.eE,\s]*\Z")
_OCTAL = re.compile(r"(?:\A|,)\s{0,99}[-+]?0\d+\s{0,99}(?:,|\Z)")
_NUMBER = re.compile(
    r"([-+]?)\s{0,9}(?:(0[xX][0-9a-fA-F]{1,16})[uUlL]{0,3}|(0|[1-9]\d{0,19})[uUlL]{0,3}"
    r"|((?:\d{1,40}\.\d{0,40}|\.\d{1,40}|\d{1,40}(?=[eE]))(?:[eE][-+]?\d{1,5})?)[fFlL]?)\Z"
)
_MAX_DIGITS = 80
_FLOATS = ("float", "double", "half", "_Float16")


def looks_like(data: memoryview) -> bool:
    """Whether a file is text that declares a constant table near its beginning."""
    head = bytes(data[: 1 << 16])
    return b"\0" not in head and _TABLE.search(head) is not None


def read(source: Source) -> TensorFile:
    """Every array of numbers by its name; :class:`FormatError` for a damaged or hostile file."""
    shown, data = shown_name(source), open_bytes(source)
    if len(data) > _MAX_SIZE:
        raise FormatError(f"{shown}: C source of {len(data):,} bytes, more than the {_MAX_SIZE:,} that are read")
    try:
        text = bytes(data).decode()
    except UnicodeDecodeError:
        raise FormatError(f"{shown}: is not UTF-8 text") from None
    text = _without_comments(text, shown)
    tensors: dict[str, np.ndarray] = {}
    notes: dict[str, str] = {}
    at = 0
    while (begin := _BEGIN.search(text, at)) is not None:
        end = _closing(text, begin.end(), shown)
        head = _declaration(text, at, begin.start())
        body, at = text[begin.end() : end], end + 1
        if head is None:
            continue
        kind, name, sizes = head
        if name in tensors or name in notes or len(tensors) + len(notes) >= _MAX_ARRAYS:
            raise FormatError(f"{shown}: {brief(name)} is declared twice, or is one of more than {_MAX_ARRAYS}")
        if _names_things(body):
            notes[name] = f"{kind}: {' '.join(body.split())}"[:_MAX_NOTE]
        else:
            tensors[name] = _shaped(_numbers(body, kind, f"{shown}: {brief(name)}"), sizes, f"{shown}: {brief(name)}")
    if not tensors:
        raise UnsupportedError(f"{shown}: C source without a table of numbers")
    return TensorFile(shown, "c", tensors, metadata=notes)


def scaled(file: TensorFile, scale: float) -> dict[str, np.ndarray]:
    """The arrays with whole numbers as float32 times ``scale``: RNNoise's are in 256ths."""
    if not isinstance(scale, (int, float)) or isinstance(scale, bool) or not math.isfinite(scale) or scale == 0:
        raise CgruError(f"scale: expected a number such as 1/256, found {brief(scale)}")
    found = {}
    for name, array in file.tensors.items():
        if array.dtype.kind in "iu":
            array = (array * np.float64(scale)).astype(np.float32)
            array.flags.writeable = False
        found[name] = array
    return found


def _without_comments(text: str, shown: str) -> str:
    """The text without comments, strings and directives, each a blank."""
    kept: list[str] = []
    at = 0
    for found in _SKIPPED.finditer(text):
        start = found.start()
        if start < at:
            continue
        token = found.group()
        if token == "/*":
            end = text.find("*/", start + 2)
            if end < 0:
                raise FormatError(f"{shown}: a comment that does not end")
            end += 2
        else:
            end = text.find("\n", start + 1)
            while token.endswith("#") and end > 0 and text[end - 1] == "\\":
                end = text.find("\n", end + 1)
            if token[-1] in "\"'":
                close = text.find(token[-1], start + 1)
                if close < 0 or (0 <= end < close):
                    raise FormatError(f"{shown}: a text that does not end on its line")
                end = close + 1
            end = len(text) if end < 0 else end
        kept += [text[at:start], " "]
        at = end
    kept.append(text[at:])
    return "".join(kept)


_SKIPPED = re.compile(r"/\*|//|\"|'|(?:(?<=\n)|\A)[ \t]{0,40}#")


def _closing(text: str, start: int, shown: str) -> int:
    """Where the brace that ``start`` follows is closed."""
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += 1 if brace.group() == "{" else -1
        if depth > _MAX_DEPTH:
            raise FormatError(f"{shown}: braces more than {_MAX_DEPTH} deep")
        if not depth:
            return brace.start()
    raise FormatError(f"{shown}: a brace that is not closed: cut short or damaged")


def _declaration(text: str, start: int, end: int) -> tuple[str, str, list[str]] | None:
    """The type, name and sizes before ``= {``; None where it is no declaration of a variable."""
    head = text[max(start, end - _MAX_HEAD) : end]
    head = head[max(head.rfind(";"), head.rfind("}"), head.rfind("{")) + 1 :].strip()
    found = _HEAD.match(head)
    if found is None:
        return None
    words = [word for word in found.group(1).split() if word not in ("static", "const", "extern", "volatile")]
    return " ".join(words), found.group(2), _SIZE.findall(found.group(3))


def _names_things(body: str) -> bool:
    """Whether an initialiser holds names: not an array of numbers."""
    first = body.replace("{", " ").split(",", 1)[0].strip()
    return bool(first) and (first[0].isalpha() or first[0] in "_&.(")


def _numbers(body: str, kind: str, where: str) -> np.ndarray:
    parts = body.replace("{", " ").replace("}", " ").strip().removesuffix(",").split(",")
    if parts == [""]:
        raise FormatError(f"{where} has an initialiser of nothing")
    text = ",".join(parts)
    floating = any(word in _FLOATS for word in kind.split())
    if _DECIMAL.match(text) and not _OCTAL.search(text) and max(map(len, parts)) <= _MAX_DIGITS:
        whole = not floating and not re.search(r"[.eE]", text)
        try:
            return _narrowed(np.asarray(parts).astype(np.int64 if whole else np.float64), where)
        except (ValueError, OverflowError):
            pass  # the slower way says which
    return _narrowed(np.asarray([_number(part.strip(), i, where) for i, part in enumerate(parts)]), where, floating)


def _number(text: str, place: int, where: str) -> int | float:
    found = _NUMBER.match(text)
    if found is None:
        raise FormatError(f"{where}: entry {place} is {brief(text)}, which is no number that is read")
    sign, hexadecimal, decimal, real = found.groups()
    if real is not None:
        return float(sign + real)
    number = int(hexadecimal, 16) if hexadecimal else int(decimal)
    if number >= 1 << 63:
        raise FormatError(f"{where}: entry {place} is a whole number of more than 63 bits")
    return -number if sign == "-" else number


def _narrowed(values: np.ndarray, where: str, floating: bool = False) -> np.ndarray:
    """As the smallest type that holds them, or float32."""
    if values.dtype.kind == "i" and not floating:
        kinds = [np.dtype(kind) for kind in ("int8", "int16", "int32", "int64")]
        low, high = int(values.min()), int(values.max())
        return values.astype(next(k for k in kinds if np.iinfo(k).min <= low and high <= np.iinfo(k).max))
    with np.errstate(over="ignore"):
        made = values.astype(np.float32)
    if not np.isfinite(made).all():
        raise FormatError(f"{where} holds a number beyond float32")
    return made


def _shaped(values: np.ndarray, sizes: list[str], where: str) -> np.ndarray:
    """With the shape that the brackets say; a size that is a macro is not known here, and then all are one axis."""
    if all(size.isdecimal() and len(size) < 12 for size in sizes) and sizes:
        shape = [int(size) for size in sizes]
        if math.prod(shape) != values.size:
            raise FormatError(f"{where} is declared as {'×'.join(sizes)}, and has {values.size:,} numbers")
        values = values.reshape(shape)
    elif len(sizes) > 1 and not sizes[0] and all(size.isdecimal() and len(size) < 12 for size in sizes[1:]):
        inner = math.prod(int(size) for size in sizes[1:])
        if not inner or values.size % inner:
            raise FormatError(f"{where} has {values.size:,} numbers in rows of {inner}")
        values = values.reshape(-1, *(int(size) for size in sizes[1:]))
    values.flags.writeable = False
    return values
