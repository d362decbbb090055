"""Build the C extensions. Everything else about the package stands in pyproject.toml.

Environment: ``CGRU_SANITIZE=address,undefined`` (or ``thread``) builds with sanitizers, ``CGRU_DEBUG=1``
without optimisation, ``CGRU_NO_OPENMP=1`` without OpenMP even where the compiler has it,
``CGRU_LIMITED_API=1`` for Python's stable ABI: one build for every Python ≥ 3.11.
"""

import os
import tempfile
from glob import glob
from pathlib import Path
from typing import Any, NamedTuple

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError

X86, ARM = ("x86_64", "amd64"), ("aarch64", "arm64")
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma", "-mf16c"]


class Isa(NamedTuple):
    """What core/isa/<precision>_<name>.c is compiled for, and the flags it alone gets."""

    machines: tuple[str, ...]
    flags: list[str]
    msvc_flags: list[str]


ISA = {
    "generic": Isa(("",), [], []),  # every machine
    "avx2": Isa(X86, ["-mavx2", "-mfma", "-mf16c"], ["/arch:AVX2"]),
    "avxvnni": Isa(X86, ["-mavxvnni", "-mavx2", "-mfma", "-mf16c"], ["/arch:AVX2"]),
    "avx512": Isa(X86, AVX512, ["/arch:AVX512"]),
    "avx512vnni": Isa(X86, [*AVX512, "-mavx512vnni"], ["/arch:AVX512"]),
    "avx512bf16": Isa(X86, [*AVX512, "-mavx512vnni", "-mavx512bf16"], ["/arch:AVX512"]),
    "neon": Isa(ARM, [], []),
    "neondot": Isa(ARM, ["-march=armv8.2-a+dotprod"], []),
}
OPENMP = [(["/openmp"], []), (["-fopenmp"], ["-fopenmp"]), (["-Xpreprocessor", "-fopenmp"], ["-lomp"])]
PROBE = "#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n"


def isa_of(source: str) -> Isa | None:
    """The instruction set that a source file is for, from its name; None for an ordinary one."""
    path = Path(source)
    return ISA[path.stem.rpartition("_")[2]] if path.parent.name == "isa" else None


class BuildExt(build_ext):
    """Gives each instruction set's file its own flags, and the compiler's OpenMP where there is one."""

    def build_extensions(self) -> None:
        if not any(Path(folder, "Python.h").exists() for folder in self.include_dirs):
            raise SystemExit("cgru: Python.h is missing; install Python's headers (apt install python3-dev)")
        self.msvc = self.compiler.compiler_type == "msvc"
        self.compile_args, self.link_args = self.common_flags()
        super().build_extensions()

    def common_flags(self) -> tuple[list[str], list[str]]:
        if self.msvc:
            optimise = ["/Od", "/Zi"] if os.environ.get("CGRU_DEBUG") else ["/O2"]
            return [*optimise, "/fp:precise", "/std:c11"], []
        compile_args = ["-std=gnu11", "-O0" if os.environ.get("CGRU_DEBUG") else "-O3", "-g0"]
        # One product and one sum stay two roundings unless a kernel asks for fma by name.
        compile_args += ["-ffp-contract=off", "-fvisibility=hidden", "-pthread"]
        # What the stable ABI lacks is then an error here, not at import.
        compile_args.append("-Werror=implicit-function-declaration")
        link_args = ["-pthread"]
        if sanitizers := os.environ.get("CGRU_SANITIZE"):
            compile_args += [f"-fsanitize={sanitizers}", "-fno-omit-frame-pointer", "-O1", "-g"]
            link_args.append(f"-fsanitize={sanitizers}")
        elif os.environ.get("CGRU_DEBUG"):
            compile_args.append("-g")
        return compile_args, link_args

    def openmp(self) -> tuple[list[str], list[str]]:
        """Flags with which this compiler builds and links an OpenMP program; none where it cannot."""
        if os.environ.get("CGRU_NO_OPENMP"):
            return [], []
        for compile_args, link_args in OPENMP[:1] if self.msvc else OPENMP[1:]:
            with tempfile.TemporaryDirectory() as folder:
                probe = Path(folder, "probe.c")
                probe.write_text(PROBE, encoding="ascii")
                try:
                    objects = self.compiler.compile([str(probe)], folder, extra_postargs=compile_args)
                    program = str(Path(folder, "probe"))
                    self.compiler.link_executable(objects, program, extra_postargs=link_args)
                except (CompileError, LinkError):
                    continue
                return compile_args, link_args
        print("cgru: this compiler has no OpenMP; the blas backend's fused loops will run on one thread")
        return [], []

    def build_extension(self, ext: Extension) -> None:
        compile_args, link_args = self.openmp() if ext.name.endswith("_blas") else ([], [])
        ext.extra_compile_args = [*self.compile_args, *compile_args]
        ext.extra_link_args = [*self.link_args, *link_args]
        isas = {source: isa_of(source) for source in ext.sources}
        ext.sources = [s for s, isa in isas.items() if isa is None or self.plat_name.endswith(isa.machines)]
        if not self.plat_name.endswith((*X86, *ARM)):
            ext.define_macros.append(("CGRU_GENERIC_ONLY", "1"))
        compile_all = self.compiler.compile

        def compile_each(sources: list[str], *args: Any, extra_postargs: list[str], **rest: Any) -> list[str]:
            objects = []
            for source in sources:
                isa = isa_of(source)
                own = [] if isa is None else isa.msvc_flags if self.msvc else isa.flags
                objects += compile_all([source], *args, **rest, extra_postargs=[*extra_postargs, *own])
            return objects

        self.compiler.compile = compile_each
        try:
            super().build_extension(ext)
        finally:
            self.compiler.compile = compile_all


LIMITED_API = bool(os.environ.get("CGRU_LIMITED_API"))
MACROS: list[tuple[str, str | None]] = [("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")]
if LIMITED_API:
    MACROS.append(("Py_LIMITED_API", "0x030b0000"))

SOURCES = {
    "cgru.engine.backends._blas": ["src/cgru/engine/backends/_blas.pyx"],
    "cgru.engine.backends._packed": [
        "src/cgru/engine/backends/_packed.pyx",
        *sorted(glob("src/cgru/core/**/*.c", recursive=True)),
    ],
}
HEADERS = sorted(glob("src/cgru/**/*.h", recursive=True) + glob("include/cgru/*.h"))
EXTENSIONS = [
    Extension(
        name,
        sources,
        depends=HEADERS,
        include_dirs=["include", "src/cgru/core", numpy.get_include()],
        define_macros=list(MACROS),  # a list of its own: build_extension adds to it
        py_limited_api=LIMITED_API,
    )
    for name, sources in SOURCES.items()
    if os.path.exists(sources[0])
]

setup(
    ext_modules=cythonize(EXTENSIONS, compiler_directives={"language_level": 3}),
    cmdclass={"build_ext": BuildExt},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if LIMITED_API else {},
)
