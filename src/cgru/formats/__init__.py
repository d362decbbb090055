"""Files in, networks out.

- :mod:`.table`: every format, how it is recognised, and which modules read it;
- :mod:`.opening`: a file by its content: ``load``, ``read``;
- :mod:`.containers`: bytes → named arrays and records, one module a container;
- :mod:`.readers`: arrays and records → layers, one module a writer's conventions.

Imports run upwards through that list. Files are data: nothing in one is imported, called or unpickled.
"""

from .opening import load, read, read_file, sniff
from .table import FORMATS, Format, Probe

__all__ = ["FORMATS", "Format", "Probe", "load", "read", "read_file", "sniff"]
