"""What a gate may ask: one entry per metric, one function per kind of evidence.

A function gets the criterion and the results of both sides by name (serve, evaluate, divergence, bench, weights), and
yields one comparison per text, task or concurrency. Both sides were measured under the same conditions (conditions.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from qforge.config.job import Criterion
from qforge.judge import bootstrap, lost_answers, matched
from qforge.judge.bootstrap import Spread, exact
from qforge.judge.comparison import Comparison, Results, main_metric, paired_scores

JOULES = "gpu_joules_per_token"
UNPACKED = "packed, and held as bf16 here"  # of weights that no kernel reads as they are


@dataclass(frozen=True)
class Metric:
    """`relative`: against bf16, which must have been measured as well. `grows`: what more of would narrow its interval.
    `quality`: of what the model says, which more bits can mend; the others are of the server. `times`: the value as how many
    times bf16's, where people say it so, with as many `decimals`; `more`: the word that follows it in a sentence."""

    compare: Callable[[Criterion, Results, Results], Iterator[Comparison]]
    stage: str  # whose results it reads
    unit: str
    grows: str = ""  # windows, divergence (its windows), samples or repeats
    relative: bool = True
    quality: bool = False
    times: Callable[[float], float] | None = None
    decimals: int = 2
    more: str = ""

    def shown(self, *values: float) -> str:
        """A value, or the ends of an interval, for people: 1.45x, 3.1x, +3.9 to +5.1 %."""
        if self.times is None:
            return " to ".join(f"{value:{'+' if self.relative else ''}.3g}" for value in values) + f" {self.unit}"
        return " to ".join(f"{times:.{self.decimals}f}x" for times in sorted(map(self.times, values)))


def perplexity(criterion: Criterion, measured: Results, baseline: Results) -> Iterator[Comparison]:
    """Increase in percent, by text; windows are drawn."""
    yield from _perplexities(measured["evaluate"]["texts"], baseline["evaluate"]["texts"])


def long_context(criterion: Criterion, measured: Results, baseline: Results) -> Iterator[Comparison]:
    """Increase of the perplexity of long windows in percent, by text."""
    own, reference = (side["evaluate"].get("long_context") or {} for side in (measured, baseline))
    yield from _perplexities(own.get("perplexity", {}), reference.get("perplexity", {}))


def _perplexities(own: Results, reference: Results) -> Iterator[Comparison]:
    import numpy as np

    for name, text in own.items():
        other = reference[name]
        more, tokens = np.subtract(text["window_loss"], other["window_loss"]), np.array(text["window_tokens"])
        # the ratio of two perplexities over the same tokens: exp of the mean difference in loss
        resampled, windows = bootstrap.ratio(more, tokens)
        value = 100 * float(np.expm1(more.sum() / tokens.sum()))
        spread = Spread(100 * np.expm1(resampled), windows)
        yield Comparison(name, value, spread, text["perplexity"], other["perplexity"])


def divergence(quantity: str, unit: float, criterion: Criterion, measured: Results, _: Results) -> Iterator[Comparison]:
    """The mean per token of `what`, times `unit`; windows are drawn."""
    import numpy as np

    for name, text in measured["divergence"]["texts"].items():
        sums, tokens = np.array(text[f"window_{quantity}"]), np.array(text["window_tokens"])
        resampled, windows = bootstrap.ratio(unit * sums, tokens)
        value = unit * float(sums.sum() / tokens.sum())
        yield Comparison(name, value, Spread(resampled, windows), value)


def tasks(criterion: Criterion, measured: Results, baseline: Results) -> Iterator[Comparison]:
    """Drop of the task's main metric in points; documents are drawn."""
    import numpy as np

    for name, task in measured["evaluate"]["tasks"].items():
        if (metric := main_metric(task)) is None:
            continue
        other = baseline["evaluate"]["tasks"][name]
        own, reference = paired_scores(metric, task, other)
        lost = np.subtract(reference, own)
        yield Comparison(
            f"{name} {metric}", 100 * float(lost.mean()) if own else 0.0, bootstrap.mean_difference(lost, 100),
            task["metrics"].get(metric), other["metrics"].get(metric),
        )  # fmt: skip


def needles(criterion: Criterion, measured: Results, baseline: Results) -> Iterator[Comparison]:
    """Drop of the share found in long prompts in points, by haystack or family; prompts are drawn. Of older results, which kept
    no score of each prompt, cells are, a length and a depth each."""
    import numpy as np

    own, reference = ((side["evaluate"].get("long_context") or {}).get("needles") for side in (measured, baseline))
    if not own or not reference:
        return
    kept = "scores" if "scores" in own and "scores" in reference else "found"
    for name in own["found"]:
        pair = [np.ravel(side[kept][name]) for side in (own, reference)]
        lost = pair[1] - pair[0]
        spread = bootstrap.mean_difference(lost, 100)
        yield Comparison(name, 100 * float(lost.mean()), spread, *(100 * float(side.mean()) for side in pair))


def speed(
    quantity: str, change: bool, criterion: Criterion, measured: Results, baseline: Results
) -> Iterator[Comparison]:
    """The median of `what` over the repeats at a concurrency, or its change in percent; repeats are drawn."""
    import numpy as np

    runs = measured["bench"]["runs"]
    at = str(criterion.concurrency or max(runs, key=int))
    if at not in runs:
        return
    own = np.array([run[quantity] for run in runs[at]])
    values, value, units, other = bootstrap.medians(own, 0), float(np.median(own)), len(own), None
    median = value
    if change:
        reference = np.array([run[quantity] for run in baseline["bench"]["runs"][at]])
        other, units = float(np.median(reference)), min(units, len(reference))
        values = 100 * (values / bootstrap.medians(reference, 1) - 1)
        value = 100 * (value / other - 1)
    yield Comparison(f"concurrency {at}", value, Spread(values, units), median, other)


def energy(change: bool, criterion: Criterion, measured: Results, baseline: Results) -> Iterator[Comparison]:
    """What the GPUs take for each token of an answer at a concurrency, idle power included, or its change in percent: 1 J per
    token is 1 MJ per million. Found where the GPU tells its power; the median of the repeats, which are drawn."""
    if all(JOULES in run for runs in measured["bench"]["runs"].values() for run in runs):
        yield from speed(JOULES, change, criterion, measured, baseline)


def weights(change: bool, criterion: Criterion, measured: Results, baseline: Results) -> Iterator[Comparison]:
    """Memory of the weights in GB, or in percent of bf16's: as the server's log says, else the bytes of the packed tensors.

    Where the format is emulated or simulated the server holds bf16, and where the baseline is published quantized it holds no
    bf16: then its word does not count. Known exactly: no interval but itself.
    """
    loaded = [side["serve"].get("weights_gib") for side in (measured, baseline)]
    if all(loaded) and not measured["weights"]["as_bf16"] and baseline["weights"].get("is_bf16", True):
        where, pair = "loaded by the server", [float(gib) * 2**30 / 1e9 for gib in loaded]
    else:
        where = UNPACKED if measured["weights"]["as_bf16"] else "packed"
        pair = [side["weights"]["bytes"] / 1e9 for side in (measured, baseline)]
    value = 100 * pair[0] / pair[1] if change else pair[0]
    yield Comparison(where, value, exact(value), *pair)


def degenerate(criterion: Criterion, measured: Results, baseline: Results) -> Iterator[Comparison]:
    """More prompts answered with repetition, nothing or no language than by bf16, in points; prompts are drawn."""
    import numpy as np

    own, reference = (side["evaluate"].get("stability") for side in (measured, baseline))
    if own and reference:
        bad = [{answer["prompt"] for answer in side["degenerate"]} for side in (own, reference)]
        new, mended = len(bad[0] - bad[1]), len(bad[1] - bad[0])
        more = np.array([1.0] * new + [-1.0] * mended + [0.0] * (own["prompts"] - new - mended))
        spread = bootstrap.mean_difference(more, 100)
        shares = [100 * side["degenerate_share"] for side in (own, reference)]
        yield Comparison(f"{own['prompts']} prompts", 100 * float(more.mean()), spread, *shares)


def differing(criterion: Criterion, measured: Results, _: Results) -> Iterator[Comparison]:
    """Prompts whose greedy text was not the same in every repeat, in percent. A count: no interval but itself."""
    if stability := measured["evaluate"].get("stability"):
        value = 100 * stability["differing_share"]
        yield Comparison(f"{stability['prompts']} prompts, {stability['repeats']} times", value, exact(value), value)


def failed(criterion: Criterion, measured: Results, _: Results) -> Iterator[Comparison]:
    """Requests that failed under sustained load. A count: no interval but itself."""
    if load := (measured["evaluate"].get("stability") or {}).get("load"):
        of = f"{load['requests']} requests of {load['tokens_per_request']} tokens, {load['concurrency']} at once"
        yield Comparison(of, load["failed"], exact(load["failed"]), load["failed"])


def times_as_fast(gain: float) -> float:
    """Of a gain in percent."""
    return 1 + gain / 100


def times_smaller(percent: float) -> float:
    """Of a share in percent."""
    return 100 / percent


METRICS = {
    "perplexity_increase_percent": Metric(perplexity, "evaluate", "%", "windows", quality=True),
    "task_drop_points": Metric(tasks, "evaluate", "points", "samples", quality=True, more=" lost"),
    "kl_nats_per_token": Metric(partial(divergence, "kl", 1.0), "divergence", "nats/token", "divergence", False, True),
    "top1_agreement_percent": Metric(
        partial(divergence, "agreed", 100.0), "divergence", "%", "divergence", False, True
    ),
    "answers_lost_points": Metric(lost_answers.answers, "evaluate", "points", "samples", quality=True, more=" lost"),
    "broken_answers_increase_points": Metric(
        lost_answers.broken_answers, "evaluate", "points", "samples", quality=True
    ),
    "long_context_increase_percent": Metric(long_context, "evaluate", "%", quality=True),
    "needle_drop_points": Metric(needles, "evaluate", "points", quality=True, more=" lost"),
    "degenerate_increase_points": Metric(degenerate, "evaluate", "points", quality=True),
    "differing_percent": Metric(differing, "evaluate", "%", relative=False),
    "failed_requests": Metric(failed, "evaluate", "requests", relative=False),
    "tokens_per_second_gain_percent": Metric(
        partial(speed, "output_throughput", True), "bench", "%", "repeats", times=times_as_fast
    ),
    "matched_throughput_gain_percent": Metric(matched.throughput, "bench", "%", "repeats", times=times_as_fast),
    "tokens_per_second": Metric(partial(speed, "output_throughput", False), "bench", "tokens/s", "repeats", False),
    "p95_latency_increase_percent": Metric(partial(speed, "p95_e2el_ms", True), "bench", "%", "repeats"),
    "p95_latency_ms": Metric(partial(speed, "p95_e2el_ms", False), "bench", "ms", "repeats", False),
    "energy_increase_percent": Metric(partial(energy, True), "bench", "%", "repeats"),
    "megajoules_per_million_tokens": Metric(partial(energy, False), "bench", "MJ per million tokens", "repeats", False),
    "weights_percent_of_bf16": Metric(
        partial(weights, True), "weights", "%", relative=False, times=times_smaller, decimals=1, more=" smaller"
    ),
    "weights_gb": Metric(partial(weights, False), "weights", "GB", relative=False),
}
