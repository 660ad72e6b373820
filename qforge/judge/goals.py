"""What a checkpoint is good for.

Quality alone decides whether it is sound. A goal is a gate as well (conf/config.yaml says which); what it asks besides quality
decides whether a sound checkpoint is good for it. What is unsound is good for nothing, however small and fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from qforge.config.job import Criterion, Gate
from qforge.judge import adaptive, verdict
from qforge.judge.bootstrap import FEWEST
from qforge.judge.comparison import Results
from qforge.judge.metrics import METRICS, UNPACKED

Find = Callable[[str, Criterion], list[Results]]  # the findings of a criterion, by its name
WORDS = {"accept": "sound", "reject": "unsound", "inconclusive": "undecided", "not_measured": "undecided"}
PARTS = {"bench": "speed", "weights": "memory", "evaluate": "quality", "divergence": "divergence"}
KEPT = ("tokens_per_second_gain_percent", "tokens_per_second", "weights_percent_of_bf16", "weights_gb")  # of rows


def judge(
    gate: Gate, goals: Mapping[str, Gate], measured: Results, baseline: Results, looks: int = 1
) -> dict[str, Any]:
    """verdict.json: the verdict of the gate (verdict.judge), with `sound`, `goals` and, in a sentence, `says`."""
    judged = verdict.judge(gate, measured, baseline, looks)

    def find(name: str, criterion: Criterion) -> list[Results]:
        return [asdict(f) for f in verdict.findings(name, criterion, measured, baseline, adaptive.error(looks))]

    return {**judged, **_weighed(_quality(*goals.values(), gate), goals, find)}


def not_judged(reason: str) -> Results:
    """verdict.json of what was not judged."""
    nothing = {"verdict": "not_measured", "criteria": []}
    return {**nothing, "sound": nothing, "goals": {}, "says": f"not judged: {reason}"}


def word(row: Results) -> str:
    """What quality says of a row: sound, unsound or undecided; of one that was not judged not_judged."""
    return WORDS[row["sound"]["verdict"]] if row["goals"] or row["sound"]["criteria"] else "not_judged"


def why(row: Results) -> str:
    """What the word rests on: of what is unsound the quality it lacks, else the goals."""
    return str(row["says"]).partition("; " if word(row) == "sound" else ": ")[2]


def criteria(row: Results) -> list[tuple[str, Results]]:
    """Every finding of a row once, with what it decides: sound, a goal by its name, or the gate where that asks for more."""
    of_goals = [(name, c) for name, goal in row["goals"].items() for c in goal["criteria"]]
    found = [*(("sound", c) for c in row["sound"]["criteria"]), *of_goals]
    shown = [(c["metric"], c["of"], c["threshold"]) for _, c in found]
    more = [c for c in row["criteria"] if (c["metric"], c["of"], c["threshold"]) not in shown]
    return [*found, *((f"gate {row['gate']['name']}", c) for c in more)]


def missed(row: Results) -> bool:
    """Whether a row was judged by a gate that must hold, and it does not."""
    gate = row.get("gate") or {}
    return bool(gate.get("required") and row.get("baseline") and row["verdict"] != "accept")


def _quality(*gates: Gate) -> dict[str, Criterion]:
    """The criteria of quality of all gates; where two have the same name that of the last one counts."""
    return {name: c for gate in gates for name, c in gate.criteria.items() if METRICS[c.metric].quality}


def _weighed(quality: dict[str, Criterion], goals: Mapping[str, Gate], find: Find) -> Results:
    def weigh(criteria: Mapping[str, Criterion]) -> list[Results]:
        return [finding for name, criterion in criteria.items() for finding in find(name, criterion)]

    sound = weigh(quality)
    judged = {}
    for name, goal in goals.items():
        own = weigh({n: c for n, c in goal.criteria.items() if not METRICS[c.metric].quality})
        judged[name] = {"verdict": verdict.overall({c["verdict"] for c in (*sound, *own)}), "criteria": own}
    found = {"sound": {"verdict": verdict.overall({c["verdict"] for c in sound}), "criteria": sound}, "goals": judged}
    return {**found, "says": _sentence(found)}


# -- a row of any date


def judge_again(row: Results, goals: Mapping[str, Gate]) -> Results:
    """A row of results/ judged by these goals; one that came to no result, or was not judged, says so.

    Quality has the intervals that were found when it was measured. Of tokens/s a row keeps each repeat; an older one the
    median and the ends, which are all that an interval of three repeats rests on.
    """
    if row.get("failed") or row.get("planned"):
        return row
    if not row.get("baseline"):
        return {**not_judged("it is the original" if row["method"] == "bf16" else "there was no bf16 beside it"), **row}
    known = [*row["criteria"], *row.get("sound", {}).get("criteria", [])]
    sides = _kept(row, "measured"), _kept(row, "baseline")

    def find(name: str, criterion: Criterion) -> list[Results]:
        if METRICS[criterion.metric].quality:
            found = {c["of"]: c for c in known if c["metric"] == criterion.metric}
            return [_again(criterion, finding) for finding in found.values()]
        if criterion.metric not in KEPT:
            return [asdict(verdict.missing(name, criterion, "rows do not keep it"))]
        return [asdict(f) for f in verdict.findings(name, criterion, *sides)]

    return {**row, **_weighed(_quality(*goals.values()), goals, find)}


def _kept(row: Results, side: str) -> Results:
    """What a row keeps of one side, in the form of the stages."""
    kept, conditions = row[side], row["conditions"]
    as_bf16 = side == "measured" and row["serving"]["how"] in ("emulated", "simulated")
    size = {"bytes": row["size"]["bytes" if side == "measured" else "bf16_bytes"], "as_bf16": as_bf16}
    bench = {**kept["bench"]}
    for streams, run in bench.get("runs", {}).items():
        low, high = kept["bench"]["tokens_per_second_range"][streams]
        repeats = bench.get("tokens_per_second_repeats", {}).get(streams) or [low, run["output_throughput"], high]
        few = conditions["repeats"] < FEWEST
        again = [{"output_throughput": rate} for rate in ([run["output_throughput"]] if few else repeats)]
        bench["runs"] = {**bench["runs"], streams: again}
    return {**kept, "bench": bench, "weights": size}


def _again(criterion: Criterion, finding: Results) -> Results:
    """A finding of earlier by the threshold of today."""
    if finding["verdict"] == "not_measured":
        return finding
    verdict_now, _ = verdict.decide(criterion, finding["interval"], finding["value"], finding.get("p"))
    return {**finding, "threshold": verdict.threshold(criterion), "verdict": verdict_now}


# -- in words


def _sentence(found: Results) -> str:
    """Whether it is sound, and what it is good for: the first line of everything that shows a result."""
    sound, goals = found["sound"], "; ".join(_goals(found["goals"]))
    if sound["verdict"] == "accept":
        return "; ".join(filter(None, ["sound", goals]))
    worst = verdict.worst(sound["criteria"])
    said = _finding(worst) if worst else "nothing is asked of quality"
    if sound["verdict"] == "reject":
        return f"unsound: {said}"
    if sound["verdict"] == "not_measured" and worst and all(c["value"] is None for c in sound["criteria"]):
        said = f"quality was not measured ({worst['reason']})"
    return f"undecided: {said}" + (f"; if it is sound, {goals}" if goals else "")


def _goals(goals: Results) -> Iterator[str]:
    """What it is good for, what not, and what is not known, of a checkpoint that is sound or may be."""
    by_verdict: dict[str, list[Results]] = {}
    for name, goal in goals.items():
        own = verdict.overall({c["verdict"] for c in goal["criteria"]})
        deciding = verdict.worst(goal["criteria"]) or {}
        by_verdict.setdefault(own, []).append({"goal": name, **deciding})
    for own, words in (("accept", "good for"), ("reject", "not for"), ("inconclusive", "undecided for")):
        if said := [f"{_load(c)} ({_value(c)})" for c in by_verdict.get(own, [])]:
            yield f"{words} {_listed(said, 'or' if own == 'reject' else 'and')}"
    reasons = {
        f"{PARTS[METRICS[c['metric']].stage]} not measured ({c['reason']})" for c in by_verdict.get("not_measured", [])
    }
    yield from sorted(reasons)


def _load(finding: Results) -> str:
    """What a goal is called: by the load at which it was measured, else by its own name."""
    streams = finding["of"].removeprefix("concurrency ")
    if streams == finding["of"]:
        return str(finding["goal"])
    return "one stream" if streams == "1" else f"{streams} streams"


def _value(finding: Results) -> str:
    """What was found, with the interval where that leaves it open, and what was wanted where it does not suffice."""
    metric = METRICS[finding["metric"]]
    said = metric.shown(finding["value"]) + metric.more + (f" {UNPACKED}" if finding["of"] == UNPACKED else "")
    if finding["verdict"] == "inconclusive":
        said += f", {metric.shown(*finding['interval']) if finding['interval'] else finding['reason']}"
    if finding["verdict"] == "pass":
        return said
    relation, limit = finding["threshold"].split()
    most = "" if metric.times else "at most " if relation == "<=" else "at least "
    return f"{said}, wanted {most}{metric.shown(float(limit))}"


def _finding(finding: Results) -> str:
    """A finding about quality: perplexity of wikitext +8.2 %, wanted at most +5 %."""
    if finding["verdict"] == "not_measured":
        return f"{finding['criterion']} not measured ({finding['reason']})"
    of = f" of {finding['of']}" if finding["of"] else ""
    return f"{finding['criterion']}{of} {_value(finding)}"


def _listed(words: list[str], last: str) -> str:
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
