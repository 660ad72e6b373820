"""The way of a run, on one screen. The steps are in steps.py and measure.py; what happens in them is in stages/."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from qforge import compat, formats, interpreters, plan, provenance
from qforge.checkpoint import read_json
from qforge.checks import check
from qforge.config import Job, Method
from qforge.envs import StageError
from qforge.judge import judge
from qforge.measure import measure, not_measured, server
from qforge.progress import console
from qforge.report import pages, row, terminal
from qforge.runtimes import vllm
from qforge.steps import Run

BF16 = Method(name="bf16", summary="the original, unquantized", format="bf16")


def go(job: Job, folder: Path) -> None:
    """Quantize, inspect, serve, evaluate, bench, judge, report: as far as job.stages says."""
    check(job)
    run = Run(job, folder)
    pages.clear(folder)
    if job.verify:
        return terminal.verified(job.verify, provenance.verify(Path(job.verify)))
    if job.serve.keep and job.artifact:
        return serve(run, run.given_artifact())
    planned = plan.make(job, run.known_model())
    run.write("plan.json", planned.summary())
    terminal.plan(planned, job)
    if job.plan_only:
        return
    run.preflight(planned)
    judged = "judge" in job.stages and job.method.function is not None
    unplanned = baseline_refusal(job, run) if judged else None
    source = run.fetch()
    planned = plan.make(job, source)  # again, from the model's own files
    run.write("plan.json", planned.summary())
    artifact = run.artifact(planned, source)
    run.inspect(planned, artifact, source)
    if job.serve.keep:
        return serve(run, artifact)
    measured, baseline = measure(run, planned, artifact), None
    verdict: dict[str, Any] = {"verdict": "not_measured", "criteria": [], "reason": "not judged"}
    if judged:
        bf16 = Run(bf16_of(job), folder, "bf16-")
        baseline = not_measured(unplanned) if unplanned else measure(bf16, plan.make(bf16.job, source), source)
        verdict = judge(job.gate, measured, baseline)
    run.write("verdict.json", verdict)
    result = row.make(job, planned, artifact, measured, baseline, verdict, folder)
    run.write("row.json", result)
    if job.method.function and not job.artifact:
        pages.artifact(folder, artifact, job, planned, result)
    if "report" in job.stages:
        pages.html(folder / "report.html", result)
    terminal.row(result)


def bf16_of(job: Job) -> Job:
    """The same conditions for the unquantized model."""
    return replace(job, method=BF16, group_size=None, exempt={}, artifact=None)


def baseline_refusal(job: Job, run: Run) -> str | None:
    """Why bf16 cannot be measured here (mostly: it does not fit, which is why one quantizes); said before the work."""
    try:
        plan.make(bf16_of(job), run.known_model())
    except ValueError as refusal:
        terminal.warn(f"bf16 cannot be measured here, so nothing will be judged against it: {refusal}")
        return str(refusal)
    return None


def serve(run: Run, artifact: Path) -> None:
    """Serve a checkpoint until Ctrl-C."""
    job, layout = run.job, formats.detect(read_json(artifact / "config.json")) or "bf16"
    groups = formats.FORMATS[layout].group_sizes
    how = compat.serving(formats.FORMATS[layout].scheme, layout, groups[-1] if groups else None, job.hw, job.runtime)
    if how.how is compat.How.refused:
        raise ValueError(f"artifact={job.artifact} hw={job.hw.name}: {how.reason}; use {how.fix}")
    run.refuse_useless_server(how.how is compat.How.emulated, how.reason)
    run.refuse_missing_device()
    with server(run, False, artifact, interpreters.of_runtime(job)) as running:
        terminal.serving(running)
        vllm.wait_for_end(running)


@dataclass(frozen=True)
class Command:
    """What the user asked for: the job, how to compose it with other choices, and what was given as a list."""

    load: Callable[[], Job]
    again: Callable[..., Job]  # again("method=gptq", ...)
    several: dict[str, list[str]]  # hw=[h100,mi325x]: of which `load` holds the merger, which is neither


def run(command: Command, folder: str, debug: bool) -> int:
    """Run the command's job; returns the exit code. One message says what was refused or what failed."""
    out = Path(folder)
    try:
        go(command.load(), out)
    except (ValueError, OmegaConfBaseException) as error:
        return _end(f"refused: {_text(error)}", 2, debug)
    except StageError as error:
        return _end(f"failed: {error}", 1, debug)
    except OSError as error:
        full = error.errno == errno.ENOSPC
        return _end(f"failed: {error}" + ("; free some space and run again" if full else ""), 2 if full else 1, debug)
    except KeyboardInterrupt:
        _end("interrupted; what was finished is kept, and the same command goes on from there", 130, debug)
        raise  # a sweep must not go on with its next row
    console.print(str(out), style="bold", markup=False)
    return 0


def _text(error: Exception) -> str:
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return f"{error.full_key}: {str(error).splitlines()[0]}"
    return str(error)


def _end(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    console.print(message, style="yellow" if code == 130 else "bold red", markup=False)
    return code
