"""A file opened by its content: the network in it, its arrays, or the line of the table that it is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import brief
from ..engine.model import Model
from ..errors import (
    ArgumentTypeError,
    CgruError,
    FormatError,
    MissingFileError,
    TooLargeError,
    UnsupportedError,
)
from .containers.file_bytes import Source, open_bytes
from .containers.file_bytes import shown as shown_name
from .containers.tensorfile import TensorFile
from .readers.naming import errors_name
from .table import FORMATS, Format, Probe, readable

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEAD = 64


def load(
    path: Source,
    *,
    layers: str | Sequence[Any] | None = None,
    prefix: str | None = None,
    backend: str | None = None,
    check: tuple[Any, Any] | None = None,
) -> Model:
    """The network in a file: PyTorch ``.pt``/``.pth``, ``.safetensors``, ``.npz``, Keras ``.keras``/``.h5``.

    ``path`` is a path, or the bytes of a file. What the file is, is told by its content. Nothing in it is
    executed. A safetensors file is mapped into memory, so replace it rather than rewrite it in place.

    Native and Keras files say their own layers. Of the others, the layers are inferred where the tensors'
    names and shapes leave one reading, the form [Embedding] recurrent… [Linear]: that no activation lies
    between a recurrent module and the Linear after it, and that the Linear sees every step, is taken for
    granted, and ``print(net)`` says so. Elsewhere an :class:`UnsupportedError` shows the tensors and what to pass as
    ``layers``: a list (or a text with commas between) in the order data passes, of

    - a module's path in the file, ``"rnn"`` or ``"encoder.fc"`` (``""`` for tensors without a path);
    - the name of an activation, ``"relu"``;
    - ``"last_state"``: of the recurrent layer before it, only the final state goes on: of a bidirectional one, each
      direction's own, the forward one's after the last step and the reverse one's after the first;
    - ``"last_step"``: only the output at the last step goes on, ``out[:, -1]``: of a bidirectional layer, the reverse
      direction has read a single step there. ``"last"`` where there is one direction, and the two are the same;
    - a dict with options: ``{"gru": "rnn", "reset": "before"}``, ``{"dense": "fc", "activation": "relu"}``,
      ``{"embedding": "tok", "mask_zero": True}``, ``{"rnn": "rnn", "nonlinearity": "relu"}`` (an nn.RNN's tensors
      do not say which); the kinds' options are those of the layers' constructors;
    - ``{"ignore": ["decoder.*"]}``: tensors to leave out. All others must be used.

    For example ``layers=["embed", "rnn", "last", "fc1", "relu", "fc2"]``. ``prefix="encoder"`` takes the
    tensors whose names begin with ``encoder.`` alone, without it. ``backend`` is as for :class:`Model`.

    ``check=(x, y)`` runs the network on ``x`` and compares with ``y``, the outputs of the trained network, as
    :func:`cgru.verify` does: the one way to know that inferred layers are right.

    Raises :class:`FormatError` for a file that is missing, damaged or no network, :class:`UnsupportedError`
    for one that cgru does not run or cannot tell the layers of, :class:`CgruError` with the difference where the
    outputs are not those of ``check``.
    """
    with _reading(path):
        entry = _format(path)
        net = Model(entry.layers(path, layers, prefix), backend=backend)
        if check is not None:
            return net.noting(_checked(net, check))
        if layers is None and not entry.builder:
            from .readers.torch_layers import assumption

            net.noting(assumption(net.layers))
        return net


def _checked(net: Model, check: Any) -> str:
    if not isinstance(check, (tuple, list)) or len(check) != 2:
        raise CgruError(f"check: expected (x, y), an input and the outputs for it, found {type(check).__name__}")
    from ..engine.verification import verify

    with errors_name("check"):
        return f"verified against the outputs given: {verify(net, *check)}"


def read(path: Source) -> dict[str, np.ndarray]:
    """Every array in a file by its name there, in the file's own order and gate layout; executes nothing.

    The arrays are read-only, and those of a safetensors file show the file itself. Of a PyTorch checkpoint
    they are the model's. Raises as :func:`load` does.
    """
    with _reading(path):
        return dict(_format(path).read(path).tensors)


def read_file(path: Source) -> TensorFile:
    """As :func:`read`, with what the file tells beside its arrays."""
    with _reading(path):
        return _format(path).read(path)


def sniff(path: Source) -> Format:
    """The line of :data:`~cgru.formats.FORMATS` that a file is, by its content; raises as :func:`load` does."""
    with _reading(path):
        return _format(path)


def _reading(path: Source) -> AbstractContextManager[None]:
    """Whatever goes wrong with the file is a :class:`CgruError` that begins with its name.

    What a path is, is looked at before the context begins, so that the traceback of a missing file is short.
    """
    if not isinstance(path, bytes):
        _check_path(path)
    return _naming(path)


def _check_path(path: Any) -> None:
    name = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    if not isinstance(name, str):
        raise ArgumentTypeError(f"path: expected a path, or the bytes of a file, found {brief(path)}")
    try:
        if os.path.isdir(name):
            raise FormatError(f"{name}: is a directory; expected a file")
        os.stat(name)
    except ValueError as error:
        if isinstance(error, CgruError):
            raise
        raise FormatError(f"path: {name!r} cannot be read: a path holds no zero bytes or surrogates") from None
    except FileNotFoundError as error:
        raise MissingFileError(f"{name}: cannot be read: {error.strerror}") from None
    except OSError as error:
        raise FormatError(f"{name}: cannot be read: {error.strerror or error}") from None


@contextmanager
def _naming(path: Source) -> Iterator[None]:
    with errors_name(shown_name(path)):
        try:
            yield
        except FileNotFoundError as error:
            if isinstance(error, CgruError):
                raise
            raise MissingFileError(f"cannot be read: {error.strerror or error}") from None
        except OSError as error:
            raise FormatError(f"cannot be read: {error.strerror or error}") from None
        except MemoryError as error:
            if isinstance(error, CgruError):
                raise
            raise TooLargeError("no memory for what it holds") from None


def _format(source: Source) -> Format:
    data = open_bytes(source)
    if not len(data):
        raise FormatError("is empty; expected the weights of a network")
    head = bytes(data[:_HEAD])
    is_zip = head[:4] in (b"PK\x03\x04", b"PK\x05\x06")
    kind = ""
    if is_zip:
        from .containers.zip_members import zip_kind

        kind = zip_kind(source)
    probe = Probe(source, head.ljust(_HEAD, b"\0"), kind)
    for entry in FORMATS:
        if entry.sniff(probe):
            if not entry.module:
                raise UnsupportedError(entry.instead)
            return entry
    what = "a zip that holds neither of PyTorch, NumPy nor Keras" if is_zip else f"of unknown kind ({head[:8]!r} …)"
    raise FormatError(f"{what}; cgru reads {', '.join(readable())}")
