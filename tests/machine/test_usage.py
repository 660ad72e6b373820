"""Memory and power are sampled from what really runs."""

from __future__ import annotations

import shutil
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
    assert used.seconds > 1


def test_a_process_that_has_ended_has_no_memory() -> None:
    with subprocess.Popen([sys.executable, "-c", ""], start_new_session=True) as child:
        child.wait()
    assert usage.resident_gib(child.pid) == 0


@pytest.mark.parametrize(
    ("output", "found"),
    [
        ("1024, 70.50\n", (1.0, 70.5)),
        ("1024, 70.50\n2048, 100.00\n", (3.0, 170.5)),
        ("1024, [N/A]\n", (1.0, None)),
        ("[N/A], [N/A]\n", (None, None)),
    ],
)
def test_what_nvidia_smi_does_not_tell_is_not_made_up(output: str, found: tuple[float | None, float | None]) -> None:
    assert usage.parse(output) == found


def test_energy_is_power_by_time_for_each_token() -> None:
    used = usage.Usage(resident_gib=[1.0], gpu_gib=[3.0, 5.0], gpu_watts=[100.0, 300.0], seconds=4.0)
    found = used.summary(tokens=80)
    assert found == {"peak_resident_gib": 1.0, "gpu_peak_gib": 5.0, "gpu_watts": 200.0, "gpu_joules_per_token": 10.0}


@pytest.mark.gpu
@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="no nvidia-smi here")
def test_a_gpu_says_what_it_draws() -> None:
    memory, power = usage.gpus()
    assert memory is not None
    assert memory > 0
    assert power is not None
    assert power > 0
