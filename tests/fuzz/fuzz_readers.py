"""Fuzz target: whatever the bytes, a reader returns arrays or raises a CgruError.

    pip install -e '.[fuzz]'
    python tests/fuzz/fuzz_readers.py --seeds corpus        # writes the first inputs into a folder of yours
    python tests/fuzz/fuzz_readers.py -max_total_time=180 -rss_limit_mb=1024 -timeout=10 corpus

The first byte of an input chooses how the rest is read, so that zips can be mutated inside their checksums:
``Z`` puts a pickle into a sound archive, ``N`` an .npy member, ``S`` a header before safetensors data, ``T`` the code
of a class into a sound TorchScript archive; anything else goes to every reader as a file.
"""

from __future__ import annotations

import io
import struct
import sys
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    import atheris

    instrumented = atheris.instrument_imports(include=["cgru"])
else:
    instrumented = nullcontext()
with instrumented:
    from cgru.errors import CgruError
    from cgru.formats.containers import (
        c_tables,
        json_arrays,
        npz,
        safetensors,
        tensorflow_graph,
        torch_script,
        torch_zip,
    )
    from cgru.formats.containers.file_bytes import Source
    from cgru.formats.containers.tensorfile import TensorFile
    from cgru.formats.containers.zip_members import zip_kind
    from cgru.formats.readers.torchscript import network

import seeds as crafted

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures" / "containers"
_SCRIPTED = FIXTURES.parent / "torchscript" / "loop.scripted.pt"


def _zip(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def seeds() -> dict[str, bytes]:
    """Whole files, and the parts that the target wraps into sound files again."""
    files = {path.name: path.read_bytes() for path in sorted(FIXTURES.iterdir()) if path.name != "golden.npz"}
    for name in ("state_dict.pt", "protocol4.pt", "views.pt", "dtypes.pt", "lightning.ckpt", "module.pt"):
        with zipfile.ZipFile(FIXTURES / name) as archive:
            (pickle,) = (member for member in archive.namelist() if member.endswith("data.pkl"))
            files[f"{name}:data.pkl"] = b"Z" + archive.read(pickle)
    with zipfile.ZipFile(FIXTURES / "stored.npz") as archive:
        files["stored.npz:npy"] = b"N" + archive.read("f_float32.npy")
    whole = files["library.safetensors"]
    files["library.safetensors:header"] = b"S" + whole[8 : 8 + int.from_bytes(whole[:8], "little")]
    with zipfile.ZipFile(_SCRIPTED) as archive:
        files["loop.scripted.pt:code"] = b"T" + archive.read(_code(archive))
    texts = ("json/", "c/", "tensorflow/")
    return files | {name: content for name, content in crafted.seeds().items() if name.startswith(texts)}


def _code(archive: zipfile.ZipFile) -> str:
    """The member that holds the class of the module itself."""
    return next(name for name in archive.namelist() if b"class Loop(" in archive.read(name))


def files(data: bytes) -> list[bytes]:
    """The files that one input stands for."""
    kind, rest = data[:1], data[1:]
    if kind == b"Z":
        storages = {f"m/data/{key}": bytes(range(64)) for key in range(4)}
        return [_zip({"m/data.pkl": rest, "m/byteorder": b"little", **storages})]
    if kind == b"N":
        return [_zip({"a.npy": rest})]
    if kind == b"S":
        return [struct.pack("<Q", len(rest)) + rest + bytes(range(64))]
    if kind == b"T":
        with zipfile.ZipFile(_SCRIPTED) as archive:
            changed = _code(archive)
            return [_zip({name: rest if name == changed else archive.read(name) for name in archive.namelist()})]
    return [data]


READERS: tuple[Callable[[Source], TensorFile], ...] = (
    torch_zip.read, safetensors.read, npz.read, torch_script.read, json_arrays.read, c_tables.read,
    tensorflow_graph.read,
)  # fmt: skip


def one_input(data: bytes) -> None:
    """Read ``data`` by every reader; anything but a CgruError, or arrays that are no arrays, gets out."""
    for content in files(data):
        for read in READERS:
            try:
                found = read(content)
            except CgruError:
                continue
            for name, values in found.tensors.items():
                name.encode()
                assert values.dtype.kind in "fiub"
                assert values.dtype.isnative
                np.add.reduce(values, axis=None, dtype=np.float64)
            assert found.aliases.keys() <= found.tensors.keys()
        calls: list[Callable[[bytes], object]] = [zip_kind, safetensors.dtypes]
        if data[:1] == b"T":
            calls.append(network.load)
        for call in calls:
            try:
                call(content)
            except CgruError:
                continue
        for sniff in (torch_zip.looks_like, safetensors.looks_like, npz.looks_like):
            sniff(content[:64])


def main() -> None:
    if sys.argv[1:2] == ["--seeds"]:
        folder = Path(sys.argv[2])
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in seeds().items():
            (folder / name.replace(":", "-")).write_bytes(content)
        return
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
