"""The way of a run, on one screen. Each step is a file beside this one; what happens in other environments is in stages/."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qforge.config.job import Job
from qforge.envs import interpreters
from qforge.envs.process import StageError
from qforge.judge import adaptive, goals
from qforge.models.checkpoint import tensor_bytes
from qforge.pipeline import (
    answers,
    artifact,
    asked,
    asking,
    baseline,
    budget,
    experiment,
    fetch,
    handed,
    judging,
    preflight,
    same_cache,
    sensitivity,
    serve,
    speak,
    structure,
    unmeasured,
)
from qforge.pipeline.baseline import Baseline, bf16_of
from qforge.pipeline.checks import check
from qforge.pipeline.measure import MEASUREMENTS, compared, measure, not_measured, write_results
from qforge.pipeline.run import Run
from qforge.pipeline.verify import verify
from qforge.plan import plan, support_matrix
from qforge.plan.plan import Plan
from qforge.plan.sensitivity import nothing_else, refuse
from qforge.report import pages, reasons, row, terminal
from qforge.report import plan_table as plans
from qforge.runtimes.diagnose import ServerFailed

Weighed = tuple[dict[str, Any], dict[str, Any] | None, dict[str, Any]]


def go(run: Run) -> None:
    """Quantize, inspect, serve, evaluate, bench, speak, judge, report: as far as job.stages says."""
    job, folder = run.job, run.folder
    check(job)
    if job.verify:
        return terminal.verified(job.verify, verify(job, folder))
    not_looked_for = preflight.places(run)
    if job.serve.keep and job.artifact and not job.runtime.speech:
        return serve.serve(run, artifact.given(run))
    run = fetch.settle(run)
    here = fetch.known_model(run)
    run = structure.known(run, here)
    run = artifact.as_given(run) if job.artifact else run
    run = budget.first(run, here)
    job = run.job
    asking.refuse_silent(job, here)
    planned = plan.make(job, here)
    run = serve.settle(run, planned.modules)
    job = run.job
    refuse(job, planned)
    told = [*unmeasured.notes(job, planned), *experiment.notes()]
    planned.notes += [
        *told,
        *budget.notes(job),
        *judging.notes(job),
        *not_looked_for,
        *answers.check(run, make=False, runtime=not not_looked_for),
    ]
    run.write("plan.json", planned.summary())
    plans.plan(planned, job)
    if job.plan_only:
        return
    preflight.preflight(run, planned)
    measures = (job.serve.keep and not planned.speech) or set(MEASUREMENTS) & set(job.stages)
    vllm_version = serve.check_runtime(run, planned.simulated) if measures else support_matrix.NEWEST
    if planned.speech:
        speak.check_runtime(run, planned.speech)
    against = baseline.of(run, planned) if "judge" in job.stages else None
    source = fetch.fetch(run)
    asking.refuse_silent(job, source)
    if job.makes_checkpoint:
        fetch.refuse_not_finite(run, source)
    run = run if source == here else structure.known(run, source)
    planned = plan.make(run.job, source, vllm_version)  # again, from the model's own files, for the vLLM that is there
    run, planned = sensitivity.settle(run, planned, source, vllm_version)
    run, planned = budget.settle(run, planned, source, vllm_version)
    planned.notes += told
    run.write("plan.json", planned.summary())
    if nothing_else(job):
        return leave_plan(run, planned)
    checkpoint = artifact.checkpoint(run, planned, source)
    artifact.inspect(run, planned, checkpoint, source)
    if job.serve.keep:
        return speak.serve(run, planned, checkpoint) if planned.speech else serve.serve(run, checkpoint)
    run, (measured, reference, verdict) = until_decided(run, planned, checkpoint, source, against)
    run.write("verdict.json", verdict)
    result = row.make(run.job, planned, measured, reference, verdict, folder, run.time)
    run.write("row.json", result)
    if checkpoint != source and not job.artifact:
        artifact.publish(folder, checkpoint, run.job, result)
    terminal.row(result)
    if "report" in job.stages:
        pages.html(folder / "report.html", [result])
        terminal.page(folder / "report.html")


def leave_plan(run: Run, planned: Plan) -> None:
    """The row of a run that stops before there is a checkpoint."""
    why = f"stages={run.job.stages} leaves it out"
    measured = {**not_measured(why), "weights": {"bytes": planned.bytes, "as_bf16": False}}
    result = row.make(run.job, planned, measured, None, goals.not_judged(why), run.folder, run.time)
    run.write("row.json", result)
    pages.html(run.folder / "report.html", [result])


def leave_row(job: Job, folder: Path) -> None:
    """Go; what comes to no result is a row too, with its reason. Raises what `go` raises."""
    run = Run(job, folder)
    try:
        go(run)
    except (ValueError, StageError) as error:
        if not job.verify and not job.serve.keep:
            verdict = "failed" if isinstance(error, StageError) else "refused"
            left = row.failed(job, verdict, str(error), folder, run.time)
            run.write("row.json", left)
            pages.html(folder / "report.html", [left])
        raise


def until_decided(
    run: Run, planned: Plan, checkpoint: Path, source: Path, against: Baseline | None
) -> tuple[Run, Weighed]:
    """Weigh; with eval.adaptive again, with more of what is undecided. Returns the last job's run and what it found.

    Where a later look is refused (a text may have no more windows) or fails (a server may die), the earlier verdict stands.
    """
    first = run.job
    weighed = weigh(run, planned, checkpoint, source, against)
    while larger := adaptive.more(first, run.job, weighed[2]):
        grown = {"windows": larger.eval.windows, "samples": larger.eval.limit, "repeats": larger.bench.repeats}
        terminal.warn(f"inconclusive; again with {', '.join(f'{count} {what}' for what, count in grown.items())}")
        try:
            weighed = weigh(run.beside(larger), planned, checkpoint, source, against)
        except (ValueError, StageError) as error:
            terminal.warn(f"judged by the measurements so far: {error}")
            _write_again(run, weighed, against)
            break
        run = run.beside(larger)
    return run, weighed


def _write_again(run: Run, weighed: Weighed, against: Baseline | None) -> None:
    """The results that the verdict is made of: those of a look that failed half-way may lie in their files."""
    measured, reference, _ = weighed
    assert reference, "only a row that was judged is measured again"
    assert against
    write_results(run, measured)
    run.write("divergence.json", measured["divergence"])
    write_results(run.beside(run.job, against.prefix), reference)


def weigh(run: Run, planned: Plan, checkpoint: Path, source: Path, against: Baseline | None) -> Weighed:
    """Measure the checkpoint and, where it is judged, the baseline under the same conditions; and the verdict."""
    asks_first = against if asked.holds_against(run.job.eval) else None  # the checkpoint is held against what it says
    beside = against_what(run, source, asks_first) if asks_first else None
    measured = measure(run, planned, checkpoint, asked.said_by(run, beside[2]) if beside else None)
    size = planned.bytes if planned.simulated else tensor_bytes(checkpoint)
    measured["weights"] = {"bytes": size, "as_bf16": planned.emulated or planned.simulated}
    if states := handed.handed(run, planned, checkpoint, source):
        measured["handed"] = states
    if against is None:
        return measured, None, goals.not_judged(_why_not(run.job))
    other, stored, reference = beside or against_what(run, source, against)
    reference |= {"name": against.name, "weights": {"bytes": planned.bf16_bytes, "is_bf16": against.packing is None}}
    measured["divergence"] = compared(run, measured, reference)
    measured["flips"] = asked.changed(run, measured, reference)
    verdict = judge(run.job, measured, reference)
    in_bf16 = against.packing is None and not against.refusal
    if in_bf16 and (cache := same_cache.judged(run, other.job, stored, reference)):
        verdict["cache"] = cache
        verdict["says"] += reasons.it_is_the_cache(verdict)
    return measured, reference, verdict


def against_what(run: Run, source: Path, against: Baseline) -> tuple[Run, Path, dict[str, Any]]:
    """The baseline's run beside this one, its checkpoint, and what was measured of it."""
    other = run.beside(against.job(run.job), against.prefix)
    if against.refusal:
        return other, source, not_measured(against.refusal)
    stored = against.checkpoint(run, source)
    return other, stored, measure(other, plan.make(other.job, source), stored)


def _why_not(job: Job) -> str:
    return "it is the original" if "judge" in job.stages else f"stages={job.stages} leaves it out"


def judge(job: Job, measured: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    """verdict.json."""
    return goals.judge(job.gate, job.goals, measured, reference, adaptive.looks(job))


def original_works(job: Job, folder: Path, load: bool) -> bool:
    """Whether the job's runtime takes the unquantized model: by its plan, or with `load` by serving it."""
    try:
        run = fetch.settle(Run(bf16_of(job), folder, "bf16-"))
        run = structure.known(run, fetch.known_model(run))
        planned = plan.make(run.job, fetch.known_model(run))
        run = serve.settle(run, planned.modules)
        if load:
            with serve.server(run, planned.emulated, fetch.fetch(run), interpreters.of_runtime(run.job)):
                pass
    except (ValueError, ServerFailed) as error:
        terminal.warn(f"the original fails there too: {error}")
        return False
    return True
