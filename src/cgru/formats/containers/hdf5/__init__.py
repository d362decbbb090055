"""HDF5, read as data by code of our own: no library, no plug-in, nothing outside the file."""

from .contents import Contents, looks_like, names_of, read

__all__ = ["Contents", "looks_like", "names_of", "read"]
