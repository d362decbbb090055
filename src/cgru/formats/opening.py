"""A file opened by its content: the network in it, its arrays, or the line of the table that it is."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import brief, flag
from ..engine.model import Model
from ..errors import (
    ArgumentTypeError,
    CgruError,
    FormatError,
    MissingFileError,
    TooLargeError,
    UnsupportedError,
)
from .containers.file_bytes import FileBytes, Source, is_source, opened, shown
from .containers.tensorfile import TensorFile
from .readers.naming import error_prefix
from .table import FOLDERS, FORMATS, SAFETENSORS, Format, Probe, readable

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
    mmap: bool = False,
    inputs: Mapping[str, Any] | None = None,
    state: Mapping[str, str] | None = None,
    time_axis: int | str | Mapping[str, int | None] | None = None,
    config: Any = None,
) -> Model:
    """The network in a file: PyTorch ``.pt``/``.pth``, ``.safetensors``, ``.npz``, Keras ``.keras``/``.h5``, ``.onnx``.

    ``path`` is a path, the bytes of a file, or a file open for reading. What the file is, is told by its content.
    Nothing in it is executed. It is read once, into memory.

    ``mmap=True`` maps a ``.safetensors`` file instead (the native form is one), so that processes share its pages and
    only what is used is read. The risk is the caller's: while such a network lives, a program that rewrites the
    file in place changes its weights unseen, and one that truncates it ends this process (SIGBUS). Replace such a
    file, as :meth:`Model.save` does, never write into it. Archives and other formats are never mapped.

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
    - ``"mean"`` or ``"max"`` over all steps; a convolution, normalisation or PReLU by its path, with what tensors do
      not show: ``{"conv1d": "conv", "padding": 2, "stride": 2}``, ``{"batch_norm": "bn", "eps": 1e-3}``;
    - ``{"residual": ["rnn", "ln"]}``, in a text ``residual(rnn, ln)``: what goes in is added to what comes out;
    - a mapping in the place of a path, from PyTorch's names to the file's: ``{"gru": {"weight_ih_l0": "W", …}}``;
    - ``{"ignore": ["decoder.*"]}``: tensors to leave out. All others must be used.

    For example ``layers=["embed", "rnn", "last", "fc1", "relu", "fc2"]``. ``prefix="encoder"`` takes the
    tensors whose names begin with ``encoder.`` alone, without it. ``backend`` is as for :class:`Model`.

    A Keras file of weights alone (``.weights.h5``) needs the model's ``config``: what ``model.to_json()`` gave, as
    text, as an object, or as the path of a file that holds it.

    A TorchScript archive says what forward() computes, not the shapes of what it takes: they are told by its weights,
    or said, None for rows and frames: ``inputs={"x": (None, None, 40), "sr": 16000}``. What forward() makes of the
    numbers of rows and frames must not end up in its results.

    An ONNX file says its graph, but not which axes are rows and time: they are found by following them through it,
    and where that leaves a choice an error says so. The network takes and gives (B, T, …), feature axes in ONNX'
    order, those of size 1 left out. ``time_axis=1`` says which axis of the input is time. ``inputs`` fixes an input to
    a value, ``{"sr": 16000}``, or says the shape of one that is left open, ``{"input": (None, 576)}``.
    ``state={"h": "hn"}`` says which input is which output of the step before, where names and shapes do not: the
    network carries it then. A graph that says its own state and has no time axis is one step of the network.

    ``check=(x, y)`` runs the network on ``x`` and compares with ``y``, the outputs of the trained network, as
    :func:`cgru.verify` does: the one way to know that inferred layers are right.

    Raises :class:`FormatError` for a file that is missing, damaged or no network, :class:`UnsupportedError`
    for one that cgru does not run or cannot tell the layers of, :class:`CgruError` with the difference where the
    outputs are not those of ``check``.
    """
    with _reading(path):
        file, entry = _opened(path, mmap)
        more = {"inputs": inputs, "state": state, "time_axis": time_axis, "config": config}
        net = Model(entry.layers(file, layers, prefix, **more), backend=backend)
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

    with error_prefix("check"):
        return f"verified against the outputs given: {verify(net, *check)}"


def read(path: Source, *, mmap: bool = False, scale: float | None = None) -> dict[str, np.ndarray]:
    """Every array in a file by its name there, in the file's own order and gate layout; executes nothing.

    The arrays are read-only. Of a PyTorch checkpoint they are the model's. ``path`` and ``mmap`` are as for
    :func:`load`: the arrays of a mapped file show the file itself. ``scale`` is for tables in C source, whose whole
    numbers stand for multiples of it: ``scale=1/256`` gives them as float32. Raises as :func:`load` does.
    """
    file = read_file(path, mmap=mmap)
    if scale is None:
        return dict(file.tensors)
    from .containers.c_tables import scaled

    if file.kind != "c":
        raise CgruError(f"scale: this is for tables in C source, and {file.shown} is another file; leave scale= away")
    return scaled(file, scale)


def read_file(path: Source, *, mmap: bool = False) -> TensorFile:
    """As :func:`read`, with what the file tells beside its arrays."""
    with _reading(path):
        file, entry = _opened(path, mmap)
        return entry.read(file)


def sniff(path: Source) -> Format:
    """The line of :data:`~cgru.formats.FORMATS` that a file is, by its content; raises as :func:`load` does."""
    with _reading(path):
        return _opened(path)[1]


def _reading(path: Source) -> AbstractContextManager[None]:
    """Whatever goes wrong with the file is a :class:`CgruError` that begins with its name.

    What a path is, is looked at before the context begins, so that the traceback of a missing file is short.
    """
    if not is_source(path):
        raise ArgumentTypeError(f"path: expected a path, the bytes of a file or an open file, found {brief(path)}")
    if isinstance(path, (str, os.PathLike)):
        _check_path(path)
    return _naming(path)


def _check_path(path: Any) -> None:
    try:
        name = os.fspath(path)
    except Exception:
        name = None
    if not isinstance(name, str):
        raise ArgumentTypeError(f"path: expected a path of text, found {brief(path)}")
    try:
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
    with error_prefix(shown(path)):
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


def _opened(source: Source, mmap: bool = False) -> tuple[Source, Format]:
    """The file, read once and taken out of an archive, and the line of the table that it is."""
    mmap = flag(mmap, "mmap")
    if isinstance(source, (str, os.PathLike)) and os.path.isdir(source):
        return source, _folder(source)
    file = opened(source, mapped=mmap)
    if not mmap:
        from .containers.archives import unwrapped

        file = unwrapped(file)
    file, entry = _format(file)
    if mmap and entry.module != SAFETENSORS:
        raise CgruError(f"mmap: only .safetensors files are mapped, and this is a {entry.title} file; leave mmap= away")
    return file, entry


def _folder(path: str | os.PathLike[str]) -> Format:
    names = os.listdir(path)
    for entry in FOLDERS:
        if any(name.endswith(entry.extensions) for name in names):
            if not entry.module:
                raise UnsupportedError(entry.instead)
            return entry
    raise FormatError("is a directory; expected a file, or a folder of .npy files")


def _format(file: FileBytes) -> tuple[FileBytes, Format]:
    if not len(file.data):
        raise FormatError("is empty; expected the weights of a network")
    head = bytes(file.data[:_HEAD])
    is_zip = head[:4] in (b"PK\x03\x04", b"PK\x05\x06")
    kind = ""
    if is_zip:
        from .containers.zip_members import zip_kind

        kind = zip_kind(file)
    probe = Probe(file, head.ljust(_HEAD, b"\0"), kind)
    for entry in FORMATS:
        if entry.sniff(probe):
            if not entry.module:
                raise UnsupportedError(entry.instead)
            return file, entry
    if is_zip:
        from .containers.archives import from_zip

        inner = from_zip(file)
        if bytes(inner.data[:2]) != b"PK" or zip_kind(inner) != kind:
            return _format(inner)
    what = "a zip that holds neither of PyTorch, NumPy nor Keras" if is_zip else f"of unknown kind ({head[:8]!r} …)"
    raise FormatError(f"{what}; cgru reads {', '.join(readable())}")
