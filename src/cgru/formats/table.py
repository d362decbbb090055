"""The one table of formats: what each is called, how it is recognised, which modules read it.

To add a format, write a container with ``read(source) -> TensorFile`` and, if its files say their own layers, a
reader with ``load(source) -> list[Layer]``, or a :class:`cgru.Graph`, and add a line to :data:`FORMATS`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import CgruError
from .containers import safetensors
from .containers.file_bytes import FileBytes, Source
from .containers.tensorfile import TensorFile
from .readers import native

# The modules of the other formats are imported where a file needs them: a process that loads a native network
# and ends soon would spend more time on them than on its network.

if TYPE_CHECKING:
    from ..builder import Graph
    from ..layers import Layer

SAFETENSORS = ".containers.safetensors"
_KERAS = ".readers.keras_files"
_LAYERS = re.compile(rb'"layers"\s{0,99}:\s{0,99}\[')
_SETTINGS = re.compile(rb'"model_data"\s{0,99}:\s{0,99}\{')
_STATE = re.compile(rb'"state_dict"\s{0,99}:\s{0,99}\{')
_HDF5 = b"\x89HDF\r\n\x1a\n"


class Probe(NamedTuple):
    """What the sniffers look at: the first bytes of a file, and for a zip what its members make it."""

    source: FileBytes
    head: bytes
    zip_kind: str


class Format(NamedTuple):
    """One line of the table.

    ``module`` has ``read(source) -> TensorFile``; ``builder`` has ``load(source)``, a list of layers or a graph,
    where the file says its own, and is empty where layers are inferred from the tensors. ``options`` are the
    arguments of :func:`cgru.load` that ``builder`` takes beside it. A format that is known but not read has
    ``instead``: what to do with such a file. ``by_layers``: where a caller says ``layers=``, the tensors alone
    are taken, and what the file says of its own network is left.
    """

    title: str
    extensions: tuple[str, ...]
    sniff: Callable[[Probe], bool]
    module: str = ""
    builder: str = ""
    instead: str = ""
    options: tuple[str, ...] = ()
    by_layers: bool = False

    def read(self, source: Source) -> TensorFile:
        return importlib.import_module(self.module, __package__).read(source)

    def layers(
        self, source: Source, layers: str | Sequence[Any] | None, prefix: str | None, **options: Any
    ) -> list[Layer] | Graph:
        """What :class:`cgru.Model` is made of; ``options`` are None where a caller leaves them out."""
        given = {name: value for name, value in options.items() if value is not None}
        for name in given:
            if name not in self.options:
                takers = " and ".join(entry.title for entry in FORMATS if name in entry.options)
                raise CgruError(f"{name}: this is for {takers} files, not {self.title}; leave {name}= away")
        if not self.builder or (self.by_layers and layers is not None):
            from .readers import torch_modules, torch_words

            file = self.read(source)
            read = torch_modules.layers_of if file.modules else torch_words.network_from
            return read(file, layers, prefix)
        if layers is not None or prefix is not None:
            raise CgruError(f"a {self.title} file says its own layers; leave layers= and prefix= away")
        return importlib.import_module(self.builder, __package__).load(source, **given)


def _is_native(probe: Probe) -> bool:
    if not safetensors.looks_like(probe.head):
        return False
    # Cheap before strict: only a header that holds the word is parsed here.
    header = probe.source.data[8 : 8 + int.from_bytes(probe.head[:8], "little")]
    return native.FORMAT.encode() in bytes(header) and native.is_native(safetensors.read_metadata(probe.source))


def _is_torch_stream(probe: Probe) -> bool:
    from .containers.torch_stream import looks_like

    return looks_like(probe.head)


def _is_pickle(probe: Probe) -> bool:
    from .containers.pickle_file import looks_like

    return looks_like(probe.source.data)


def _is_json(probe: Probe) -> bool:
    from .containers.json_arrays import looks_like

    return looks_like(probe.head)


def _is_rtneural(probe: Probe) -> bool:
    """RTNeural's list of layers, or GuitarML's settings beside a state_dict; other JSON is names and numbers."""
    if not _is_json(probe):
        return False
    text = probe.source.data
    return bool(_LAYERS.search(text) or (_SETTINGS.search(text) and _STATE.search(text)))


def _is_c(probe: Probe) -> bool:
    from .containers.c_tables import looks_like

    return looks_like(probe.source.data)


def _is_onnx(probe: Probe) -> bool:
    from .containers.onnx_file import looks_like

    return looks_like(probe.head)


def _is_tensorflow(probe: Probe) -> bool:
    from .containers.tensorflow_graph import looks_like

    return looks_like(probe.source.data)


def _is_saved_model(probe: Probe) -> bool:
    from .containers.tensorflow_graph import looks_like_saved_model

    return looks_like_saved_model(probe.source.data)


_SAVED_MODEL = (
    "a TensorFlow SavedModel, whose graph cgru does not run; export it as "
    "tf.keras.models.load_model(folder).save('model.keras') where it was saved by Keras, "
    "else np.savez('model.npz', **{v.name: v.numpy() for v in tf.saved_model.load(folder).variables})"
)

#: Every format cgru knows, in the order in which a file is tried for them.
FORMATS = (
    Format("PyTorch", (".pt", ".pth", ".ckpt"), lambda p: p.zip_kind == "torch", ".containers.torch_zip"),
    Format("Keras", (".keras",), lambda p: p.zip_kind == "keras", _KERAS, _KERAS, options=("config",)),
    Format("npz", (".npz",), lambda p: p.zip_kind == "npz", ".containers.npz"),
    Format("cgru", (".safetensors",), _is_native, SAFETENSORS, ".readers.native"),
    Format("safetensors", (".safetensors",), lambda p: safetensors.looks_like(p.head), SAFETENSORS),
    Format("HDF5", (".h5", ".hdf5"), lambda p: p.head.startswith(_HDF5), _KERAS, _KERAS, options=("config",)),
    Format("torch.export", (".pt2",), lambda p: p.zip_kind == "pt2", ".containers.pt2", ".readers.pt2",
           by_layers=True),
    Format("TorchScript", (".pt", ".jit"), lambda p: p.zip_kind == "torchscript", ".containers.torch_script",
           ".readers.torchscript.network", options=("inputs",), by_layers=True),
    Format("PyTorch before 1.6", (".pt", ".pth"), _is_torch_stream, ".containers.torch_stream"),
    Format("pickle", (".pkl",), _is_pickle, ".containers.pickle_file"),
    Format("RTNeural", (".json",), _is_rtneural, ".containers.json_arrays", ".readers.rtneural", by_layers=True),
    Format("JSON", (".json",), _is_json, ".containers.json_arrays"),
    Format("SavedModel", (".pb",), _is_saved_model, instead=_SAVED_MODEL),
    Format("TensorFlow Lite", (".tflite",), lambda p: p.head[4:8] == b"TFL3", instead=(
        "a TensorFlow Lite model, which cgru does not read; load the Keras model that it was made of, model.keras, or "
        "its weights, model.weights.h5 with config=model.to_json()"
    )),
    Format("TensorFlow", (".pb",), _is_tensorflow, ".containers.tensorflow_graph", ".containers.tensorflow_graph",
           by_layers=True),
    Format("C table", (".c", ".h"), _is_c, ".containers.c_tables"),
    Format("ONNX", (".onnx",), _is_onnx, ".containers.onnx_file", ".readers.onnx_network",
           options=("inputs", "state", "time_axis")),
)  # fmt: skip

#: Folders that are a format, by the ending of a file in them.
FOLDERS = (
    Format("SavedModel", ("saved_model.pb",), lambda p: False, instead=_SAVED_MODEL),
    Format("npy folder", (".npy",), lambda p: False, ".containers.npy_folder"),
)  # fmt: skip


def readable() -> list[str]:
    """The extensions of the files that cgru reads."""
    return list(dict.fromkeys(extension for entry in FORMATS if entry.module for extension in entry.extensions))
