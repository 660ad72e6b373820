"""The checkpoint of a run: quantized or given, inspected, and published with its card and provenance."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from qforge.config.decides import decided_by
from qforge.config.job import Job, Rule
from qforge.config.kv_cache import GIVEN, KvCache
from qforge.console import progress_line
from qforge.disk import appear
from qforge.envs import interpreters
from qforge.envs.process import StageError
from qforge.inspect import companions, ignore_list, targets
from qforge.inspect.inspect import inspect as inspect_checkpoint
from qforge.json_files import read_json, write_json
from qforge.models import hub, metadata, modules, quantization_config
from qforge.models.checkpoint import headers
from qforge.models.formats import FORMATS, MIXED
from qforge.models.parts import Part
from qforge.pipeline import calibrate, core, fetch, kv_scales, unpack
from qforge.pipeline.alone import step
from qforge.pipeline.folder import RESULTS
from qforge.pipeline.run import QUANT_ENV, Run
from qforge.plan import experts
from qforge.plan.plan import Plan
from qforge.report import card
from qforge.report.pages import render
from qforge.report.table import Row
from qforge.store import provenance
from qforge.store.results import code, result


def checkpoint(run: Run, plan: Plan, source: Path) -> Path:
    """The checkpoint to measure: the given one, the quantized one, or for bf16 the model itself, unpacked if it is packed."""
    if run.job.artifact:
        return given(run)
    if not run.job.makes_checkpoint:
        return unpack.plain(run, source)
    return _quantized(run, plan, source)


def given(run: Run) -> Path:
    """artifact=PATH. Raises ValueError where no checkpoint is, or one of another format than the method makes."""
    job = run.job
    folder = Path(os.path.expanduser(str(job.artifact))).absolute()
    if not (folder / "config.json").is_file():
        raise ValueError(f"artifact={job.artifact}: no checkpoint there (config.json is missing)")
    try:
        layout = quantization_config.detect(quantization_config.read(folder))
    except ValueError as fault:
        raise ValueError(f"artifact={job.artifact}: {fault}") from None
    if layout not in (None, MIXED) and _format(layout) != _format(job.method.format) and not job.serve.keep:
        raise ValueError(
            f"artifact={job.artifact}: its config.json says {layout}, method={job.method.name} makes "
            f"{job.method.format}; give the method that made it"
        )
    return folder


def _format(layout: str) -> str:
    """INT4, NVFP4, FP8 ...: what has several layouts, with and without quantized activations."""
    return FORMATS[layout].scheme.removesuffix("_w4a4")


def as_given(run: Run) -> Run:
    """The run for what the given artifact holds: its own layout and group size, and in bf16 what its ignore list names.

    Raises ValueError for a list that vLLM would refuse.
    """
    job, folder = run.job, given(run)
    config = quantization_config.read(folder)
    job = replace(job, kv=_given_cache(job, config))
    layout = quantization_config.detect(config)
    if layout is None:
        return run.beside(job)
    model = metadata.read(job.model, fetch.known_model(run))
    linear = [m for m in modules.from_tensors(model.tensors, model.config, model.structure) if m.linear]
    plain = {f"{m.name}.weight": m.name for m in linear}
    packed = {m.name for m in linear} - {
        plain[name] for name, t in headers(folder).items() if name in plain and t.dtype in ("BF16", "F16", "F32")
    }
    try:
        names = ignore_list.left_plain(quantization_config.announced(config), linear, config, packed)
        names |= targets.untargeted(config, linear)
    except ValueError as fault:
        raise ValueError(
            f"artifact={job.artifact}: config.json: the ignore list {fault}: vLLM would refuse it"
        ) from None
    patterns = Part("", "", 0, [m for m in linear if m.name in names]).patterns
    rules = {"artifact": Rule(patterns, "the artifact's own ignore list")} if patterns else {}
    method = job.method
    if layout != method.format or layout == MIXED:
        method = replace(method, name=layout, format=layout, rescales=False, signed_scales=False)
    if layout == MIXED:
        formats, schemes = targets.as_mix(config, [m for m in linear if m.name not in names])
        return run.beside(
            replace(
                job,
                method=replace(method, formats=formats, schemes=schemes, candidates=[], bits=None),
                group_size=None,
                exempt=rules,
            )
        )
    group = quantization_config.group_size(config, layout)
    return run.beside(replace(job, method=method, group_size=group, exempt=rules))


def _given_cache(job: Job, config: dict[str, Any]) -> KvCache:
    """The cache that vLLM takes for a given artifact: one that announces scales has auto mean FP8, and any FP8 read them.

    Raises ValueError for scales that vLLM would not read, and where there are none.
    """
    try:
        strategy = quantization_config.kv_strategy(config)
    except ValueError as fault:
        raise ValueError(f"artifact={job.artifact}: {fault}; mend its config.json") from None
    if job.kv.calibrated and not strategy:
        raise ValueError(
            f"artifact={job.artifact} kv={job.kv.name}: its config.json announces no scales of the KV cache; use kv=fp8, which "
            "has none, or leave artifact out to make them"
        )
    if strategy and job.kv.dtype == "auto":
        return KvCache(GIVEN, "fp8", strategy)
    return replace(job.kv, strategy=strategy) if job.kv.dtype.startswith("fp8") else job.kv


def quantizing_processes(job: Job) -> int:
    """How many processes quantize, each with a GPU of its own; calibrated methods alone have work to share."""
    return job.calib.devices if job.method.calibrated and not job.artifact else 1


def _key(run: Run, plan: Plan, source: Path) -> dict[str, Any]:
    """What decides the quantized checkpoint, but the sequences of a calibrated method."""
    method, structure = run.job.method, run.job.model.structure
    return {
        "structure": Path(structure).parent.name if structure else None,
        "plan": plan.identity(), "job": decided_by(run.job, "quantize"), "source": run.fingerprint(source),
        "env": interpreters.identity(method.env or QUANT_ENV, run.job),
        "code": code("qforge.stages.quantize", str(method.function).partition(":")[0]),
    }  # fmt: skip


def _quantized(run: Run, plan: Plan, source: Path) -> Path:
    method = run.job.method
    alone = method.streams and not run.job.reads_text  # then what is packed is unpacked on its way
    plain = source if alone else unpack.plain(run, source)
    inputs, key = {"source": str(plain)}, _key(run, plan, source)
    if run.job.reads_text:
        calibration = calibrate.calibrate(run, source)
        key["calibration"] = read_json(calibration / "result.json")["sha256"]
        if scales := kv_scales.measure(run, plain, calibration) if kv_scales.apart(run.job) else None:
            inputs["kv_scales"], key["kv_scales"] = str(scales), scales.name
        if method.calibrated or not scales:
            inputs["calibration"] = str(calibration)
    if plan.core:
        folder = core.taken_out(run, plan, plain)
        inputs["core"], key["core"] = str(folder / "model"), folder.name
    kept = [] if method.streams or not method.function else plan.kept
    processes = quantizing_processes(run.job)

    def build(out: Path) -> None:
        where = interpreters.named(method.env or QUANT_ENV, run.job)
        with step(run), progress_line("quantize", f"{method.name} ({len(plan.quantized)} matrices)") as line:
            run.stage(
                "quantize", where, out, line.feed, inputs=inputs, exempt=plan.ignore, kept=kept, simulate=plan.simulated,
                processes=processes, core=plan.core,
            )  # fmt: skip
            line.note = f"{method.name}: {len(plan.quantized)} matrices packed"

    folder = run.get("quantize", key, build, method.name)
    run.write("quantize.json", quantized := result(folder))
    experts.refuse_starved(run.job.calib, quantized["experts"])
    return folder / "artifact"


def inspect(run: Run, plan: Plan, artifact: Path, source: Path) -> None:
    """Refuse to go on with a checkpoint that is not what the plan says."""
    if "inspect" not in run.job.stages or artifact == source:
        return
    with progress_line("inspect", run.job.method.name) as line:
        report = inspect_checkpoint(artifact, plan, source)
        if run.job.artifact:
            report.faults += companions.faults(artifact, source)
        run.write("inspect.json", asdict(report))
        if report.faults:
            raise StageError(f"inspect: {artifact} is not what was planned:\n  " + "\n  ".join(report.faults))
        line.note = f"{report.checked['tensors']} tensors as planned, {report.bytes / 1e6:.1f} MB"


def publish(folder: Path, stored: Path, job: Job, row: Row) -> None:
    """<folder>/artifact: the checkpoint, complete in itself, with README.md and qforge/. Appears by rename.

    Weights are hard links to the store where the file system allows it, and read-only: no second copy. What an editor
    may touch is copied.
    """
    final, partial = folder / "artifact", folder / "artifact.partial"
    shutil.copytree(stored, partial, copy_function=_link)
    (partial / "README.md").write_text(
        render("card.md.j2", escape=False, row=row, metadata=card.metadata(job, row, _licence(job)))
    )
    notes = partial / "qforge"
    notes.mkdir()
    write_json(notes / "job.json", job)
    for name in RESULTS:
        if (folder / f"{name}.json").exists():
            shutil.copyfile(folder / f"{name}.json", notes / f"{name}.json")
    write_json(partial / provenance.HASHES, provenance.file_hashes(partial))
    appear(partial, final)


def _licence(job: Job) -> str | None:
    """What the card says of the licence; the hub is asked where the card goes there."""
    model = job.model
    return model.licence or (hub.licence(model) if job.publish.repo and model.hub else None)


def _link(source: str, target: str) -> None:
    if source.endswith(".safetensors"):
        try:
            os.link(source, target)
            return
        except OSError:
            pass  # another file system
    shutil.copyfile(source, target)
