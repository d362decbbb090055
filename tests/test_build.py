"""setup.py compiles several files at a time and says so; the wheels' script first looks for what it will call."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
JOBS = 3

# Writes what it is asked to write, and how many of it run meanwhile. The first ones wait for each other (ten seconds at
# most), so that the count does not depend on how fast the machine is.
COMPILER = """#!/bin/sh
case " $* " in
*" -c "*)
    touch "{folder}/running.$$"
    tries=0
    while [ ! -e "{folder}/met" ] && [ $tries -lt 100 ]; do
        [ "$(ls "{folder}" | grep -c running)" -lt {jobs} ] || touch "{folder}/met"
        tries=$((tries + 1))
        sleep 0.1
    done
    ls "{folder}" | grep -c running >>"{folder}/counts"
    touch "{folder}/met"
    ;;
esac
while [ $# -gt 1 ]; do
    [ "$1" != -o ] || : >"$2"
    shift
done
rm -f "{folder}/running.$$"
"""


def test_several_files_are_compiled_at_a_time_and_each_gives_a_line(tmp_path: Path) -> None:
    for name in "Cython", "setuptools":
        pytest.importorskip(name, reason=f"setup.py needs {name}; pip install -e '.[dev]'")
    compiler = tmp_path / "cc"
    compiler.write_text(COMPILER.format(folder=tmp_path, jobs=JOBS), encoding="ascii")
    compiler.chmod(0o755)
    settings = {"CC": str(compiler), "LDSHARED": f"{compiler} -shared", "CGRU_JOBS": str(JOBS), "CGRU_NO_OPENMP": "1"}
    folders = ["--build-temp", str(tmp_path / "temp"), "--build-lib", str(tmp_path / "lib")]
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--force", *folders],
        cwd=ROOT, env=os.environ | settings, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    counts = [int(line) for line in (tmp_path / "counts").read_text(encoding="ascii").split()]
    assert max(counts) == JOBS
    lines = [line for line in done.stdout.splitlines() if line.startswith("cgru: compiled ")]
    assert len(lines) == len(counts) > 10
    assert any("core/isa/f32_generic.c" in line for line in lines)


def test_the_wheels_script_names_a_missing_compiler_before_it_builds(tmp_path: Path) -> None:
    script = [sys.executable, "tools/build_wheels.py", "aarch64", "--out", str(tmp_path / "dist")]
    settings = os.environ | {"PATH": str(tmp_path)}
    done = subprocess.run(script, cwd=ROOT, env=settings, capture_output=True, text=True)
    assert done.returncode == 1
    assert "aarch64-linux-gnu-gcc" in done.stderr
    assert "apt install" in done.stderr
    assert not (tmp_path / "dist").exists()
