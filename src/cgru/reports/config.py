"""What this installation can do: instruction sets, BLAS, OpenMP, and why a backend cannot run."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
from dataclasses import asdict, dataclass
from typing import Any

from .. import __version__, threads
from ..engine import backends

_BLAS_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_OPENMP_VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "OMP_PROC_BIND")


@dataclass(frozen=True)
class Config:
    """What :func:`show_config` found; printable, and a plain dictionary through :meth:`to_dict`.

    ``backends`` gives for each backend None where it runs here, or the reason why not. ``scipy`` is its version,
    None where it is not installed. ``blas_threads`` and ``openmp`` are the environment variables that are set;
    where none is, those libraries take every core. cgru never changes either setting.
    """

    version: str
    numpy: str
    scipy: str | None
    isa_built: tuple[str, ...]
    isa_available: tuple[str, ...]
    isa_in_use: str | None
    backends: dict[str, str | None]
    default_threads: int
    cores: int
    blas_threads: dict[str, str]
    openmp: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        rows = {
            "cgru": self.version,
            "numpy": self.numpy,
            "scipy": self.scipy or "not installed (the blas backend wants it: pip install 'cgru[blas]')",
            "instruction sets built": ", ".join(self.isa_built) or "none",
            "instruction sets available": ", ".join(self.isa_available) or "none",
            "instruction set in use": self.isa_in_use or "none",
            **{f"backend {name}": reason or "ready" for name, reason in self.backends.items()},
            "threads": f"{self.default_threads} unless said otherwise, {self.cores} with 'auto'",
            "BLAS settings": _settings(self.blas_threads),
            "OpenMP settings": _settings(self.openmp),
        }
        width = max(map(len, rows))
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())

    __repr__ = __str__


def show_config() -> Config:
    """Version, instruction sets built, available and in use, backends, BLAS and OpenMP settings.

    Imports neither SciPy nor any other optional package.
    """
    built, available, in_use = _instruction_sets()
    return Config(
        version=__version__,
        numpy=_version("numpy") or "unknown",
        scipy=_version("scipy"),
        isa_built=built,
        isa_available=available,
        isa_in_use=in_use,
        backends={name: backends.backend(name).unavailable() for name in backends.BACKENDS},
        default_threads=threads.resolve(None),
        cores=threads.available(),
        blas_threads=_set(_BLAS_VARIABLES),
        openmp=_set(_OPENMP_VARIABLES),
    )


def _instruction_sets() -> tuple[tuple[str, ...], tuple[str, ...], str | None]:
    try:
        packed = importlib.import_module("cgru.engine.backends._packed")
    except ImportError:
        return (), (), None
    return tuple(packed.isa_built()), tuple(packed.isa_available()), packed.isa_in_use()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _set(names: tuple[str, ...]) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}


def _settings(found: dict[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in found.items()) or "the library's own default"
