"""Memory and power are sampled from what really runs."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.processes import until

from qforge.machine import usage


def test_the_peak_of_a_process_group_is_seen_while_it_runs() -> None:
    """A child takes 300 MiB, for three samples, and gives them back: what is left at the end says nothing of it."""
    code = "x = b'x' * (300 << 20); print(1, flush=True); input(); del x; print(2, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as child:
        assert child.stdout
        assert child.stdin
        with usage.sampled(child.pid) as used:
            assert child.stdout.readline() == b"1\n"
            before = len(used.resident_gib)
            until(lambda: len(used.resident_gib) >= before + 3)
            child.stdin.write(b"\n")
            child.stdin.flush()
            assert child.stdout.readline() == b"2\n"
        after = usage.resident_gib(child.pid)
        child.communicate(b"\n")
    found = used.summary(tokens=10)
    assert found["peak_resident_gib"] > 300 / 1024
    assert after < 100 / 1024
    assert used.ended - used.began > 1


def test_a_process_that_has_ended_has_no_memory() -> None:
    with subprocess.Popen([sys.executable, "-c", ""], start_new_session=True) as child:
        child.wait()
    assert usage.resident_gib(child.pid) == 0


def test_energy_is_power_by_time_for_each_token() -> None:
    watts = [(10.0, 50.0), (11.0, 100.0), (12.0, 300.0), (13.0, 50.0)]
    used = usage.Usage(resident_gib=[1.0], gpu_gib=[3.0, 5.0], gpu_watts=watts, began=10.0, ended=14.0)
    found = used.summary(tokens=50)
    assert found == {"peak_resident_gib": 1.0, "gpu_peak_gib": 5.0, "gpu_watts": 150.0, "gpu_joules_per_token": 12.0}


def test_power_counts_only_while_requests_are_answered() -> None:
    """Prompts are made before and answers are counted after: then the GPU idles."""
    watts = [(10.0, 50.0), (11.0, 100.0), (12.0, 300.0), (13.0, 50.0)]
    used = usage.Usage(resident_gib=[1.0], gpu_watts=watts, began=9.9, ended=13.0)
    found = used.summary(20, within=(10.2, 12.2))
    assert (found["gpu_watts"], found["gpu_joules_per_token"]) == (200.0, pytest.approx(20.0))
    brief = used.summary(20, within=(11.9, 12.1))
    assert (brief["gpu_watts"], brief["gpu_joules_per_token"]) == (300.0, pytest.approx(3.0)), (
        "the sample that comes closest"
    )
