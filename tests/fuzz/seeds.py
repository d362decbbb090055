"""The files that are mutated: every fixture that is small, one native file a precision, and a few that are crafted."""

from __future__ import annotations

import gzip
import io
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np

import cgru

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
CORPUS = Path(__file__).resolve().parent / "corpus.jsonl"
#: Larger seeds would only make a campaign slower: what a reader looks at is at the beginning and the end.
MAX_SEED = 20_000


def seeds() -> dict[str, bytes]:
    """The seeds by name, in an order that never changes for a given set of fixtures."""
    found = {
        str(path.relative_to(FIXTURES)): path.read_bytes()
        for path in sorted(FIXTURES.rglob("*"))
        if path.is_file() and path.stat().st_size <= MAX_SEED and not path.name.endswith((".py", ".md", ".txt"))
    }
    return found | _native() | _archives() | _texts()


def _texts() -> dict[str, bytes]:
    """A table in C source, and a frozen TensorFlow graph of two constants."""
    table = b"""/* made */
#include "rnn.h"
static const rnn_weight dense_weights[6] = { 11, -11, -15, -6, /* a row */ 8, 0x7f };
const float scale[2][2] = { {1.5f, -2.e-1f}, {.25F, 3} };
const DenseLayer dense = { dense_weights, 3, 2, ACTIVATION_TANH };
"""

    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    def constant(name: bytes, data: bytes) -> bytes:
        tensor = b"\x08\x01" + field(2, field(2, b"\x08\x02") + field(2, b"\x08\x03")) + data
        value = field(5, field(1, b"value") + field(2, field(8, tensor)))
        return field(1, field(1, name) + field(2, b"Const") + value)

    graph = constant(b"kernel", field(4, np.arange(6, dtype="<f4").tobytes())) + constant(b"bias", field(5, bytes(8)))
    return {"c/table.c": table, "tensorflow/frozen.pb": graph}


def _archives() -> dict[str, bytes]:
    """One small model in each archive, with something beside it."""
    model, text = (FIXTURES / "torch" / "cell.pt").read_bytes(), b"a model"
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in (("long" * 30 + "/README", text), ("m/" * 60 + "cell.pt", model)):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in (("README", text), ("m/cell.pt", model)):
            zipped.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
    tar = out.getvalue()
    gz = gzip.compress(tar, mtime=0)
    return {"archives/cell.tar": tar, "archives/cell.tar.gz": gz, "archives/cell.zip": packed.getvalue()}


def _native() -> dict[str, bytes]:
    rng = np.random.default_rng(11)
    arrays = [rng.normal(0, 0.3, shape).astype("f4") for shape in ((12, 3), (12, 4), (12,), (12,))]
    lstm = [rng.normal(0, 0.3, shape).astype("f4") for shape in ((16, 4), (16, 4), (16,), (16,))]
    dense = cgru.Dense(rng.normal(size=(2, 4)).astype("f4"), rng.normal(size=2).astype("f4"))
    net = cgru.Model([cgru.GRU.from_arrays(*arrays), cgru.LSTM.from_arrays(*lstm), dense])
    table = cgru.Embedding(rng.normal(size=(5, 3)).astype("f4"), mask_zero=True)
    nets = {"float32": net, "ids": cgru.Model([table, cgru.GRU.from_arrays(*arrays)])}
    nets |= {precision: net.quantize(precision) for precision in ("int8", "int8x16", "bf16", "fp16")}
    made = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, one in nets.items():
            path = Path(folder, f"{name}.safetensors")
            one.save(path)
            made[f"native/{name}.safetensors"] = path.read_bytes()
    return made
