"""A stage that times, as a process, beside others on its devices: only what is timed has them by itself."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.jobs import job

from qforge.envs.process import Environment
from qforge.json_files import read_json
from qforge.pipeline.alone import step, turns
from qforge.pipeline.run import Run
from qforge.store.locks import locked

SHARED = ("serve.shared=true", "+runtime.args.kv_cache_memory_bytes=1000000")
Bench = tuple[Run, Callable[[], Path], Callable[[], list[str]]]
# In place of vLLM: writes down how the devices are held when it is imported, draws requests and sends them.
SAID = """
import fcntl, os, pathlib
def say(what):
    (lock,) = pathlib.Path(os.environ["TEST_STORE"]).glob("measuring-*.lock")
    with lock.open() as file, pathlib.Path(os.environ["TEST_STORE"], "said").open("a") as said:
        held = "free"
        for kind, unless in ((fcntl.LOCK_SH, "alone"), (fcntl.LOCK_EX, "beside")):
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                held = unless
                break
        said.write(f"{what} {held}\\n")
"""
DATASETS = """
from vllm.benchmarks.said import say
def get_samples(options, tokenizer):
    say("draws")
    return ["drawn"]
"""
SERVE = """
from collections import defaultdict
from vllm.benchmarks.said import say
from vllm.benchmarks.datasets import get_samples
say("imports")
def add_cli_args(parser): pass
def get_tokenizer(*given, **options): pass
def main(options):
    assert get_samples(options, get_tokenizer(options.model)) == ["drawn"]
    say("sends")
    return defaultdict(int, total_output_tokens=1, start_times=[0.0])
"""
PARSER = """
from argparse import Namespace
class FlexibleArgumentParser:
    def parse_args(self, given):
        return Namespace(model="x", tokenizer_mode="auto", trust_remote_code=False, max_concurrency=1)
"""
READY = [
    "imports beside",
    *["draws beside", "sends beside"] * 2,
    *["draws beside"] * 3,
]  # two concurrencies, one repeat
TIMED = ["sends alone"] * 3  # and prefill


@pytest.fixture
def benches(tmp_path: Path) -> Bench:
    """A job that shares its devices, its bench, and what the bench did so far."""
    modules = {"benchmarks/said": SAID, "benchmarks/datasets": DATASETS, "benchmarks/serve": SERVE}
    for name, text in {**modules, "utils/argparse_utils": PARSER}.items():
        (file := tmp_path / "packages" / "vllm" / f"{name}.py").parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    store = tmp_path / "store"
    run = Run(job(*SHARED, "bench=quick", f"store={store}"), tmp_path / "run")
    environ = {"PYTHONPATH": str(tmp_path / "packages"), "TEST_STORE": str(store)}
    where, inputs = (
        Environment(Path(sys.executable), "", None, environ),
        {"artifact": "x", "server_group": str(os.getpgrp())},
    )

    def build(out: Path) -> None:
        run.stage("bench", where, out, lambda output: None, inputs=inputs, devices=turns(run))

    def said() -> list[str]:
        return (store / "said").read_text().splitlines() if (store / "said").exists() else []

    return run, lambda: run.get("bench", "key", build, "detail"), said


def until_it_waits(run: Run) -> None:
    log = run.folder / "bench.log"
    for _ in range(600):
        if log.exists() and "waiting for another job that has the devices" in log.read_text():
            return
        time.sleep(0.1)
    raise AssertionError("it did not wait")


def test_it_gets_ready_beside_others_and_is_timed_when_they_have_ended(
    benches: Bench,
) -> None:
    run, bench, said = benches
    started = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        with step(run.beside(run.job)):  # of another job
            ended = pool.submit(bench)
            until_it_waits(run)
            assert said() == READY
            time.sleep(1)
        folder = ended.result()
    assert said() == READY + TIMED
    assert run.time.waited >= 1
    assert run.time.waited + run.time.spent["bench"] <= time.monotonic() - started, "waiting is no part of the bench"
    assert read_json(folder / "made.json")["seconds"] == run.time.spent["bench"]
    assert {file.name for file in folder.iterdir()} == {"request.json", "result.json", "key.json", "made.json"}


def test_while_another_is_timed_it_does_not_even_import(
    benches: Bench,
) -> None:
    run, bench, said = benches
    with ThreadPoolExecutor(1) as pool:
        ((lock, _),) = turns(run)
        with locked(Path(lock), left=False):  # a stage that begins in it does not have it
            ended = pool.submit(bench)
            until_it_waits(run)
            assert said() == []
        ended.result()
    assert said() == READY + TIMED
    assert run.time.waited > 0


@pytest.mark.parametrize("name", ["bench", "generate"])
def test_what_is_imported_before_its_turn_is_small(name: str) -> None:
    """Here, where there is neither vLLM nor torch."""
    assert importlib.import_module(f"qforge.stages.{name}")
