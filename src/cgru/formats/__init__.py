"""Files in, networks out: the one table of formats, and which of them a file is by its content.

To add a format, write a module with ``read(source) -> TensorFile`` and, if it says its own layers, one with
``load(source) -> list[Layer]``, and add a line to :data:`FORMATS`.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engine.model import Model
from ..errors import CgruError, FormatError, UnsupportedError
from . import native, safetensors
from .file_bytes import Source, open_bytes
from .file_bytes import shown as shown_name
from .naming import errors_name
from .tensorfile import TensorFile

# The modules of the other formats are imported where a file needs them: a process that loads a native network
# and ends soon would spend more time on them than on its network.

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..layers import Layer

_HDF5 = b"\x89HDF\r\n\x1a\n"
_HEAD = 64


@dataclass(frozen=True)
class Probe:
    """What the sniffers look at: the first bytes of a file, and for a zip what its members make it."""

    source: Source
    head: bytes
    zip_kind: str


@dataclass(frozen=True)
class Format:
    """One line of the table.

    ``module`` has ``read(source) -> TensorFile``; ``builder`` has ``load(source) -> list[Layer]`` where the
    file says its own layers, and is empty where they are inferred from the tensors. A format that is known
    but not read has ``instead``: what to do with such a file.
    """

    title: str
    extensions: tuple[str, ...]
    sniff: Callable[[Probe], bool]
    module: str = ""
    builder: str = ""
    instead: str = ""

    def read(self, source: Source) -> TensorFile:
        return importlib.import_module(self.module, __name__).read(source)

    def layers(self, source: Source, layers: str | Sequence[Any] | None, prefix: str | None) -> list[Layer]:
        if not self.builder:
            from .torch_layers import layers_from

            return layers_from(self.read(source), layers, prefix)
        if layers is not None or prefix is not None:
            raise CgruError(f"a {self.title} file says its own layers; leave layers= and prefix= away")
        return importlib.import_module(self.builder, __name__).load(source)


def _is_native(probe: Probe) -> bool:
    return safetensors.looks_like(probe.head) and native.is_native(safetensors.read(probe.source).metadata)


def _is_pickle(probe: Probe) -> bool:
    from .torch_zip import looks_like

    return not probe.zip_kind and looks_like(probe.head)


def _is_onnx(probe: Probe) -> bool:
    """A ModelProto begins with field 1, the small ir_version, and goes on with another known field."""
    head = probe.head
    return head[:1] == b"\x08" and 0 < head[1] < 32 and head[2] in b"\x12\x1a\x22\x28\x32\x3a\x42\x72"


#: Every format cgru knows, in the order in which a file is tried for them.
FORMATS = (
    Format("PyTorch", (".pt", ".pth", ".ckpt"), lambda p: p.zip_kind == "torch", ".torch_zip"),
    Format("Keras", (".keras",), lambda p: p.zip_kind == "keras", ".keras_files", ".keras_files"),
    Format("npz", (".npz",), lambda p: p.zip_kind == "npz", ".npz"),
    Format("cgru", (".safetensors",), _is_native, ".safetensors", ".native"),
    Format("safetensors", (".safetensors",), lambda p: safetensors.looks_like(p.head), ".safetensors"),
    Format("HDF5", (".h5", ".hdf5"), lambda p: p.head.startswith(_HDF5), ".keras_files", ".keras_files"),
    # The reader of PyTorch files itself says what to do about its other containers.
    Format("TorchScript", (".pt",), lambda p: p.zip_kind in ("torchscript", "pt2"), ".torch_zip"),
    Format("pickle", (".pt",), _is_pickle, ".torch_zip"),
    Format("JSON", (".json",), lambda p: p.head.lstrip()[:1] in (b"{", b"["), instead=(
        "a JSON file, such as RTNeural's, which this version of cgru does not read; "
        "save the network's own state_dict or .keras file"
    )),
    Format("ONNX", (".onnx",), _is_onnx, instead=(
        "an ONNX model, which this version of cgru does not read; "
        "save the state_dict or .keras file it was exported from"
    )),
)  # fmt: skip


def load(
    path: Source,
    *,
    layers: str | Sequence[Any] | None = None,
    prefix: str | None = None,
    backend: str | None = None,
) -> Model:
    """The network in a file: PyTorch ``.pt``/``.pth``, ``.safetensors``, ``.npz``, Keras ``.keras``/``.h5``.

    ``path`` is a path, or the bytes of a file. What the file is, is told by its content. Nothing in it is
    executed. A safetensors file is mapped into memory, so replace it rather than rewrite it in place.

    Native and Keras files say their own layers. Of the others, the layers are inferred where the tensors'
    names and shapes leave one reading, the form [Embedding] recurrent… [Linear]: that no activation lies
    between a recurrent module and the Linear after it, and that the Linear sees every step, is taken for
    granted. Elsewhere an :class:`UnsupportedError` shows the tensors and what to pass as ``layers``: a list
    (or a text with commas between) in the order data passes, of

    - a module's path in the file, ``"rnn"`` or ``"encoder.fc"`` (``""`` for tensors without a path);
    - the name of an activation, ``"relu"``;
    - ``"last"``: of the recurrent layer before it, only the last output goes on (of a bidirectional one, each
      direction's own last);
    - a dict with options: ``{"gru": "rnn", "reset": "before"}``, ``{"dense": "fc", "activation": "relu"}``,
      ``{"embedding": "tok", "mask_zero": True}``, ``{"rnn": "rnn", "nonlinearity": "relu"}`` (an nn.RNN's tensors
      do not say which); the kinds' options are those of the layers' constructors;
    - ``{"ignore": ["decoder.*"]}``: tensors to leave out. All others must be used.

    For example ``layers=["embed", "rnn", "last", "fc1", "relu", "fc2"]``. ``prefix="encoder"`` takes the
    tensors whose names begin with ``encoder.`` alone, without it. ``backend`` is as for :class:`Model`.

    Raises :class:`FormatError` for a file that is missing, damaged or no network, :class:`UnsupportedError`
    for one that cgru does not run or cannot tell the layers of.
    """
    with _reading(path):
        net = _format(path).layers(path, layers, prefix)
        return Model(net, backend=backend)


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
    """The line of :data:`FORMATS` that a file is, by its content; raises as :func:`load` does."""
    with _reading(path):
        return _format(path)


@contextmanager
def _reading(path: Source) -> Iterator[None]:
    """Whatever goes wrong with the file is a :class:`CgruError` that begins with its name."""
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise CgruError(f"path: expected a path, or the bytes of a file, found {type(path).__name__}")
    shown = shown_name(path)
    with errors_name(shown):
        try:
            yield
        except OSError as error:
            raise FormatError(f"cannot be read: {error.strerror or error}") from error


def _format(source: Source) -> Format:
    if not isinstance(source, bytes) and "\0" in str(os.fspath(source)):
        raise FormatError("cannot be read: a path holds no zero bytes")
    if not isinstance(source, bytes) and os.path.isdir(source):
        raise FormatError("is a directory; expected a file")
    data = open_bytes(source)
    if not len(data):
        raise FormatError("is empty; expected the weights of a network")
    head = bytes(data[:_HEAD])
    is_zip = head[:4] in (b"PK\x03\x04", b"PK\x05\x06")
    kind = ""
    if is_zip:
        from .zip_members import zip_kind

        kind = zip_kind(source)
    probe = Probe(source, head.ljust(_HEAD, b"\0"), kind)
    for entry in FORMATS:
        if entry.sniff(probe):
            if entry.instead:
                raise UnsupportedError(entry.instead)
            return entry
    what = "a zip that holds neither of PyTorch, NumPy nor Keras" if is_zip else f"of unknown kind ({head[:8]!r} …)"
    raise FormatError(f"{what}; cgru reads {', '.join(_readable())}")


def _readable() -> list[str]:
    return list(dict.fromkeys(extension for entry in FORMATS if not entry.instead for extension in entry.extensions))
