"""The verdict: a quantized model against bf16 under the same conditions, criterion by criterion, with intervals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from qforge.config import METRICS, Criterion, Gate

if TYPE_CHECKING:
    from numpy.typing import NDArray

TASK_METRICS = ("acc_norm", "acc", "exact_match", "f1")  # the first that a task has is judged
RESAMPLES = 2000
LEVEL = (2.5, 97.5)  # percentiles: a 95 % interval


@dataclass(frozen=True)
class Finding:
    """One comparison: `value` is the change against bf16 in the metric's unit, with its interval."""

    criterion: str
    metric: str
    of: str  # which text, task or concurrency
    verdict: str  # pass, fail, inconclusive, not_measured
    threshold: str
    value: float | None = None
    interval: tuple[float, float] | None = None
    measured: float | None = None
    baseline: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Comparison:
    of: str
    value: float
    interval: tuple[float, float] | None  # none: too few samples to say
    measured: float
    baseline: float


def judge(gate: Gate, measured: dict[str, Any], baseline: dict[str, Any]) -> dict[str, Any]:
    """verdict.json. `measured` and `baseline` hold the results of evaluate and bench, or the reason for their absence.

    accept: every criterion passes; reject: one fails; inconclusive: an interval straddles its threshold;
    not_measured: nothing fails, but something was not measured.
    Raises ValueError where the two were not measured under the same conditions: that is refused, not adjusted.
    """
    findings = [f for name, criterion in gate.criteria.items() for f in _findings(name, criterion, measured, baseline)]
    verdicts = {f.verdict for f in findings}
    order = [("fail", "reject"), ("inconclusive", "inconclusive"), ("not_measured", "not_measured")]
    verdict = next((said for found, said in order if found in verdicts), "accept" if findings else "not_measured")
    return {"verdict": verdict, "gate": gate.name, "criteria": [asdict(f) for f in findings]}


def _findings(name: str, criterion: Criterion, measured: dict[str, Any], baseline: dict[str, Any]) -> Iterator[Finding]:
    compare = COMPARISONS[criterion.metric]
    threshold = f"<= {criterion.at_most:g}" if criterion.at_most is not None else f">= {criterion.at_least:g}"
    stage = "bench" if compare is _speed else "evaluate"
    for side in (measured, baseline):
        if reason := side[stage].get("not_measured"):
            yield Finding(name, criterion.metric, "", "not_measured", threshold, reason=reason)
            return
    comparisons = list(compare(criterion, measured[stage], baseline[stage]))
    if not comparisons:
        reason = f"{stage} measured nothing for it: see eval.texts, eval.tasks and {', '.join(TASK_METRICS)}"
        yield Finding(name, criterion.metric, "", "not_measured", threshold, reason=reason)
    for found in comparisons:
        yield Finding(
            name, criterion.metric, found.of, _verdict(criterion, found.interval), threshold,
            found.value, found.interval, found.measured, found.baseline,
        )  # fmt: skip


def _verdict(criterion: Criterion, interval: tuple[float, float] | None) -> str:
    if interval is None:
        return "inconclusive"
    low, high = interval
    if criterion.at_most is not None:
        return "pass" if high <= criterion.at_most else "fail" if low > criterion.at_most else "inconclusive"
    assert criterion.at_least is not None
    return "pass" if low >= criterion.at_least else "fail" if high < criterion.at_least else "inconclusive"


def _same(what: str, measured: Any, baseline: Any) -> None:
    if measured != baseline:
        raise ValueError(
            f"judge: {what} differs between the model ({measured}) and bf16 ({baseline}): no fair comparison"
        )


def _perplexity(criterion: Criterion, measured: dict[str, Any], baseline: dict[str, Any]) -> Iterator[Comparison]:
    """Increase in percent. Interval: paired bootstrap over windows."""
    import numpy as np

    _same("the way of scoring", measured["through"], baseline["through"])
    for name, text in measured["texts"].items():
        other = baseline["texts"][name]
        _same(f"the scored text {name}", text["windows_sha256"], other["windows_sha256"])
        loss, reference = np.array(text["window_loss"]), np.array(other["window_loss"])
        tokens = np.array(text["window_tokens"])
        drawn = _resamples(len(tokens))
        # the ratio of two perplexities over the same tokens: exp of the mean difference in loss
        changes = 100 * np.expm1((loss - reference)[drawn].sum(1) / tokens[drawn].sum(1))
        value = 100 * float(np.expm1((loss - reference).sum() / tokens.sum()))
        yield Comparison(name, value, _interval(changes, len(tokens)), text["perplexity"], other["perplexity"])


def _tasks(criterion: Criterion, measured: dict[str, Any], baseline: dict[str, Any]) -> Iterator[Comparison]:
    """Drop in points of the task's main metric. Interval: paired bootstrap over samples."""
    import numpy as np

    for name, task in measured["tasks"].items():
        other = baseline["tasks"][name]
        _same(f"the prompts of {name}", task["prompt_hashes"], other["prompt_hashes"])
        metric = main_metric(task)
        if metric is None:
            continue
        drop = 100 * (np.array(other["per_sample"][metric]) - np.array(task["per_sample"][metric]))
        drops = drop[_resamples(len(drop))].mean(1)
        yield Comparison(
            f"{name} {metric}",
            float(drop.mean()),
            _interval(drops, len(drop)),
            task["metrics"][metric],
            other["metrics"][metric],
        )


def main_metric(task: dict[str, Any]) -> str | None:
    """The metric of a task that is judged, with its filter if it has one."""
    by_name = {metric.partition(",")[0]: metric for metric in reversed(task["per_sample"])}
    return next((by_name[name] for name in TASK_METRICS if name in by_name), None)


def _speed(criterion: Criterion, measured: dict[str, Any], baseline: dict[str, Any]) -> Iterator[Comparison]:
    """Gain in percent of the medians. Interval: the slowest repeat against the fastest and the other way round.

    Fewer than three repeats say nothing about the spread.
    """
    import numpy as np

    _same(
        "the load",
        [measured[k] for k in ("input_len", "output_len")],
        [baseline[k] for k in ("input_len", "output_len")],
    )
    at = str(criterion.concurrency) if criterion.concurrency else max(measured["runs"], key=int)
    ours = np.array([run["output_throughput"] for run in measured["runs"][at]])
    theirs = np.array([run["output_throughput"] for run in baseline["runs"][at]])
    medians = float(np.median(ours)), float(np.median(theirs))
    interval = None
    if min(len(ours), len(theirs)) >= 3:
        interval = float(100 * (ours.min() / theirs.max() - 1)), float(100 * (ours.max() / theirs.min() - 1))
    yield Comparison(f"concurrency {at}", 100 * (medians[0] / medians[1] - 1), interval, *medians)


COMPARISONS = dict(zip(METRICS, (_perplexity, _tasks, _speed), strict=True))


def _resamples(count: int) -> NDArray[Any]:
    import numpy as np

    return np.random.default_rng(0).integers(count, size=(RESAMPLES, count))


def _interval(values: NDArray[Any], samples: int) -> tuple[float, float] | None:
    """The percentiles of resampled values; none where two samples or fewer were resampled."""
    import numpy as np

    low, high = np.percentile(values, LEVEL)
    return (float(low), float(high)) if samples > 2 else None
