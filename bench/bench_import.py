"""How long do `import cgru` and `import numpy` take in a fresh process?"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest


@pytest.mark.parametrize("module", ["numpy", "cgru"])
def test_import(benchmark: Any, module: str) -> None:
    def start() -> None:
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)

    benchmark.pedantic(start, rounds=25, warmup_rounds=3)
