"""Write tests/fixtures/hdf5: the forms of HDF5 that h5py writes, small, with the arrays they hold in golden.npz.

Run with h5py: ``python tests/make_fixtures/hdf5_files.py``. The numbers are seeded and belong to nobody.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

FOLDER = Path(__file__).parent.parent / "fixtures" / "hdf5"
PLAIN: dict[str, Any] = {}
PACKED: dict[str, Any] = {"compression": "gzip", "shuffle": True, "fletcher32": True}


def fill(file: Any) -> None:
    """Every kind of number; storage in one piece and in chunks by every index; a group and attributes in heaps."""
    rng = np.random.default_rng(3)
    for code in "bBhHiIqQefd":
        file[f"kinds/{code if code.islower() else 'u' + code.lower()}"] = (rng.normal(size=(2, 3)) * 40).astype(code)
    file["kinds/bool"] = np.array([True, False, True])
    file["kinds/big_endian"] = np.arange(3, dtype=">f4")
    file["kinds/empty"] = np.zeros((0, 3), np.float32)
    file["kinds/scalar"] = np.float32(2.5)
    for index, (shape, chunk, limits) in enumerate(
        [
            ((5, 7), (2, 3), None),  # a fixed array
            ((5, 7), (5, 7), None),  # one chunk
            ((5, 7), (2, 3), (None, 7)),  # an extensible array
            ((5, 7), (2, 3), (None, None)),  # a B-tree
        ]
    ):
        for name, options in (("plain", PLAIN), ("packed", PACKED)):
            data = rng.normal(size=shape).astype(np.float32)
            file.create_dataset(f"chunks/{name}{index}", data=data, chunks=chunk, maxshape=limits, **options)
    for index in range(12):
        file[f"many/{index}"] = np.float32(index)
    top = file.create_group("model_weights")
    for index in range(10):
        top.attrs[f"layer_names{index}"] = np.array([f"layer {index}".encode()] * 2)
    top.attrs["name"] = "variable"
    top.attrs["keras_version"] = np.bytes_("fixed")


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    golden: dict[str, np.ndarray] = {}
    for libver in ("earliest", "v108", "v110", "latest"):
        path = FOLDER / f"{libver}.h5"
        with h5py.File(path, "w", libver=libver) as file:
            fill(file)
        with h5py.File(path) as file:
            file.visititems(lambda name, item: golden.update({name: item[()]}) if hasattr(item, "dtype") else None)
    np.savez_compressed(FOLDER / "golden.npz", **golden)  # type: ignore[arg-type]
    print(*(f"{path.name}: {path.stat().st_size:,} bytes" for path in sorted(FOLDER.iterdir())), sep="\n")


if __name__ == "__main__":
    main()
