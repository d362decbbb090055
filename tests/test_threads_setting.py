"""threads=, CGRU_NUM_THREADS, and what "auto" makes of affinity and cgroup quotas (both faked)."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any

import pytest

from cgru import CgruError, threads

V2 = "/sys/fs/cgroup/cpu.max"
V1_QUOTA, V1_PERIOD = "/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"

Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Pretend to be a machine: the cores of the affinity mask, and the files of its cgroup."""

    def pretend(cores: int, files: dict[str, str] | None = None) -> None:
        def fake_open(path: str, *args: Any, **kwargs: Any) -> io.StringIO:
            if path not in (files or {}):
                raise FileNotFoundError(path)
            return io.StringIO((files or {})[path])

        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
        monkeypatch.setattr(threads, "open", fake_open, raising=False)

    monkeypatch.delenv("CGRU_NUM_THREADS", raising=False)
    monkeypatch.delenv("CGRU_CORES", raising=False)
    return pretend


@pytest.mark.parametrize(
    ("cores", "files", "expected"),
    [
        (6, {}, 6),
        (6, {V2: "max 100000\n"}, 6),
        (6, {V2: "200000 100000\n"}, 2),
        (6, {V2: "250000 100000\n"}, 3),
        (6, {V2: "50000 100000\n"}, 1),
        (2, {V2: "800000 100000\n"}, 2),
        (6, {V2: ""}, 6),
        (6, {V2: "garbage here\n"}, 6),
        (6, {V1_QUOTA: "300000\n", V1_PERIOD: "100000\n"}, 3),
        (6, {V1_QUOTA: "-1\n", V1_PERIOD: "100000\n"}, 6),
        (6, {V1_QUOTA: "300000\n"}, 6),
        (6, {V1_QUOTA: "300000\n", V1_PERIOD: "0\n"}, 6),
        (6, {V2: "100000 100000\n", V1_QUOTA: "300000\n", V1_PERIOD: "100000\n"}, 1),
    ],
)
def test_auto(machine: Machine, cores: int, files: dict[str, str], expected: int) -> None:
    machine(cores, files)
    assert threads.resolve("auto") == threads.available() == expected


def test_auto_without_affinity(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(6)
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert threads.resolve("auto") == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert threads.resolve("auto") == 1


@pytest.mark.parametrize(
    ("text", "expected"), [(None, 1), ("", 1), ("1", 1), ("3", 3), (" 2 ", 2), ("auto", 4), ("1000", 4)]
)
def test_environment(machine: Machine, monkeypatch: pytest.MonkeyPatch, text: str | None, expected: int) -> None:
    machine(4)
    if text is not None:
        monkeypatch.setenv("CGRU_NUM_THREADS", text)
    assert threads.resolve(None) == expected


def test_the_argument_goes_before_the_environment(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(4)
    monkeypatch.setenv("CGRU_NUM_THREADS", "7")
    assert threads.resolve(2) == 2
    assert threads.resolve("auto") == 4


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "1_0", "auto!", "١x", "1 2"])
def test_garbage_in_the_environment(machine: Machine, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    machine(4)
    monkeypatch.setenv("CGRU_NUM_THREADS", text)
    with pytest.raises(CgruError, match=r"CGRU_NUM_THREADS=.*whole number of at least 1, or auto"):
        threads.resolve(None)
    assert threads.resolve(1) == 1


@pytest.mark.parametrize("value", [0, -1, 1.0, 1.5, "2", "all", [2], object()])
def test_bad_argument(machine: Machine, value: Any) -> None:
    machine(4)
    with pytest.raises(CgruError, match=r"threads.*expected"):
        threads.resolve(value)


def test_no_more_threads_than_cores(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(3, {V2: "200000 100000\n"})
    # The quota is "auto"'s: a number given reads no file of the system.
    assert [threads.resolve(count) for count in (1, 2, 3, 64, 4096)] == [1, 2, 3, 3, 3]
    monkeypatch.setenv("CGRU_NUM_THREADS", "64")
    assert threads.resolve(None) == 3
    monkeypatch.setenv("CGRU_CORES", "5")  # what the user says goes before what the system says
    assert threads.resolve(64) == threads.resolve("auto") == 5


@pytest.mark.parametrize("text", ["0", "-1", "many", "1e3", "5000", "9" * 5000])
def test_garbage_for_cores(machine: Machine, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    machine(4)
    monkeypatch.setenv("CGRU_CORES", text)
    with pytest.raises(CgruError, match=r"CGRU_CORES=.*expected a whole number from 1 to 4096"):
        threads.resolve(2)
    assert threads.resolve(1) == 1
