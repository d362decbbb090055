"""Whole archives on one machine: sequences by the million, files by the folder, columns of Parquet and Arrow."""

from .batches import map

__all__ = ["map"]
