"""Models as Keras of other years saves them, in every container: made by make_fixtures/keras_versions.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cgru

FOLDER = Path(__file__).parent / "fixtures" / "keras_versions"
VERSIONS = sorted(path.stem for path in FOLDER.glob("*.npz"))
FILES = sorted(path.name for path in FOLDER.glob("*.gz"))


def test_there_are_files_of_every_version() -> None:
    assert {"2.16", "3.3", "3.8"} <= set(VERSIONS)
    assert {name.partition("-")[0] for name in FILES} == set(VERSIONS)


@pytest.mark.parametrize("file", FILES)
def test_it_gives_keras_outputs(file: str) -> None:
    version, _, rest = file.partition("-")
    model = rest.partition(".")[0]
    golden = np.load(FOLDER / f"{version}.npz")
    config = FOLDER / f"{version}-{model}.json" if file.endswith(".weights.h5.gz") else None
    net = cgru.load(FOLDER / file, config=config)
    np.testing.assert_allclose(net(golden[f"{model}:x"]), golden[f"{model}:y"], rtol=0, atol=2e-6)
