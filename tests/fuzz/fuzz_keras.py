"""Fuzz target of Keras' files: whatever the bytes, the answer is a CgruError or a network that runs as the reference.

    python tests/fuzz/fuzz_keras.py --files 200000 --seed 1

prints how the files ended. A file that raises anything else, gives other numbers than the reference backend, or
takes more than five seconds of processor time is written to ``--keep`` (a folder) and makes the status 1.

Half of the HDF5 mutations reach past the checksums, which :func:`checksums_off` switches off; configurations are
changed as JSON, and packed again into sound zips.
"""

from __future__ import annotations

import argparse
import collections
import copy
import io
import json
import signal
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import cgru
from cgru.formats.containers.hdf5 import source

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
FOLDERS = ("hdf5", "keras", "cells")
SECONDS = 5
# Numbers at the edges of what headers and configurations count with.
EDGES = [n.to_bytes(8, "little") for n in (0, 1, 7, 255, 2**16, 2**31, 2**32 - 1, 2**48, 2**63, 2**64 - 1)]
VALUES: list[Any] = [None, True, False, 0, 1, -1, 5, 2**31, 1e400, 0.5, "", "x", "tanh", "softmax", [], {}, [0], [[]],
                     [["i", 0, 0, 5]], {"class_name": "GRU"}, "float16", "Masking", "GRU", "mask"]  # fmt: skip


def seeds() -> dict[str, bytes]:
    """The committed files by name; a zip is taken apart and put together by :func:`mutate`."""
    paths = [path for folder in FOLDERS for path in sorted((FIXTURES / folder).iterdir())]
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in paths if path.suffix in (".h5", ".keras")}


def one_input(data: bytes) -> str:
    """How reading ``data`` ended; anything but a network that is right, arrays or a CgruError gets out."""
    try:
        net = cgru.load(data)
    except cgru.CgruError as error:
        refusal = error
    else:
        return _run(net)
    assert len(str(refusal)) <= 2000, f"a message of {len(str(refusal))} letters"
    try:
        arrays = cgru.read(data)
    except cgru.CgruError:
        return type(refusal).__name__
    for values in arrays.values():
        assert values.dtype.kind in "fiub"
        assert values.dtype.isnative
    return f"arrays, {type(refusal).__name__}"


def _run(net: cgru.Model) -> str:
    """The network on every backend's default against the reference, where rounding alone can tell them apart."""
    rng = np.random.default_rng(5)
    first = next(layer for layer in net.layers if not isinstance(layer, (cgru.Masking, cgru.Activation)))
    if net.takes_ids:
        x: np.ndarray = rng.integers(0, first.input_size, (2, 5))
    else:
        x = rng.standard_normal((2, 5, first.input_size or 3)).astype(np.float32)
        x[1, 3:] = 0
    weights = [array for layer in net.layers for array in layer.arrays().values()]
    with np.errstate(all="ignore"):
        y, expected = net(x), cgru.Model(net.layers, backend="reference")(x)
    pairs = list(zip(y, expected, strict=True)) if isinstance(y, tuple) else [(y, expected)]
    for ours, theirs in pairs:
        assert ours.shape == theirs.shape
        # Mutated weights may be of any size; large ones magnify rounding without bound.
        if all(np.abs(array).max(initial=0) <= 8 for array in weights):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
    return "a network"


# ---- mutations ---------------------------------------------------------------------------------------------


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """A changed file: bytes of an HDF5 file, or of a zip, or of a part of it within sound checksums."""
    if data[:2] != b"PK":
        return _bytes(data, rng)
    if rng.random() < 0.1:
        return _bytes(data, rng)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    if rng.random() < 0.5:
        members["model.weights.h5"] = _bytes(members["model.weights.h5"], rng)
    else:
        members["config.json"] = _json(members["config.json"], rng)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def _bytes(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        if len(changed) < 16:
            break
        # Most bytes of a small file are zeros between its structures.
        at = int(rng.integers(len(changed)))
        while not changed[at] and rng.random() < 0.95:
            at = int(rng.integers(len(changed)))
        other, span = int(rng.integers(len(changed))), int(rng.integers(1, 65))
        match int(rng.integers(7)):
            case 0:
                changed[at] ^= 1 << int(rng.integers(8))
            case 1:
                changed[at] = int(rng.integers(256))
            case 2:
                size = int(rng.choice([1, 2, 4, 8]))
                changed[at : at + size] = EDGES[int(rng.integers(len(EDGES)))][:size]
            case 3:
                at &= ~7
                changed[at : at + 8] = (int(rng.integers(len(changed))) & ~7).to_bytes(8, "little")
            case 4:
                changed[at] = (changed[at] + int(rng.integers(-2, 3))) % 256
            case 5:
                changed[at : at + span] = changed[other : other + span]
            case 6 if rng.random() < 0.2:
                del changed[at:]
    return bytes(changed)


def _json(text: bytes, rng: np.random.Generator) -> bytes:
    """The configuration with a few of its values replaced, moved, copied or left out."""
    config = json.loads(text)
    for _ in range(int(rng.integers(1, 4))):
        places = list(_places(config))
        holder, key = places[int(rng.integers(len(places)))]
        other, more = places[int(rng.integers(len(places)))]
        match int(rng.integers(4)):
            case 0:
                holder[key] = copy.deepcopy(VALUES[int(rng.integers(len(VALUES)))])
            case 1:
                holder[key] = json.loads(json.dumps(other[more]))
            case 2 if isinstance(holder, dict):
                del holder[key]
            case _ if isinstance(holder, list):
                holder.insert(int(key), json.loads(json.dumps(holder[key])))
    return json.dumps(config).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


@contextmanager
def checksums_off() -> Iterator[None]:
    verify = source.File.verify
    source.File.verify = lambda self, found: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        source.File.verify = verify  # type: ignore[method-assign]


# ---- a campaign --------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, default=Path("found"))
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    held = list(seeds().items())
    ended: collections.Counter[str] = collections.Counter()
    wrong = 0

    def late(*_: object) -> None:
        raise TimeoutError(f"more than {SECONDS} s of processor time")

    signal.signal(signal.SIGPROF, late)
    for number in range(options.files):
        name, content = held[number % len(held)]
        data = mutate(content, rng)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            if number % 2:
                with checksums_off():
                    outcome = one_input(data)
            else:
                outcome = one_input(data)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            wrong += 1
            outcome = f"WRONG: {type(error).__name__}: {str(error).strip()[:100]}"
            options.keep.mkdir(exist_ok=True)
            (options.keep / f"{options.seed}-{number}{Path(name).suffix}").write_bytes(data)
        signal.setitimer(signal.ITIMER_PROF, 0)
        ended[outcome] += 1
    for outcome, count in ended.most_common():
        print(f"{count:9,}  {outcome}")
    print(f"{options.files:9,} mutated files of {len(held)}, seed {options.seed}: {wrong} wrong")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
