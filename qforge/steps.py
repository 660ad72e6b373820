"""The steps of a run up to the artifact: each finds its result in the store, or has its stage make it."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import Any

from qforge import checkpoint, devices, envs, experts, formats, interpreters, progress, sensitivity, shown, store
from qforge.checkpoint import read_json
from qforge.config import Engine, Job, repository_path
from qforge.envs import Environment, StageError
from qforge.plan import Plan
from qforge.request import Request, to_json
from qforge.runtimes import vllm
from qforge.spent import Time
from qforge.stages.inspect import inspect
from qforge.store import code, result, seconds

QUANT_ENV = "quant"  # converts and tokenizes
PACKERS = ("stages/quantize.py", "shards.py", "methods/packing.py", "methods/routing.py", "methods/unpack.py")
ROOM = 1.2  # free disk asked for, as a multiple of what may be written


class Run:
    """One job in one folder, and the time it takes. The baseline of a run is a Run of its own, with a prefix, beside it."""

    def __init__(self, job: Job, folder: Path, prefix: str = "", time: Time | None = None) -> None:
        self.job, self.folder, self.prefix, self.time = job, folder, prefix, time or Time()
        self.store = store.of(job)
        folder.mkdir(parents=True, exist_ok=True)

    def beside(self, job: Job, prefix: str = "") -> Run:
        """Another job that is part of this run."""
        return Run(job, self.folder, prefix, self.time)

    def write(self, name: str, content: Any) -> None:
        """A result file of the run, complete or absent."""
        file = self.folder / f"{self.prefix}{name}"
        partial = file.with_suffix(".partial")
        partial.write_text(to_json(content))
        partial.rename(file)

    def preflight(self, plan: Plan) -> None:
        """Refuse what this machine cannot do, before anything is downloaded."""
        job = self.job
        if job.artifact:
            self.given_artifact()
        elif job.method.function and "quantize" not in job.stages and not sensitivity.nothing_else(job):
            raise ValueError(f"stages={job.stages}: without quantize, say which checkpoint: artifact=PATH")
        interpreters.check(job)
        vllm.check_port(job.serve.port)
        if {"serve", "evaluate", "bench"} & set(job.stages) and job.runtime.engine is Engine.vllm:
            devices.for_serving(job)
        if "quantize" in job.stages:
            devices.for_quantizing(job)
        if job.serve.keep:
            self.refuse_useless_server(plan.emulated or plan.simulated, plan.serving.reason)
        self.store.root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.store.root).free
        needed = ROOM * (
            plan.bytes + (plan.bf16_bytes if plan.simulated else 0) + (0 if self.known_model() else 2 * plan.bf16_bytes)
        )
        if free < needed and not job.artifact and job.method.function:
            raise ValueError(
                f"store={self.store.root}: the disk has {free / 1e9:.2f} GB free and this run may write {needed / 1e9:.2f} "
                "GB; free some space or give another store=PATH"
            )

    def refuse_useless_server(self, emulated: bool, reason: str) -> None:
        """A server for users must have a kernel."""
        if self.job.runtime.engine is not Engine.vllm:
            raise ValueError(
                f"serve.keep runtime={self.job.runtime.name}: only vLLM serves; use runtime=vllm or vllm_cpu"
            )
        if emulated:
            raise ValueError(
                f"serve.keep hw={self.job.hw.name}: {reason}; to serve on this hardware use method=gptq or awq, or serve "
                "this one on an hw that has a kernel for it"
            )

    # -- the model

    def known_model(self) -> Path | None:
        """The model's folder if it is on this machine: the user's own, or fetched by an earlier run."""
        if self.job.model.path:
            folder = Path(os.path.expanduser(self.job.model.path)).absolute()
            if not (folder / "config.json").is_file():
                what = "has no config.json" if folder.is_dir() else "no such folder"
                raise ValueError(
                    f"model.path={self.job.model.path}: {what}; give the folder of a Hugging Face checkpoint"
                )
            return folder
        found = self.store.find("fetch", self._fetch_key())
        return found / "model" if found else None

    def _fetch_key(self) -> dict[str, Any]:
        model = self.job.model
        where: dict[str, Any] = {"hub": model.hub, "revision": model.revision, "gguf": model.gguf}
        if model.random:
            shape = hashlib.sha256(repository_path(str(model.architecture)).read_bytes()).hexdigest()
            where = {"random": shape, "weights": code("random_weights.py")}
        return {
            **where,
            "code": code("stages/fetch.py", "gemma_tokenizer.py"),
            "env": interpreters.identity(QUANT_ENV, self.job),
        }

    def fetch(self) -> Path:
        """The bf16 checkpoint's folder."""
        if self.job.model.path and (folder := self.known_model()):
            return folder
        return self.get("fetch", self._fetch_key(), self._fetch, self.job.model.name) / "model"

    def _fetch(self, out: Path) -> None:
        where = interpreters.named(QUANT_ENV, self.job)
        with progress.line("fetch", self.job.model.name) as line:
            packages = out / "packages"
            for package in self.job.model.gguf.packages if self.job.model.gguf else []:
                envs.install_packages(
                    [package], packages / package.partition("==")[0], self.folder / "fetch-packages.log"
                )
            self.stage("fetch", where, out, line.feed, inputs={"packages": str(packages)})
            shutil.rmtree(packages, ignore_errors=True)

    # -- the artifact

    def artifact(self, plan: Plan, source: Path) -> Path:
        """The checkpoint to measure: the given one, the model itself for bf16, or the quantized one."""
        if self.job.artifact:
            return self.given_artifact()
        if self.job.method.function is None:
            return source
        return self._quantized(plan, source)

    def given_artifact(self) -> Path:
        """artifact=PATH. Raises ValueError where no checkpoint is, or one of another layout than the method makes."""
        folder = Path(os.path.expanduser(str(self.job.artifact))).absolute()
        if not (folder / "config.json").is_file():
            raise ValueError(f"artifact={self.job.artifact}: no checkpoint there (config.json is missing)")
        layout = formats.detect(read_json(folder / "config.json"))
        if layout not in (None, self.job.method.format) and not self.job.serve.keep:
            raise ValueError(
                f"artifact={self.job.artifact}: its config.json says {layout}, method={self.job.method.name} makes "
                f"{self.job.method.format}; give the method that made it"
            )
        return folder

    def _quantized(self, plan: Plan, source: Path) -> Path:
        method = self.job.method
        assert method.function
        assert method.env
        library = method.function.partition(":")[0].removeprefix("qforge.").replace(".", "/")
        inputs = {"source": str(source)}
        key: dict[str, Any] = {
            "plan": plan.identity(), "function": method.function, "args": method.args, "source": self.fingerprint(source),
            "env": interpreters.identity(method.env, self.job), "code": code(*PACKERS, f"{library}.py"),
        }  # fmt: skip
        if method.calibrated:
            calibration = shown.calibrate(self, source)
            inputs["calibration"] = str(calibration)
            key["calibration"] = read_json(calibration / "result.json")["sha256"]
        processes = devices.quantizing(self.job)
        if processes > 1:
            key["processes"] = processes  # sums in another order

        def build(out: Path) -> None:
            where = interpreters.named(str(method.env), self.job)
            with progress.line("quantize", f"{method.name} ({len(plan.quantized)} matrices)") as line:
                self.stage(
                    "quantize", where, out, line.feed, inputs=inputs, exempt=plan.ignore, simulate=plan.simulated,
                    processes=processes,
                )  # fmt: skip
                line.note = f"{method.name}: {len(plan.quantized)} matrices packed"

        folder = self.get("quantize", key, build, method.name)
        self.write("quantize.json", made := result(folder))
        experts.refuse_starved(self.job.calib, made["experts"])
        return folder / "artifact"

    def inspect(self, plan: Plan, artifact: Path, source: Path) -> None:
        """Refuse to go on with a checkpoint that is not what the plan says."""
        if "inspect" not in self.job.stages or artifact == source:
            return
        with progress.line("inspect", self.job.method.name) as line:
            found = inspect(artifact, plan, source)
            self.write("inspect.json", asdict(found))
            if found.faults:
                raise StageError(f"inspect: {artifact} is not what was planned:\n  " + "\n  ".join(found.faults))
            line.note = f"{found.checked['tensors']} tensors as planned, {found.bytes / 1e6:.1f} MB"

    # -- how

    def fingerprint(self, folder: Path) -> dict[str, Any]:
        """What a checkpoint is, without reading all of it: small files whole, weights by header, size and time."""
        checkpoint.headers(folder)  # refuses a damaged one here, with its own message
        weights = {f.name: [f.stat().st_size, f.stat().st_mtime_ns] for f in sorted(folder.glob("*.safetensors"))}
        return {"files": checkpoint.small_files(folder), "weights": weights}

    def get(self, stage: str, key: Any, build: Callable[[Path], None], detail: str) -> Path:
        """The result for `key`, from the store or built now."""
        asked = monotonic()
        folder, known = self.store.get(stage, key, build)
        if known:
            self.time.waited += monotonic() - asked
            self.reuse(stage, folder, detail)
        else:
            self.time.spend(f"{self.prefix}{stage}", f"{stage}/{folder.name}", seconds(folder))
        return folder

    def reuse(self, stage: str, folder: Path, detail: str) -> None:
        """Say, and count, that a result was there already."""
        progress.reused(f"{self.prefix}{stage}", f"{detail}, {folder.name}")
        self.time.save(f"{self.prefix}{stage}", f"{stage}/{folder.name}", seconds(folder))

    def stage(
        self, name: str, where: Environment, out: Path, feed: Callable[[str], None], server: vllm.Server | None = None,
        **inputs: Any,
    ) -> None:  # fmt: skip
        """Run a stage's process; its log lies in the run's folder."""
        log = self.folder / f"{self.prefix}{name}.log"
        asked = (server.api_key, server.process) if server else ()
        request = Request(self.job, str(out), server=server.base_url if server else None, **inputs)
        envs.run_stage(name, where, request, log, feed, *asked)
