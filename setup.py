"""Build the C extensions. Everything else about the package stands in pyproject.toml.

Environment: ``CGRU_JOBS=N`` compiles N files at a time (default: one a processor), ``CGRU_SANITIZE=address,undefined``
(or ``thread``) builds with sanitizers, ``CGRU_DEBUG=1`` without optimisation, ``CGRU_NO_OPENMP=1`` without OpenMP even
where the compiler has it, ``CGRU_SHARE_ALL=1`` so that a call of any size is shared by the threads asked for,
``CGRU_LIMITED_API=1`` for Python's stable ABI: one build for every Python ≥ 3.11.
"""

import logging
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
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


ISA = {
    "generic": Isa(("",), []),  # every machine
    "avx2": Isa(X86, ["-mavx2", "-mfma", "-mf16c"]),
    "avxvnni": Isa(X86, ["-mavxvnni", "-mavx2", "-mfma", "-mf16c"]),
    "avx512": Isa(X86, AVX512),
    "avx512vnni": Isa(X86, [*AVX512, "-mavx512vnni"]),
    "avx512bf16": Isa(X86, [*AVX512, "-mavx512vnni", "-mavx512bf16"]),
    "neon": Isa(ARM, []),
    "neondot": Isa(ARM, ["-march=armv8.2-a+dotprod"]),
}
# Loops for the compiler to vectorize: nobody reads errno or the floating-point flags, and the bits stay the same.
LOOPS = ["-fno-math-errno", "-fno-trapping-math"]
OPENMP = [(["-fopenmp"], ["-fopenmp"]), (["-Xpreprocessor", "-fopenmp"], ["-lomp"])]
PROBE = "#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n"


def isa_of(source: str) -> Isa | None:
    """The instruction set that a source file is for, from its name; None for an ordinary one."""
    path = Path(source)
    return ISA[path.stem.rpartition("_")[2]] if path.parent.name == "isa" else None


def flags_of(source: str) -> list[str]:
    """The flags that a source file alone gets."""
    isa = isa_of(source)
    return [*(isa.flags if isa else []), *(LOOPS if Path(source).stem.startswith("loops_") else [])]


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class BuildExt(build_ext):
    """Compiles several files at a time and says so; gives each instruction set's file its own flags, and the BLAS
    module the compiler's OpenMP where there is one."""

    def build_extensions(self) -> None:
        if not any(Path(folder, "Python.h").exists() for folder in self.include_dirs):
            raise SystemExit("cgru: Python.h is missing; install Python's headers (apt install python3-dev)")
        if self.compiler.compiler_type == "msvc":
            raise SystemExit("cgru: the C core is written for gcc and clang; build with MinGW's (--compiler=mingw32)")
        self.compile_args, self.link_args = self.common_flags()
        self.openmp_args = self.openmp()
        self.compile_all, self.compiler.compile = self.compiler.compile, self.compile_together
        if self.verbose == 1:
            logging.getLogger().setLevel(logging.WARNING)  # a line a file; -v shows its command too
        with ThreadPoolExecutor(int(os.environ.get("CGRU_JOBS") or processors())) as self.pool:
            self.parallel = len(self.extensions)  # they wait for their files in the one pool
            super().build_extensions()

    def common_flags(self) -> tuple[list[str], list[str]]:
        compile_args = ["-std=gnu11", "-O0" if os.environ.get("CGRU_DEBUG") else "-O3", "-g0"]
        # One product and one sum stay two roundings unless a kernel asks for fma by name.
        compile_args += ["-ffp-contract=off", "-fvisibility=hidden", "-pthread"]
        # What the stable ABI lacks is then an error here, not at import.
        compile_args.append("-Werror=implicit-function-declaration")
        link_args = ["-pthread"]
        if os.environ.get("CGRU_SHARE_ALL"):
            compile_args += ["-DCGRU_WAKE_WORK=1", "-DCGRU_SHARE_WORK=1"]
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
        for compile_args, link_args in OPENMP:
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

    def compile_together(self, sources: list[str], *args: Any, extra_postargs: list[str], **rest: Any) -> list[str]:
        """The compiler's ``compile``, several files at a time, each with its own flags and a line when it is done."""

        def compile_one(source: str) -> list[str]:
            begun = time.monotonic()
            objects: list[str] = self.compile_all(
                [source], *args, **rest, extra_postargs=[*extra_postargs, *flags_of(source)]
            )
            if self.verbose:
                sys.stdout.write(f"cgru: compiled {source} in {time.monotonic() - begun:.0f} s\n")
                sys.stdout.flush()
            return objects

        started = [self.pool.submit(compile_one, source) for source in sources]
        try:
            return [made for one in started for made in one.result()]
        except BaseException:
            self.pool.shutdown(wait=False, cancel_futures=True)
            raise

    def build_extension(self, ext: Extension) -> None:
        compile_args, link_args = self.openmp_args if ext.name.endswith("_blas") else ([], [])
        ext.extra_compile_args = [*self.compile_args, *compile_args]
        ext.extra_link_args = [*self.link_args, *link_args]
        isas = {source: isa_of(source) for source in ext.sources}
        ext.sources = [s for s, isa in isas.items() if isa is None or self.plat_name.endswith(isa.machines)]
        if not self.plat_name.endswith((*X86, *ARM)):
            ext.define_macros.append(("CGRU_GENERIC_ONLY", "1"))
        super().build_extension(ext)


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
