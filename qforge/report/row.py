"""One run as one row: what was made, what was measured, against what, under which conditions. The schema of results/."""

from __future__ import annotations

import json
import shlex
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, median
from typing import Any

from omegaconf import OmegaConf

from qforge.config import places
from qforge.config.job import Job
from qforge.json_files import read_json, to_json
from qforge.judge.comparison import main_metric
from qforge.plan import experts, packed
from qforge.plan.plan import Plan
from qforge.report import figures, mix
from qforge.store import provenance
from qforge.store.timing import Time

UNMEASURED = {"evaluate": "quality", "bench": "speed", "divergence": "difference from bf16 token by token"}


def make(
    job: Job, plan: Plan, measured: dict[str, Any], baseline: dict[str, Any] | None, verdict: dict[str, Any],
    folder: Path, time: Time,
) -> dict[str, Any]:  # fmt: skip
    """The row, from the results as they are stored. What was not measured says so, and why."""
    quantized = read_json(folder / "quantize.json") if (folder / "quantize.json").exists() else None
    if quantized and quantized.get("experts"):
        quantized["experts"] = experts.summary(job.calib, quantized["experts"])
    size = measured["weights"]["bytes"]
    row = {
        "says": verdict["says"],
        "model": job.model.name,
        "source": {"hub": job.model.hub, "revision": job.model.revision} if job.model.hub else None,
        "method": job.method.name,
        "online": job.method.online,
        "artifact": job.artifact,
        "experiment": job.experiment,
        "summary": job.method.summary,
        "published": plan.packing.summary if plan.packing else None,
        "layout": plan.layout,
        "group_size": plan.group_size,
        "formats": mix.formats(job, plan, measured),
        "exempt": {rule: _exempted(job, plan, rule) for rule in job.exempt},
        "kv": job.kv,
        "notes": plan.notes,
        "caution": job.model.caution,
        "verdict": verdict["verdict"],
        "gate": job.gate,
        "criteria": verdict["criteria"],
        "sound": verdict["sound"],
        "goals": verdict["goals"],
        "cache": verdict.get("cache"),
        "looks": verdict.get("looks", 1),
        "confidence_percent": verdict.get("confidence_percent", 95.0),
        "size": {
            "parameters": plan.parameters, "bytes": size, "bf16_bytes": plan.bf16_bytes, "source_bytes": plan.source_bytes,
            "bits_per_weight": 8 * size / plan.parameters, "quantized_bits_per_weight": plan.quantized_bits_per_weight,
        },
        "serving": plan.serving,
        "estimates": plan.estimates,
        "experts": any(m.kind == "expert" for m in plan.modules),
        "curve": _curve(folder / "budget.json"),
        "heat": [*_bits(plan), *_sensitivity(folder / "sensitivity.json")],
        "measured": _numbers(measured),
        "unmeasured": list(_unmeasured(job, measured)),
        "baseline": _numbers(baseline) if baseline else None,
        "quantize": quantized,
        "conditions": _conditions(job),
        **_made(measured, quantized),
        "time": time.summary(),
        "command": command(folder),
    }  # fmt: skip
    plain: dict[str, Any] = json.loads(to_json(row))
    return plain


def failed(job: Job, verdict: str, reason: str, folder: Path, time: Time) -> dict[str, Any]:
    """The row of a job that came to no result: `verdict` is failed or refused, `reason` what the terminal said."""
    row = {
        "model": job.model.name, "method": job.method.name, "online": job.method.online, "experiment": job.experiment,
        "summary": job.method.summary, "group_size": job.group_size,
        "exempt": {rule: {"match": r.match, "why": r.why, "modules": []} for rule, r in job.exempt.items()},
        "kv": job.kv, "caution": job.model.caution, "verdict": verdict, "gate": job.gate, "criteria": [],
        "failed": {"reason": reason},
        "conditions": _conditions(job), **provenance.now(), "time": time.summary(), "command": command(folder),
    }  # fmt: skip
    plain: dict[str, Any] = json.loads(to_json(row))
    return plain


def _conditions(job: Job) -> dict[str, Any]:
    return {
        "hw": job.hw.name, "runtime": job.runtime.name, "runtime_args": {**job.hw.args, **job.model.args, **job.runtime.args},
        "environ": job.runtime.environ, "context": job.eval.context, "windows": job.eval.windows,
        "task_samples": job.eval.limit, "input_len": job.bench.input_len, "output_len": job.bench.output_len,
        "repeats": job.bench.repeats, "calibrated_on": sorted(job.calib.texts) if job.reads_text else [],
        **({"trace": job.bench.trace} if job.bench.trace else {}),
    }  # fmt: skip


def _made(measured: dict[str, Any], quantized: dict[str, Any] | None) -> dict[str, Any]:
    """Date, machine and commit of the measurements, or of the checkpoint where nothing was measured."""
    stamps = [measured[stage]["made"] for stage in ("evaluate", "bench", "serve") if "made" in measured[stage]]
    stamps += [quantized["made"]] if quantized else []
    stamp: dict[str, Any] = stamps[0] if stamps else provenance.now()
    return {name: stamp[name] for name in ("date", "machine", "qforge")}


def command(folder: Path) -> str:
    """How to run it again, from what Hydra wrote down."""
    file = folder / ".hydra" / "overrides.yaml"
    # interpolations as they are: one may stand for a secret
    overrides: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False) if file.exists() else []
    return shlex.join([*places.command(), *map(str, overrides)])


def _exempted(job: Job, plan: Plan, rule: str) -> dict[str, Any]:
    modules = [name for name, by in plan.exempt.items() if by == rule]
    return {"match": job.exempt[rule].match, "why": job.exempt[rule].why, "modules": modules}


def _numbers(measured: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a set of measurements, without the windows and samples they rest on."""
    evaluate, bench = measured["evaluate"], measured["bench"]
    numbers = {**measured}
    if "texts" in evaluate:
        long = evaluate.get("long_context")
        tasks = {name: _task(task) for name, task in evaluate["tasks"].items()}
        numbers["evaluate"] = {
            **evaluate, "texts": _texts(evaluate["texts"]), "tasks": tasks, "long_context": _long(long),
            "kv": {dtype: _long(part) for dtype, part in evaluate.get("kv", {}).items()},
        }  # fmt: skip
    if texts := measured.get("divergence", {}).get("texts"):
        numbers["divergence"] = {**measured["divergence"], "texts": _texts(texts)}
    if "runs" in bench:
        runs = {c: {k: median(r[k] for r in repeats) for k in repeats[0]} for c, repeats in bench["runs"].items()}
        each = {c: [r["output_throughput"] for r in repeats] for c, repeats in bench["runs"].items()}
        spread = {c: [min(rates), max(rates)] for c, rates in each.items()}
        numbers["bench"] = {**bench, "runs": runs, "tokens_per_second_range": spread, "tokens_per_second_repeats": each}
    return numbers


def _task(task: dict[str, Any]) -> dict[str, Any]:
    metric = main_metric(task)
    judged = metric if metric in task["metrics"] else None  # a judge may have rated no answer
    kept = {"metrics": task["metrics"], "samples": task["samples"], "judged": judged}
    if rated := task.get("rated"):
        kept["rated"] = rated
    if asked := task.get("asked"):
        kept["asked"] = {name: value for name, value in asked.items() if name != "broken"}
    return kept


def _unmeasured(job: Job, measured: dict[str, Any]) -> Iterator[str]:
    """What a reader might take for granted and was not measured."""
    evaluate, bench = measured["evaluate"], measured["bench"]
    for name in ("evaluate", "bench", "divergence"):
        if why := measured.get(name, {}).get("not_measured"):
            yield f"{UNMEASURED[name]}: {why}"
    if "texts" in evaluate:
        if not evaluate["tasks"]:
            yield "tasks: none was run"
        if not evaluate.get("long_context"):
            yield f"long context: nothing beyond {evaluate['context']} tokens"
        if not evaluate.get("kv"):
            yield "other dtypes of the KV cache than the one served with"
        if not evaluate.get("stability"):
            yield "stability: no repeated answers, no check for degenerate output, no sustained load"
        elif not evaluate["stability"].get("load"):
            yield "sustained load"
        if not evaluate.get("chat") and not any("rated" in task for task in evaluate["tasks"].values()):
            yield "conversation: no judge rated its answers"
        yield f"other kinds of text than {' and '.join(text['kind'] for text in evaluate['texts'].values())}"
    if spoken := measured.get("speak"):
        told = spoken.get("not_measured") or "how it sounds was not judged: listen to it in the report"
        yield f"speech: {told}"
    if "runs" in bench:
        lengths = f"{bench['input_len']} tokens in and {bench['output_len']} out"
        if "trace" in bench:
            lengths = f"those of {bench['trace']['name']}, of up to {lengths}"
        yield f"speed on other hardware than {job.hw.name}, beyond {max(bench['runs'], key=int)} concurrent requests, and at \
other lengths than {lengths}"
    yield "safety, bias and everything else that was not measured for bf16 either"


def _texts(texts: dict[str, Any]) -> dict[str, Any]:
    return {name: {k: v for k, v in text.items() if not k.startswith("window")} for name, text in texts.items()}


def _long(long_context: dict[str, Any] | None) -> dict[str, Any] | None:
    return {**long_context, "perplexity": _texts(long_context.get("perplexity") or {})} if long_context else None


def _curve(file: Path) -> dict[str, Any] | None:
    """What could have been chosen for other sizes; without the parts, which are in the heat map of bits."""
    return {key: value for key, value in read_json(file).items() if key != "parts"} if file.exists() else None


def _sensitivity(file: Path) -> list[dict[str, Any]]:
    return figures.sensitivity_maps(read_json(file)) if file.exists() else []


def _bits(plan: Plan) -> list[dict[str, Any]]:
    """A heat map: bits per weight, scales included, by block and part of it; experts of a block together."""
    if not plan.quantized:
        return []
    packed_bits = {m.name: bits for share in plan.shares for bits in [packed.bits([share])] for m in share.modules}
    cells: dict[tuple[str, int], list[float]] = defaultdict(list)
    for module in plan.modules:
        if module.linear and module.block is not None:
            cells[module.leaf, module.block].append(packed_bits.get(module.name) or 16.0)
    leaves, blocks = list(dict.fromkeys(leaf for leaf, _ in cells)), sorted({block for _, block in cells})
    values = [[fmean(cells[leaf, block]) if cells[leaf, block] else None for block in blocks] for leaf in leaves]
    return [{"title": "Bits per weight", "unit": "bits", "leaves": leaves, "blocks": blocks, "values": values}]
