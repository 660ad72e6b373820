"""Measurements exclude one another where they share a device, whatever its variable calls it, and nowhere else."""

from __future__ import annotations

import ast
import itertools
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.jobs import job
from support.nvml import Card, ask, driver

from qforge.pipeline.alone import amd_visible, locks, step, turns, whole
from qforge.pipeline.run import Run
from qforge.plan import limits
from qforge.store.locks import HELD, locked_now

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="the driver of these tests is compiled")
H200, L40S = Card("NVIDIA H200", "9.0", 143771), Card("NVIDIA L40S", "8.9", 46068)
CUDA = "CUDA_VISIBLE_DEVICES"
SHARED = ("serve.shared=true", "+runtime.args.kv_cache_memory_bytes=1000000")


def taken(folder: Path, cards: list[Card], *variables: dict[str, str]) -> list[dict[str, bool]]:
    """What a measurement on GPUs locks with each set of variables: name -> whether with others."""
    code = f"""
from qforge.pipeline.alone import locks
from qforge.config.compose import compose
from qforge.config.places import CONF
made = compose(CONF, "hw=h200", "runtime=vllm")
print([dict(locks(made, variables)) for variables in {list(variables)}])
"""
    done = ask(code, driver(folder, *cards))
    assert done.returncode == 0, done.stderr
    return list(ast.literal_eval(done.stdout))


def exclude(one: dict[str, bool], other: dict[str, bool]) -> bool:
    return any(not (one[name] and other[name]) for name in one.keys() & other.keys())


@needs_cc
def test_whoever_names_the_same_gpu_in_another_way_waits(tmp_path: Path) -> None:
    first = [{CUDA: "0"}, {CUDA: "GPU-0000"}, {CUDA: "GPU-00"}, {CUDA: "MIG-0"}, {CUDA: "0,1"}, {CUDA: "1,0"}, {}]
    second = [{CUDA: "1"}, {CUDA: "GPU-1111"}, {CUDA: "MIG-1"}]
    found = taken(tmp_path, [H200, H200], *first, *second)
    for one, other in itertools.combinations(found[: len(first)], 2):
        assert exclude(one, other), (one, other)
    for one, other in itertools.product(found[:4], found[len(first) :]):
        assert not exclude(one, other), (one, other)


@needs_cc
def test_where_numbers_do_not_say_which_gpu_it_may_be_any(tmp_path: Path) -> None:
    """CUDA counts by speed, the driver by slot."""
    found = taken(
        tmp_path, [H200, L40S], {CUDA: "0"}, {CUDA: "GPU-1111"}, {CUDA: "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    )
    assert found == [{"machine": False}, {"machine": True, "GPU-1111": False}, {"machine": True, "GPU-0000": False}]
    assert exclude(found[0], found[1])
    assert not exclude(found[1], found[2])


@needs_cc
def test_numbers_of_mig_devices_are_not_those_of_gpus(tmp_path: Path) -> None:
    code = "from qforge.machine import nvidia; print(nvidia.visible({'CUDA_VISIBLE_DEVICES': '0'}))"
    assert ask(code, {**driver(tmp_path, H200, H200), "TEST_MIG": "1"}).stdout.strip() == "None"


@pytest.mark.parametrize(
    ("variables", "gpus"),
    [
        ({}, None),
        ({"HIP_VISIBLE_DEVICES": "1,0"}, ["amd-0", "amd-1"]),
        ({"CUDA_VISIBLE_DEVICES": "1"}, ["amd-1"]),
        ({"ROCR_VISIBLE_DEVICES": "2,3"}, ["amd-2", "amd-3"]),
        ({"ROCR_VISIBLE_DEVICES": "2,3", "HIP_VISIBLE_DEVICES": "1"}, ["amd-3"]),
        ({"ROCR_VISIBLE_DEVICES": "GPU-5f1b"}, None),
        ({"HIP_VISIBLE_DEVICES": ""}, None),
    ],
)
def test_amds_variables(variables: dict[str, str], gpus: list[str] | None) -> None:
    assert amd_visible(variables) == gpus
    made = job("hw=mi325x")
    assert locks(made, variables) == (
        [("machine", True), *((gpu, False) for gpu in gpus)] if gpus else [("machine", False)]
    )


def test_the_runtimes_own_variables_count(tmp_path: Path) -> None:
    made = job("hw=mi325x", "+runtime.environ.HIP_VISIBLE_DEVICES='3'")
    assert locks(made, {"HIP_VISIBLE_DEVICES": "0"}) == [("machine", True), ("amd-3", False)]
    assert locks(job(), {"CUDA_VISIBLE_DEVICES": "0"}) == [("machine", False)], "on a CPU"


def test_who_shares_a_gpu_waits_and_who_does_not_goes_on(tmp_path: Path) -> None:
    """Real processes: the first has GPU 0 for two seconds; the one on 0 and 1 comes after it, the one on 2 at once."""
    code = """
import sys, time
from qforge.config.compose import compose
from qforge.config.places import CONF
from qforge.pipeline.alone import alone
from qforge.pipeline.run import Run
from pathlib import Path
gpus = f"+runtime.environ.HIP_VISIBLE_DEVICES='{sys.argv[2]}'"
made = compose(CONF, "hw=mi325x", "runtime=vllm", f"store={sys.argv[1]}", gpus)
with alone(Run(made, Path(sys.argv[1], "run"))):
    print("has", flush=True)
    time.sleep(float(sys.argv[3]))
    print(time.time(), flush=True)
"""

    def start(gpus: str, seconds: float) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, str(tmp_path), gpus, str(seconds)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    with start("0", 4) as first:
        assert first.stdout
        assert first.stdout.readline() == "has\n"
        with start("0,1", 0) as both, start("2", 0) as other:
            ended = [float(process.communicate()[0].split()[-1]) for process in (first, both, other)]
    assert ended[2] < ended[0] < ended[1]


def free(run: Run) -> bool:
    """Whether somebody else could time something on the machine now."""
    (lock,) = run.store.root.glob("measuring-*-machine.lock")
    with locked_now(lock) as got:
        return got


def test_servers_that_share_a_device_hold_it_step_by_step(tmp_path: Path) -> None:
    first, second = (Run(job(*SHARED, f"store={tmp_path}"), tmp_path / name) for name in ("first", "second"))
    with ExitStack() as lasting:
        with whole(first), step(first), step(second):
            # a server that was started in a step outlives it
            server = subprocess.Popen(["sleep", "60"], pass_fds=tuple(HELD))
            lasting.callback(server.wait)
            lasting.callback(server.kill)
            assert not free(first)
        assert free(first)


def test_a_server_that_shares_nothing_holds_its_devices_as_long_as_it_lives(tmp_path: Path) -> None:
    run = Run(job(f"store={tmp_path}"), tmp_path / "run")
    with whole(run), step(run):
        assert not free(run)
        assert turns(run) == [], "a stage that times has no turns to take"
    assert free(run)


def test_a_cache_that_takes_all_is_refused_beside_others() -> None:
    with pytest.raises(ValueError, match=r"serve\.shared=true.*\+runtime\.args\.kv_cache_memory_bytes"):
        limits.refuse(job("serve.shared=true"))
