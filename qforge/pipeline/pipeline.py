"""The way of a run, on one screen. Each step is a file beside this one; what happens in other environments is in stages/."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from qforge.config.job import Job, Method
from qforge.config.kv_cache import KvCache
from qforge.envs import interpreters
from qforge.envs.process import StageError
from qforge.judge import adaptive, goals
from qforge.models.checkpoint import tensor_bytes
from qforge.pipeline import answers, artifact, fetch, preflight, same_cache, sensitivity, serve, structure
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

BF16 = Method(name="bf16", summary="the original, unquantized", format="bf16")


Weighed = tuple[dict[str, Any], dict[str, Any] | None, dict[str, Any]]


def go(run: Run) -> None:
    """Quantize, inspect, serve, evaluate, bench, judge, report: as far as job.stages says."""
    job, folder = run.job, run.folder
    check(job)
    if job.verify:
        return terminal.verified(job.verify, verify(job, folder))
    not_looked_for = preflight.places(run)
    if job.serve.keep and job.artifact:
        return serve.serve(run, artifact.given(run))
    run = fetch.settle(run)
    here = fetch.known_model(run)
    run = structure.known(run, here)
    run = artifact.as_given(run) if job.artifact else run
    job = run.job
    planned = plan.make(job, here)
    refuse(job, planned)
    planned.notes += [*not_looked_for, *answers.check(run, make=False, runtime=not not_looked_for)]
    run.write("plan.json", planned.summary())
    plans.plan(planned, job)
    if job.plan_only:
        return
    preflight.preflight(run, planned)
    measures = job.serve.keep or set(MEASUREMENTS) & set(job.stages)
    vllm_version = serve.check_runtime(run, planned.simulated) if measures else support_matrix.NEWEST
    judged = "judge" in job.stages and not job.is_original
    unplanned = baseline_refusal(run.job, run) if judged else None
    source = fetch.fetch(run)
    if job.makes_checkpoint:
        fetch.refuse_not_finite(run, source)
    run = run if source == here else structure.known(run, source)
    planned = plan.make(run.job, source, vllm_version)  # again, from the model's own files, for the vLLM that is there
    run, planned = sensitivity.settle(run, planned, source, vllm_version)
    run.write("plan.json", planned.summary())
    if nothing_else(job):
        return leave_plan(run, planned)
    checkpoint = artifact.checkpoint(run, planned, source)
    artifact.inspect(run, planned, checkpoint, source)
    if job.serve.keep:
        return serve.serve(run, checkpoint)
    run, (measured, baseline, verdict) = until_decided(run, planned, checkpoint, source, judged, unplanned)
    run.write("verdict.json", verdict)
    result = row.make(run.job, planned, measured, baseline, verdict, folder, run.time)
    run.write("row.json", result)
    if job.makes_checkpoint:
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
    run: Run, planned: Plan, checkpoint: Path, source: Path, judged: bool, unplanned: str | None
) -> tuple[Run, Weighed]:
    """Weigh; with eval.adaptive again, with more of what is undecided. Returns the last job's run and what it found.

    Where a later look is refused (a text may have no more windows) or fails (a server may die), the earlier verdict stands.
    """
    first = run.job
    weighed = weigh(run, planned, checkpoint, source, judged, unplanned)
    while larger := adaptive.more(first, run.job, weighed[2]):
        grown = {"windows": larger.eval.windows, "samples": larger.eval.limit, "repeats": larger.bench.repeats}
        terminal.warn(f"inconclusive; again with {', '.join(f'{count} {what}' for what, count in grown.items())}")
        try:
            weighed = weigh(run.beside(larger), planned, checkpoint, source, judged, unplanned)
        except (ValueError, StageError) as error:
            terminal.warn(f"judged by the measurements so far: {error}")
            _write_again(run, weighed)
            break
        run = run.beside(larger)
    return run, weighed


def _write_again(run: Run, weighed: Weighed) -> None:
    """The results that the verdict is made of: those of a look that failed half-way may lie in their files."""
    measured, baseline, _ = weighed
    assert baseline, "only a row that was judged is measured again"
    write_results(run, measured)
    run.write("divergence.json", measured["divergence"])
    write_results(run.beside(bf16_of(run.job), "bf16-"), baseline)


def weigh(run: Run, planned: Plan, checkpoint: Path, source: Path, judged: bool, unplanned: str | None) -> Weighed:
    """Measure the checkpoint and, where it is judged, bf16 under the same conditions; and the verdict."""
    measured = measure(run, planned, checkpoint)
    size = planned.bytes if planned.simulated else tensor_bytes(checkpoint)
    measured["weights"] = {"bytes": size, "as_bf16": planned.emulated or planned.simulated}
    if not judged:
        return measured, None, goals.not_judged(_why_not(run.job))
    bf16 = run.beside(bf16_of(run.job), "bf16-")
    baseline = not_measured(unplanned) if unplanned else measure(bf16, plan.make(bf16.job, source), source)
    baseline["weights"] = {"bytes": planned.bf16_bytes, "as_bf16": False}
    measured["divergence"] = compared(run, measured, baseline)
    verdict = judge(run.job, measured, baseline)
    if not unplanned and (cache := same_cache.judged(run, bf16.job, source, baseline)):
        verdict["cache"] = cache
        verdict["says"] += reasons.it_is_the_cache(verdict)
    return measured, baseline, verdict


def _why_not(job: Job) -> str:
    return "it is the original" if "judge" in job.stages else f"stages={job.stages} leaves it out"


def judge(job: Job, measured: dict[str, Any], baseline: dict[str, Any]) -> dict[str, Any]:
    """verdict.json."""
    return goals.judge(job.gate, job.goals, measured, baseline, adaptive.looks(job))


def bf16_of(job: Job) -> Job:
    """The same conditions for the unquantized model, with a cache in its own dtype."""
    return replace(job, method=BF16, group_size=None, exempt={}, artifact=None, kv=KvCache())


def baseline_refusal(job: Job, run: Run) -> str | None:
    """Why bf16 cannot be measured here (mostly: it does not fit, which is why one quantizes); said before the work."""
    try:
        plan.make(bf16_of(job), fetch.known_model(run))
    except ValueError as refusal:
        terminal.warn(f"bf16 cannot be measured here, so there is no baseline: {refusal}")
        return str(refusal)
    return None


def original_works(job: Job, folder: Path, load: bool) -> bool:
    """Whether the job's runtime takes the unquantized model: by its plan, or with `load` by serving it."""
    try:
        run = fetch.settle(Run(bf16_of(job), folder, "bf16-"))
        run = structure.known(run, fetch.known_model(run))
        planned = plan.make(run.job, fetch.known_model(run))
        if load:
            with serve.server(run, planned.emulated, fetch.fetch(run), interpreters.of_runtime(run.job)):
                pass
    except (ValueError, ServerFailed) as error:
        terminal.warn(f"the original fails there too: {error}")
        return False
    return True
