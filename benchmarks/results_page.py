"""results/README.md, drawn from the rows beside it:

    python benchmarks/results_page.py

Tables per hardware and model, each value against bf16 under the same conditions; the matrix of experiments; every method, what
calibration does, choices of formats and KV caches, as plots too; the verdicts by tier; quantization as a stream; what qforge
itself costs; then what rows cannot say, from results/notes-<hardware>.md where there is one.
"""

from __future__ import annotations

import json
import shlex
import sys
from itertools import groupby
from math import exp
from pathlib import Path
from statistics import fmean, median
from typing import Any

from svg import plot, scatter

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from qforge.config.compose import compose
from qforge.config.job import Criterion
from qforge.config.places import CONF
from qforge.judge import matched
from qforge.judge.goals import judge_again
from qforge.plan.support_matrix import kernels
from qforge.report.names import name_of
from qforge.report.positions import by_position
from qforge.report.reasons import why
from qforge.report.table import same, verdict_of
from qforge.store.timing import alone
from qforge.sweeps.stopping import quality_of

RESULTS = ROOT / "results"
GOALS = compose(CONF).goals
CHOICES = "choices.json"  # of benchmarks/mixed.py, beside the rows
BEGIN, END = "<!-- {}: drawn by benchmarks/results_page.py -->", "<!-- end -->"
TABLES = {
    "README.md": ("matrix",),
    "docs/measured.md": (
        "matrix",
        "h200",
        "online",
        "conversation",
        "matched speed",
        "energy",
        "every method",
        "streams",
    ),
}
Row = dict[str, Any]


def main() -> None:
    """Write the page, and the tables between the marks of those that are written by hand."""
    (RESULTS / "README.md").write_text(page())
    for name in TABLES:
        (ROOT / name).write_text(with_tables(name))


def read(file: Path) -> Row:
    """A row, judged by the goals of today."""
    return judge_again(json.loads(file.read_text()), GOALS)


def page() -> str:
    """The page, of every row."""
    rows = [read(file) for file in sorted(RESULTS.glob("*.json"))]
    rows.sort(
        key=lambda row: (row["conditions"]["hw"], row["model"], measured_by(row), row["method"] != "bf16", name_of(row))
    )
    lines = [
        "# Measured rows",
        "",
        "Drawn by `python benchmarks/results_page.py` from the JSON files here: do not edit.",
        "",
    ]
    for hw, of_hw in groupby(rows, lambda row: str(row["conditions"]["hw"])):
        lines += [f"## {hw}", ""]
        of_model = {model: list(found) for model, found in groupby(of_hw, lambda row: str(row["model"]))}
        compared = {
            folder.name.removesuffix(f"-{hw}")
            for part in ("methods", "mixed")
            for folder in (RESULTS / part).glob(f"*-{hw}")
        }
        for model in sorted(of_model.keys() | compared):
            lines += [f"### {model}", ""]
            for conditions, alike in groupby(of_model.get(model, []), measured_by):
                lines += [*section(conditions, list(alike)), ""]
            for more in (
                matrix,
                goals,
                methods,
                calibration,
                sensitivity,
                mixed,
                caches,
                cache_speeds,
                conversations,
                tiers,
            ):
                lines += more(model, hw)
        lines += [*streams(hw), *overhead(hw)]
        notes = RESULTS / f"notes-{hw}.md"
        lines += [notes.read_text().strip(), ""] if notes.exists() else []
    return "\n".join(lines).rstrip() + "\n"


def with_tables(name: str) -> str:
    """A page that is written by hand, with the tables between its marks."""
    text = (ROOT / name).read_text()
    for mark in TABLES[name]:
        before, begin, rest = text.partition(BEGIN.format(mark))
        _, end, after = rest.partition(END)
        assert end, f"{name} lacks {BEGIN.format(mark)!r} or {END!r}"
        text = before + begin + "\n\n" + "\n".join(drawn(mark)) + "\n\n" + end + after
    return text


def drawn(mark: str) -> list[str]:
    """The table of a mark."""
    if mark == "every method":
        return compared()
    if mark == "matrix":
        return ranked("qwen2_5_coder_1_5b_turned", "h200", "0.33.0")
    if mark == "online":
        return at_load("h200", "2026-11-30")
    if mark == "conversation":
        return conversations("qwen3_8b_random", "h200")[4:-1]
    if mark == "energy":
        return energy("qwen3_8b_random", "2026-11-29")
    if mark == "matched speed":
        return for_users("qwen3_8b_random", "2026-11-29")
    return streamed() if mark == "streams" else served("0.33.0", "h200")


def served(vllm: str, hw: str) -> list[str]:
    """What one vLLM on one hardware showed, by method: the loss of a real model, then the speed of the 8B shape."""
    rows, speeds = with_vllm(vllm, hw), timed(vllm, hw)
    judged = [row for row in rows if row["measured"]["evaluate"].get("texts")]
    cells = [
        {"method": called(row), **lost(row), "KL to bf16": kl(row), **gains(speeds.get(layout_of(row)))}
        for row in sorted(judged, key=distance)
    ]
    return markdown(cells)


def with_vllm(vllm: str, hw: str) -> list[Row]:
    """The rows of one hardware and one version that were compared with bf16."""
    rows = [read(file) for file in sorted(RESULTS.glob(f"*-{hw}.json"))]
    return [row for row in rows if row["baseline"] and row["measured"]["serve"].get("version") == vllm]


def timed(vllm: str, hw: str) -> dict[str, Row]:
    """By layout, the row of the 8B shape."""
    return {row["layout"]: row for row in with_vllm(vllm, hw) if row["model"] == "qwen3_8b_random"}


def layout_of(row: Row) -> str:
    """The layout by which `timed` has its speed: vLLM serves both exporters' NVFP4 by one kernel."""
    return "nvfp4" if row["layout"] == "nvfp4_modelopt" else str(row["layout"])


def lost(row: Row) -> dict[str, str]:
    """Perplexity lost on each text, with its interval."""
    change = {c["of"]: c for c in row["criteria"] if c["value"] is not None}
    return {
        f"PPL lost, {text}": interval(change[text], "%").strip(" ()") for text in row["measured"]["evaluate"]["texts"]
    }


def ranked(model: str, hw: str, vllm: str) -> list[str]:
    """The matrix in the sweep's order, best first, each checkpoint once: losses, memory, and the speed of the 8B shape."""
    folder, speeds = RESULTS / "matrix" / f"{model}-{hw}", timed(vllm, hw)
    named: dict[str, tuple[Row, list[str]]] = {}
    rows = {name_of(row): row for row in map(read, folder.glob("[0-9]*.json"))}
    for entry in json.loads((folder / "sweep.json").read_text())["rows"]:
        row = rows[entry["name"]]
        if row.get("baseline"):  # none: bf16 itself, or a row that came to no result
            named.setdefault(row["quantize"]["key"], (row, []))[1].append(row["experiment"]["name"])
    return markdown([of_matrix(row, names, speeds) for row, names in named.values()])


def of_matrix(row: Row, names: list[str], speeds: dict[str, Row]) -> dict[str, str]:
    """Of a row of `ranked`, with the names of all experiments that are this checkpoint."""
    packed = row["serving"]["how"] != "simulated"
    kept = sum(len(rule["modules"]) for rule in row["exempt"].values())  # two rules of one name keep more or less
    weights = gains(speeds.get(layout_of(row)) if packed else None) or {"weights over bf16's": ""}
    weights["weights over bf16's"] = f"{row['size']['bytes'] / row['size']['bf16_bytes']:.2f}"
    return {
        "row": ", ".join(names),
        "method": called({**row, "experiment": None}) + (f" ({kept} matrices)" if kept else ""),
        **lost(row),
        "KL to bf16": kl(row),
        "quality": verdict_of(row),
        **weights,
    }


def at_load(hw: str, date: str) -> list[str]:
    """What vLLM quantizes while it loads, from the rows of a day: the memory planned and taken, and speed."""
    rows = [read(file) for file in sorted(RESULTS.glob(f"*-online_*-{hw}-{date}.json"))]
    cells = []
    for row in rows:
        weights = row["estimates"]["memory"]["weights"], row["measured"]["serve"]["weights_gib"]
        speed = {of: rate for of, rate in gains(row).items() if of.startswith("tokens")}
        start = f"{row['measured']['serve']['start_seconds']:.0f}"
        own, theirs = (median(row[side]["bench"]["prefill_tokens_per_second"]) for side in ("measured", "baseline"))
        cells.append({
            "model": row["model"], "method": name_of(row), "GiB planned": f"{weights[0]:.2f}",
            "GiB loaded": f"{float(weights[1]):.2f}", **speed, "prefill": f"{own / theirs:.2f}", "start, s": start,
        })  # fmt: skip
    return markdown(cells)


def gains(row: Row | None) -> dict[str, str]:
    """Weights and tokens/s over bf16's."""
    if row is None:
        return {}
    own, theirs = (row[side]["bench"]["runs"] for side in ("measured", "baseline"))
    rates = {streams: run["output_throughput"] / theirs[streams]["output_throughput"] for streams, run in own.items()}
    weights = {"weights over bf16's": f"{row['size']['bytes'] / row['size']['bf16_bytes']:.2f}"}
    return weights | {f"tokens/s at {streams}": f"{rate:.2f}" for streams, rate in rates.items()}


def for_users(model: str, date: str) -> list[str]:
    """Tokens/s in all over bf16's where each user gets what bf16 gives at each number of streams, of the rows of a day."""
    rows = [read(file) for file in sorted(RESULTS.glob(f"{model}-*-h200-{date}.json"))]
    cells = []
    for row in (row for row in rows if row["baseline"]):
        own, theirs = (
            {"bench": {"runs": {n: [run] for n, run in row[side]["bench"]["runs"].items()}}}
            for side in ("measured", "baseline")
        )
        cell = {"method": called(row)}
        for streams, (run,) in theirs["bench"]["runs"].items():
            criterion = Criterion("matched_throughput_gain_percent", concurrency=int(streams))
            (found,) = matched.throughput(criterion, own, theirs)
            cell[f"at {1000 / run['p50_tpot_ms']:.0f} tokens/s each (bf16: {streams})"] = f"{1 + found.value / 100:.2f}"
        cells.append(cell)
    return markdown(cells)


def energy(model: str, date: str) -> list[str]:
    """Energy per million tokens over bf16's, at each number of streams, of the rows of a day; of bf16 itself in MJ."""
    rows = [read(file) for file in sorted(RESULTS.glob(f"{model}-*-h200-{date}.json"))]
    rows.sort(key=lambda row: bool(row["baseline"]))
    cells = []
    for row in rows:
        own, theirs = (energies(row[side]) if row[side] else {} for side in ("measured", "baseline"))
        said = {n: f"{joules / theirs[n]:.2f}" if theirs else f"{joules:.2f} MJ" for n, joules in own.items()}
        cells.append({"method": called(row), **{f"at {n}": text for n, text in said.items()}})
    return markdown(cells)


def streamed() -> list[str]:
    """Quantization as a stream: on the H200 of large models, on the CPU of those that were tried."""
    rows = [
        json.loads(file.read_text()) for hw in ("h200", "cpu") for file in (RESULTS / "streaming").glob(f"{hw}-*.json")
    ]
    rows.sort(key=lambda row: (row["device"] == "cpu", -row["model_gb"], row["method"]))
    return markdown([stream(row) for row in rows if row["device"] == "cpu" or row["model_gb"] > 20])


def stream(row: Row) -> dict[str, str]:
    """Time and memory of one of them."""
    cpu = row["device"] == "cpu"
    return {
        "random weights": f"{row['model_gb']:.1f} GB, {row['matrices']:,} matrices",
        "on": row["machine"] if cpu else row["device"],
        "method": row["method"],
        "the bytes alone, s": f"{row['bytes_s']:.1f}",
        "stream, s": f"{row['stream_s']:.1f}",
        "GiB resident": f"{row['peak_rss_gib']:.1f}",
        "GiB on the GPU": "-" if cpu else f"{row['peak_gpu_gib']:.1f}",
        "date": row["date"],
    }


def compared() -> list[str]:
    """Every method that was compared, a column of losses for each model on each hardware; what loses least comes first."""
    lines: dict[str, dict[str, Row]] = {}
    columns = []
    for folder in sorted((RESULTS / "methods").iterdir()):
        model, _, hw = folder.name.rpartition("-")
        columns.append(model if hw == "cpu" else f"{model}, {hw}")
        for file in sorted(folder.glob("*.json")):
            row = read(file)
            if row["method"] != "bf16":
                lines.setdefault(called(row), {})[columns[-1]] = row
    made = []
    for name, rows in lines.items():
        done = [row for row in rows.values() if not row.get("failed")]
        if not done:
            continue  # refused for each of the models: with its reason below their own tables
        losses = {column: kl(row) for column, row in rows.items()}
        cells = {"method": name, "bits packed": f"{max(row['size']['quantized_bits_per_weight'] for row in done):.2f}"}
        cells |= {f"KL on {column}": losses.get(column, "") for column in columns}
        cells["CPU s of each"] = " / ".join(
            f"{rows[c]['quantize']['cpu_seconds']:.0f}" if rows.get(c) in done else "-" for c in columns
        )
        made.append((fmean(map(distance, done)), cells))
    return markdown([cells for _, cells in sorted(made, key=lambda pair: pair[0])])


def kl(row: Row) -> str:
    """To bf16, of each text."""
    if row.get("failed"):
        return "refused"
    return ", ".join(f"{text['kl']:.3f}" for text in row["measured"]["divergence"]["texts"].values())


def measured_by(row: Row, timed: bool = True) -> str:
    """By what, on what and how a row was measured: rows of one table have it in common."""
    machine, conditions = row["machine"], row["conditions"]
    where = ", ".join([*sorted(set(machine["gpus"])), f"{machine['cpu']}, {machine['cores']} cores"])
    how = []
    if row["measured"]["evaluate"].get("texts"):
        how.append(f"{conditions['windows']} windows of up to {conditions['context']} tokens per text")
    if timed:
        load = f"{conditions['input_len']} tokens in, {conditions['output_len']} out"
        if trace := conditions.get("trace"):
            load = f"lengths and shared beginnings of {trace}, prefill of {conditions['input_len']} tokens"
        how.append(f"{load}, median of {conditions['repeats']}")
    served = row["measured"]["serve"].get("version")
    version = f"vLLM {served}" if served else str(conditions["runtime"])
    if (devices := conditions["runtime_args"].get("tensor_parallel_size", 1)) > 1:
        version += f" on {devices} GPUs (tensor parallel)"
    return f"{version}, {where}; qforge {row['qforge']['commit'][:9]}. {'; '.join(how)}. {row['caution']}".strip()


def section(conditions: str, rows: list[Row]) -> list[str]:
    """The tables of one model on one hardware under the same conditions, and when they were measured."""
    lines, rows = [f"{dates(rows)}, {conditions}"], with_original(rows)
    for cells in (quality, closeness, speed, memory, predicted):
        if found := table(rows, cells):
            lines += ["", *found]
    judged = said(rows)
    return [*lines, *([""] if judged else []), *judged]


def said(rows: list[Row]) -> list[str]:
    """Of each row that was judged, what it is good for."""
    return [f"- {called(row)}: {row['says']}" for row in rows if row["goals"]]


def with_original(rows: list[Row]) -> list[Row]:
    """With bf16 first, from what the others were compared with, where it has no row of its own; an FP8 cache has it beside it.

    Where they were compared with several measurements of it, the rows as they are.
    """
    judged = [row for row in rows if row["baseline"]]
    if not judged or any(row["baseline"] != judged[0]["baseline"] for row in judged):
        return rows
    baseline, own = judged[0]["baseline"], [row for row in rows if row["method"] == "bf16"]
    size = {**judged[0]["size"], "bytes": judged[0]["size"]["bf16_bytes"], "bits_per_weight": 16.0}
    nothing: Row = {
        "group_size": None,
        "exempt": {},
        "criteria": [],
        "baseline": None,
        "quantize": None,
        "estimates": {},
        "goals": {},
    }
    original = {
        **judged[0], **nothing, "method": "bf16", "command": "", "size": size, "serving": {"kernel": ""}, "measured": baseline,
    }  # fmt: skip
    rows = [{**row, "baseline": baseline} if row in own and other_cache(row) else row for row in rows]
    return rows if [row for row in own if not other_cache(row)] else [original, *rows]


def other_cache(row: Row) -> str:
    """The dtype of its KV cache, where that is not the model's."""
    # rows of before 2026-11-29 have it among the engine's options
    dtype = str(row["kv"]["name"] if row.get("kv") else row["conditions"]["runtime_args"].get("kv_cache_dtype", "auto"))
    return "" if dtype == "auto" else dtype


def dates(rows: list[Row]) -> str:
    """When they were measured."""
    every = [row["date"] for row in rows]
    return " to ".join(dict.fromkeys([min(every), max(every)]))


def table(rows: list[Row], cells: Any) -> list[str]:
    """A Markdown table of what `cells` says of each row; empty where it says nothing of any."""
    return markdown([{"method": called(row), **cells(row)} for row in rows])


def markdown(made: list[dict[str, str]]) -> list[str]:
    """The lines of a table of these cells; none where there is one column only."""
    head = list(dict.fromkeys(key for row in sorted(made, key=len, reverse=True) for key in row))  # bf16 lacks some
    if len(head) <= 1:
        return []
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return [*lines, *("| " + " | ".join(str(row.get(key, "")) for key in head) + " |" for row in made)]


def called(row: Row) -> str:
    """The row's name, the library's options that its command changed, several texts for calibration, and a KV cache that is not
    the model's."""
    options = [
        word.removeprefix("method.args.") for word in shlex.split(row["command"]) if word.startswith("method.args.")
    ]
    cache = [f"kv_cache_dtype={dtype}"] if not row.get("kv") and (dtype := other_cache(row)) else []
    texts = row["conditions"]["calibrated_on"]
    shown = [f"calibrated on {' and '.join(texts)}"] if len(texts) > 1 else []
    return ", ".join([name_of(row), *options, *shown, *cache])


def quality(row: Row) -> dict[str, str]:
    """Perplexity and task scores, with the change against bf16 and its interval, and the verdict."""
    found, cells = row["measured"]["evaluate"], {}
    change = {c["of"]: c for c in row["criteria"] if c["value"] is not None}
    for text, value in found.get("texts", {}).items():
        cells[f"PPL {text}"] = f"{value['perplexity']:.2f}" + interval(change.get(text), "%")
    for task, value in found.get("tasks", {}).items():
        of = f"{task} {value['judged']}"
        cells[of] = f"{value['metrics'][value['judged']]:.3f}" + interval(change.get(of), "points lost")
    compared_with = row["method"] == "bf16" and not other_cache(row)
    return {**cells, "verdict": "baseline" if compared_with else verdict_of(row)} if cells else {}


def closeness(row: Row) -> dict[str, str]:
    """What is finer than a score: distance from bf16 token by token, needles found, and how the answers are."""
    found, cells = row["measured"]["evaluate"], {}
    for text, value in row["measured"].get("divergence", {}).get("texts", {}).items():
        cells[f"KL to bf16, {text}"] = f"{value['kl']:.3f}"
        cells[f"same first choice, {text}"] = f"{value['top1_agreement']:.1%}"
    long = found.get("long_context") or {}
    for haystack, grid in long.get("needles", {}).get("found", {}).items():
        shares = [share for line in grid for share in line]
        cells[f"needles in {haystack}"] = f"{sum(shares):g} of {len(shares)}"
    if stable := found.get("stability"):
        cells["other answers the second time"] = f"{stable['differing_share']:.0%}"
        cells["degenerate answers"] = f"{stable['degenerate_share']:.0%}"
    return cells


def interval(criterion: Row | None, unit: str) -> str:
    """The change and where it lies, 95 %."""
    if criterion is None:
        return ""
    low, high = criterion["interval"] or (float("nan"), float("nan"))
    return f" ({criterion['value']:+.1f} {unit}, {low:+.1f} to {high:+.1f})"


def speed(row: Row) -> dict[str, str]:
    """Tokens/s at each number of streams and of prefill, over bf16's; time to the first token at the most streams."""
    bench, cells = row["measured"]["bench"], {}
    theirs = row["baseline"] or (row["measured"] if row["method"] == "bf16" else None)
    for streams, run in bench.get("runs", {}).items():
        rate = run["output_throughput"]
        gain = f" ({rate / theirs['bench']['runs'][streams]['output_throughput']:.2f})" if theirs else ""
        cells[f"tokens/s at {streams}"] = f"{rate:.0f}{gain}"
    if prefill := sorted(bench.get("prefill_tokens_per_second", [])):
        cells["prefill tokens/s"] = f"{prefill[len(prefill) // 2]:.0f}"
    for streams in [s for s in bench.get("runs", {}) if s in ("1", "64")]:
        run = bench["runs"][streams]
        cells[f"ms to the first token at {streams}, p50 / p95"] = f"{run['p50_ttft_ms']:.0f} / {run['p95_ttft_ms']:.0f}"
    return cells


def memory(row: Row) -> dict[str, str]:
    """Planned and seen: the weights; what the server needs besides its KV cache; its start; the quantization."""
    serve, size, made = row["measured"]["serve"], row["size"], row["quantize"]
    if "kernels" not in serve:
        return {}
    planned = row.get("estimates", {}).get("memory") or {}
    cells = {
        "weights planned, GiB": f"{planned.get('weights', size['bytes'] / 2**30):.2f}",
        "bits per weight": f"{size['bits_per_weight']:.2f}",
    }
    if serve.get("weights_gib"):
        cells["weights on the device"] = serve["weights_gib"]
    if planned and serve["activation_gib"]:
        cells["activations planned (seen)"] = f"{planned['activations']:.2f} ({serve['activation_gib']})"
    if serve.get("activation_gib"):
        parts = [float(serve[part]) for part in ("weights_gib", "activation_gib", "cuda_graphs_gib")]
        cells["with activations and CUDA graphs"] = f"{sum(parts):.2f}"
    cells["start, s"] = f"{serve['start_seconds']:.0f}"
    if made:
        cells["quantize, s"] = f"{made['seconds']['quantize']:.0f}"
        if made.get("peak_device_gib"):
            cells["its peak on the device"] = f"{made['peak_device_gib']:.1f}"
    return cells


def predicted(row: Row) -> dict[str, str]:
    """What the plan said, and what was seen: kernels, and the speed that cannot be exceeded with the part reached."""
    serve, planned, runs = row["measured"]["serve"], row["serving"], row["measured"]["bench"].get("runs", {})
    if "kernels" not in serve:
        return {}
    cells = {
        "kernel planned": kernels(planned),
        "kernel in the log": "; ".join(kernel.partition(" out of potential")[0] for kernel in serve["kernels"]),
    }
    bound = row.get("estimates", {}).get("speed") or {}
    for streams in ("1", "64"):
        if bound and streams in runs:
            most, rate = bound[f"decode_{streams}"], runs[streams]["output_throughput"]
            cells[f"tokens/s at {streams} at most (reached)"] = f"{most:,.0f} ({rate / most:.0%})"
    return cells


def matrix(model: str, hw: str) -> list[str]:
    """Every row of experiment=matrix, from results/matrix/<model>-<hw>/; what the sweep took, and would have, row by row."""
    folder = RESULTS / "matrix" / f"{model}-{hw}"
    rows = [read(file) for file in folder.glob("[0-9]*.json")]
    if not rows:
        return []
    measured = [row for row in rows if not row.get("failed")]
    measured.sort(key=lambda row: (row["method"] != "bf16", row["size"]["bits_per_weight"]))
    how = f"{measured[0]['date']}, {measured_by(measured[0], timed=False)}"
    lines = [f"#### The matrix of {model} on {hw}", "", how]
    for cells in (experiment, speed, memory, predicted):
        lines += ["", *table(measured, cells)]
    lines += ["", *said(measured), "", duration(folder / "sweep.json", measured)]
    lines += [f"One checkpoint, by equal plans: {', '.join(names)}." for names in same(measured)]
    refused = sorted((name_of(row), why(row)) for row in rows if row.get("failed"))
    return [*lines, *(f"- {name}: {reason}" for name, reason in refused), ""]


def duration(sweep: Path, rows: list[Row]) -> str:
    """What a sweep took, and would have taken row by row."""
    if not sweep.exists():
        return "The sweep did not come to its end: the notes say what it took and what is missing."
    took, dearest = json.loads(sweep.read_text()), max(rows, key=lambda row: alone(row["time"]))
    return (
        f"The sweep took {took['seconds']:.0f} s; its rows one by one, sharing the model alone, {took['alone']:.0f} s "
        f"({took['alone'] / took['seconds']:.2f} times as long); the slowest of them, {name_of(dearest)}, "
        f"{alone(dearest['time']):.0f} s."
    )


def experiment(row: Row) -> dict[str, str]:
    """Of a row of the matrix: its bits, its quality, how it is served, and what it costs."""
    kept = ["quantize", "evaluate", "server"]
    spent = {stage: sum(row["time"][way].get(stage, 0) for way in ("spent", "saved")) for stage in kept}
    return {
        "bits per weight": f"{row['size']['bits_per_weight']:.2f}",
        **quality(row),
        **{of: value for of, value in closeness(row).items() if of.startswith("KL")},
        "served": row["serving"]["how"],
        **{f"{stage}, s": f"{seconds:.0f}" for stage, seconds in spent.items()},
        "by itself, s": f"{alone(row['time']):.0f}",
        "in the sweep, s": f"{sum(row['time']['spent'].values()):.0f}",
    }


def goals(model: str, hw: str) -> list[str]:
    """What checkpoints are good for, from results/goals/<model>-<hw>/: scored on as many questions as two points ask for."""
    rows = [read(file) for file in sorted((RESULTS / "goals" / f"{model}-{hw}").glob("*.json"))]
    rows.sort(key=lambda row: (row["method"] != "bf16", row["size"]["bits_per_weight"], name_of(row)))
    return (
        [f"#### What checkpoints of {model} are good for on {hw}", "", *section(measured_by(rows[0]), rows), ""]
        if rows
        else []
    )


def methods(model: str, hw: str) -> list[str]:
    """Every method under the same conditions, from results/methods/<model>-<hw>/: bits, loss, cost, what serves it."""
    rows = [read(file) for file in sorted((RESULTS / "methods" / f"{model}-{hw}").glob("*.json"))]
    if not rows:
        return []
    measured = [row for row in rows if not row.get("failed")]
    measured.sort(
        key=lambda row: (row["method"] != "bf16", row["size"]["quantized_bits_per_weight"] or 16, distance(row))
    )
    quantized = {name_of(row): row for row in measured if row["method"] != "bf16"}
    points = {name: (row["size"]["quantized_bits_per_weight"], distance(row)) for name, row in quantized.items()}
    image = f"methods-{model}-{hw}.svg"
    scatter(RESULTS / image, points, "bits per weight of what is packed", "KL to bf16, nats per token", start=4)
    lines = [
        "#### Every method", "", f"{dates(measured)}, {measured_by(measured[0], timed=False)}", "",
        *table(measured, against), "", f"![Quality against bits per weight]({image})", "",
    ]  # fmt: skip
    refused = sorted((name_of(row), why(row)) for row in rows if row.get("failed"))
    return [*lines, *(f"- {name}: {reason}" for name, reason in refused), ""]


def against(row: Row) -> dict[str, str]:
    """Of a row of the comparison: bits, quality, what the quantization took, what serves it."""
    made, size, serving = row["quantize"], row["size"], row["serving"]
    bits = size["quantized_bits_per_weight"]
    cells = {"bits packed": f"{bits:.2f}" if bits else "16", "MB": f"{size['bytes'] / 1e6:.1f}", **quality(row)}
    cells |= {of: value for of, value in closeness(row).items() if of.startswith("KL")}
    if made:
        cells |= {"CPU s": f"{made['cpu_seconds']:.0f}", "GiB": f"{made['peak_rss_gib']:.1f}"}
    return {**cells, "served": ", ".join(filter(None, [serving["how"], kernels(serving)]))}


def distance(row: Row) -> float:
    """KL to bf16, the mean of the texts."""
    return fmean(text["kl"] for text in row["measured"].get("divergence", {}).get("texts", {}).values() or [{"kl": 0}])


def calibration(model: str, hw: str) -> list[str]:
    """What calibration does, from results/calibration/<model>-<method>-<hw>/, by benchmarks/calibration.py."""
    lines: list[str] = []
    for folder in sorted((RESULTS / "calibration").glob(f"{model}-*-{hw}")):
        rows = [read(file) for file in folder.glob("*.json")]
        rows.sort(
            key=lambda row: (
                list(row["calibration"]["texts"]),
                row["calibration"]["tokens"],
                row["calibration"]["length"],
            )
        )
        points = {shown(row): increases(row) for row in rows}
        x, y = (f"perplexity on {text}, % more than bf16" for text in rows[0]["measured"]["evaluate"]["texts"])
        image = f"calibration-{folder.name}.svg"
        scatter(RESULTS / image, points, x, y)
        lines += [
            f"#### Calibration: {name_of(rows[0])}", "",
            f"{dates(rows)}, {measured_by(rows[0], timed=False)} By `benchmarks/calibration.py`.", "",
            *table(rows, calibrated_on), "", f"![What calibration does]({image})", "",
        ]  # fmt: skip
    return lines


def calibrated_on(row: Row) -> dict[str, str]:
    """Of a row of the study: what was shown, and what came of it."""
    found = {of: value for of, value in {**quality(row), **closeness(row)}.items() if of != "verdict"}
    return {
        "shown": shown(row),
        "tokens": f"{row['calibration']['tokens']:,}",
        **found,
        "CPU s": f"{row['quantize']['cpu_seconds']:.0f}",
    }


def shown(row: Row) -> str:
    """Sources, sequences and their lengths."""
    made = row["calibration"]
    lengths = sorted({min(made["lengths"], key=int), max(made["lengths"], key=int)}, key=int)
    return f"{' + '.join(made['texts'])}, {made['sequences']} x {' to '.join(lengths)}"


def increases(row: Row) -> tuple[float, float]:
    """Of perplexity on both texts, in per cent."""
    first, second = (c["value"] for c in row["criteria"] if c["metric"] == "perplexity_increase_percent")
    return first, second


def sensitivity(model: str, hw: str) -> list[str]:
    """What loses most, and what choices of equal bytes are worth, from results/sensitivity/<model>-<method>-<hw>.json."""
    lines = []
    for file in sorted((RESULTS / "sensitivity").glob(f"{model}-*-{hw}.json")):
        found = json.loads(file.read_text())
        most = ", ".join(f"{part['part']} {part['saved']:.4f}" for part in found["parts"])
        lines += [
            f"#### Sensitivity: {found['method']} g{found['group_size']}, by {found['unit']}", "",
            f"{found['date']}, over {found['tokens']:,} tokens of {found['text']} (its last quarter). What saves most KL "
            f"per byte in bf16, nats per token: {most}.", "",
            "What choices of equal bytes are worth (`benchmarks/sensitivity.py`): KL to bf16 where the choice was made, and on "
            f"{found['windows']} windows of 256 tokens per text that it has not seen.", "",
            *grid(found["choices"]), "",
        ]  # fmt: skip
    return lines


def mixed(model: str, hw: str) -> list[str]:
    """Formats chosen by measured losses, from results/mixed/<model>-<hw>/: rows that were served."""
    folder = RESULTS / "mixed" / f"{model}-{hw}"
    rows = [read(file) for file in folder.glob("*.json") if file.name != CHOICES]
    if not rows:
        return []
    rows.sort(key=lambda row: (row["size"]["bits_per_weight"], mix_of(row)))
    points = {mix_of(row): (row["size"]["bits_per_weight"], distance(row)) for row in rows}
    image = f"mixed-{model}-{hw}.svg"
    scatter(RESULTS / image, points, "bits per weight of the checkpoint", "KL to bf16, nats per token", start=8)
    return [
        "#### Several formats in one checkpoint", "", f"{dates(rows)}, {measured_by(rows[0], timed=False)}", "",
        *markdown([{"formats": mix_of(row), **parts_of(row)} for row in rows]), "",
        f"![Quality against bits per weight]({image})", "", *choices(folder / CHOICES),
    ]  # fmt: skip


def choices(file: Path) -> list[str]:
    """What choices of formats by other libraries are worth at equal bytes, by benchmarks/mixed.py, where it made any."""
    if not file.exists():
        return []
    found = json.loads(file.read_text())
    rows = [
        {"choice": row["formats"], "bits per weight": f"{row['bits']:.2f}"}
        | {f"parts in {name}": f"{count} ({row['least']['parts'][name]})" for name, count in row["parts"].items()}
        | {f"KL {text}": f"{kl:.4f} ({row['least']['kl'][text]:.4f})" for text, kl in row["kl"].items()}
        | {
            "least measured loss is lower on": "the same choice"
            if row["kl"] == row["least"]["kl"]
            else str(row["least_is_lower_on"])
        }
        for row in found["choices"]
    ]
    took = ", ".join(f"{way} {seconds:.0f} s" for way, seconds in found["seconds"].items())
    count, versions = found["windows"] * len(found["choices"][0]["kl"]), found["versions"]
    return [
        "##### Other choices of formats, at equal bytes", "",
        f"By `benchmarks/mixed.py`, {found['date']}; a part is a matrix, or fused ones, and all choose by {found['tokens']} "
        f"tokens of {found['text']} (its last quarter). KL to bf16 in nats per token, weights rounded and computed in float32, "
        f"on {found['windows']} windows of {found['length']} tokens of each text that no choice has seen. In brackets: the "
        f"choice of least measured loss for the same bytes, as `search=budget` makes it; on how many of the {count} windows "
        f"that is lower. For all sizes together the libraries took: {took} (ModelOpt {versions['nvidia-modelopt']}, AutoRound "
        f"{versions['auto-round']}).", "",
        *markdown(rows), "",
    ]  # fmt: skip


def mix_of(row: Row) -> str:
    """A method alone, with what it leaves in bf16, or the size that formats were chosen for."""
    if not row.get("formats"):
        return called(row)
    return f"chosen for {row['size']['bits_per_weight']:.2f} bits"


def parts_of(row: Row) -> dict[str, str]:
    """Of a row of the search: its bits, the matrices in each format, its quality, what it takes on the disk."""
    size = row["size"]
    shares = ", ".join(f"{share['matrices']} {share['method']}" for share in row.get("formats") or [])
    cells = {
        "bits per weight": f"{size['bits_per_weight']:.2f}",
        "MB": f"{size['bytes'] / 1e6:.1f}",
        "matrices": shares,
    }
    found = {of: value for of, value in (quality(row) | closeness(row)).items() if of.startswith(("PPL", "KL"))}
    return {**cells, **found, f"gate={row['gate']['name']}": quality_of(row)}


def caches(model: str, hw: str) -> list[str]:
    """Weights by KV cache, from results/<model>-*-<hw>-long.json: perplexity by position, needles, and the verdict."""
    rows = [read(file) for file in RESULTS.glob(f"{model}-*-{hw}-long.json")]
    if not rows:
        return []
    rows.sort(key=lambda row: (row["method"] != "bf16", row["method"], row["kv"]["name"], row["kv"]["strategy"] or ""))
    image = f"caches-{model}-{hw}.svg"
    original = losses(rows[0])
    lines = {
        cached(row): [(start, max(0.0, loss - original[start])) for start, loss in losses(row).items()]
        for row in rows[1:]
    }
    plot(RESULTS / image, lines, "position of the token, from", "nats per token more than bf16 with a bf16 cache")
    return [
        "#### Weights by KV cache", "",
        f"{dates(rows)}, {measured_by(rows[0], timed=False)} By position: the tokens of every long text from there "
        "to the next column; needles of all haystacks.", "",
        *markdown([{"weights, cache": cached(row), **quality(row), **by_place(row), **found_in(row)} for row in rows]), "",
        f"![What a cache costs, by position]({image})", "",
        *(f"- {cached(row)}: {row['says']}" for row in rows if row["goals"]), "",
    ]  # fmt: skip


def cache_speeds(model: str, hw: str) -> list[str]:
    """Speed by KV cache, and the tokens it has room for, from results/caches/<model>-<hw>/."""
    rows = [read(file) for file in (RESULTS / "caches" / f"{model}-{hw}").glob("*.json")]
    rows.sort(key=lambda row: (row["method"] != "bf16", row["method"], row["kv"]["name"], row["kv"]["strategy"] or ""))
    cells = [{"weights, cache": cached(row), **room(row), **speed(row)} for row in rows]
    return [
        "#### Speed by KV cache", "", f"{dates(rows)}, {measured_by(rows[0])}", "", *markdown(cells), "",
    ] if rows else []  # fmt: skip


def room(row: Row) -> dict[str, str]:
    """Of the KV cache: its bytes, and the tokens that vLLM counts in them."""
    serve, given = row["measured"]["serve"], row["conditions"]["runtime_args"].get("kv_cache_memory_bytes")
    size = f"{given / 2**30:.2f}" if given else str(serve["kv_cache_gib"])
    return {"KV cache, GiB": size, "tokens in it": f"{int(serve['kv_cache_tokens']):,}"}


def conversations(model: str, hw: str) -> list[str]:
    """Speed at the lengths and with the shared prefixes of a trace, from results/conversation/<model>-<hw>/."""
    rows = [read(file) for file in (RESULTS / "conversation" / f"{model}-{hw}").glob("*.json")]
    rows.sort(key=lambda row: (row["method"] != "bf16", row["method"]))
    return [
        "#### Lengths and prefixes of a conversation", "", f"{dates(rows)}, {measured_by(rows[0])}", "",
        *table(rows, lambda row: {**speed(row), **spent(row)}), "",
    ] if rows else []  # fmt: skip


def spent(row: Row) -> dict[str, str]:
    """Energy of the GPU at each number of streams."""
    return {
        f"MJ per million tokens at {streams}": f"{joules:.2f}" for streams, joules in energies(row["measured"]).items()
    }


def energies(measured: Row) -> dict[str, float]:
    """Joules per token, which are megajoules per million tokens, at each number of streams."""
    runs = measured["bench"].get("runs", {})
    return {streams: run["gpu_joules_per_token"] for streams, run in runs.items() if "gpu_joules_per_token" in run}


def cached(row: Row) -> str:
    """The weights and the cache, with what has a scale of its own where the checkpoint brings scales."""
    kv = row["kv"]
    cache = f"fp8 {kv['strategy']}" if kv["strategy"] else kv["name"]
    return f"{row['method']}, {cache}"


def losses(row: Row) -> dict[int, float]:
    """Nats per token by the first position of a bin, over all texts."""
    total: dict[int, list[float]] = {}
    for _, _, found in by_position(row):
        for start, tokens, loss in zip(found["from"], found["tokens"], found["loss"], strict=True):
            so_far = total.setdefault(start, [0.0, 0.0])
            total[start] = [so_far[0] + tokens, so_far[1] + loss]
    return {start: loss / tokens for start, (tokens, loss) in total.items() if tokens}


def by_place(row: Row) -> dict[str, str]:
    """Perplexity by position."""
    return {f"PPL from {start}": f"{exp(loss):.2f}" for start, loss in losses(row).items()}


def found_in(row: Row) -> dict[str, str]:
    """Needles found, by length, in all haystacks."""
    needles = (row["measured"]["evaluate"].get("long_context") or {}).get("needles") or {"found": {}, "lengths": []}
    cells = {}
    for place, length in enumerate(needles["lengths"]):
        shares = [share for lines in needles["found"].values() for share in lines[place]]
        cells[f"needles at {length}"] = f"{sum(shares) * needles['per_cell']:g} of {len(shares) * needles['per_cell']}"
    return cells


def grid(rows: list[Row]) -> list[str]:
    """Rows of equal keys as a Markdown table."""
    cells = [[f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()] for row in rows]
    lines = [list(rows[0]), ["---"] * len(rows[0]), *cells]
    return [f"| {' | '.join(line)} |" for line in lines]


def tiers(model: str, hw: str) -> list[str]:
    """The verdicts of gate=minimum, target and optimal, from results/tiers/<model>-<method>-<tier>-<hw>.json."""
    lines = []
    for file in sorted((RESULTS / "tiers").glob(f"{model}-*-{hw}.json")):
        found = json.loads(file.read_text())
        method = file.stem.removeprefix(f"{model}-").removesuffix(f"-{found['gate']}-{hw}")
        judged = {c["criterion"]: c for c in found["criteria"]}
        cells = [f"{c['value']:.1f} {c['threshold']}: {c['verdict']}" for c in (judged["memory"], judged["speed"])]
        missing = [c["criterion"] for c in found["criteria"] if c["verdict"] == "not_measured"]
        limit = float(judged["memory"]["threshold"].split()[1])
        line = " | ".join([method, found["gate"], *cells, found["verdict"], ", ".join(missing)])
        lines.append((-limit, f"| {line} |"))
    if not lines:
        return []
    head = "| method | tier | weights on the device, GB | tokens/s of one stream | verdict | not measured |"
    return [head, "|" + "---|" * 6, *(line for _, line in sorted(lines)), ""]


def streams(hw: str) -> list[str]:
    """Quantization as a stream against the size of the model, from results/streaming/<hw>-*.json."""
    rows = [json.loads(file.read_text()) for file in (RESULTS / "streaming").glob(f"{hw}-*.json")]
    if not rows:
        return []
    rows.sort(key=lambda row: (row["method"], row["model_gb"]))
    lines = ["### Quantization as a stream", ""]
    if len({row["model_gb"] for row in rows}) > 3:
        lines_of = groupby(rows, lambda row: str(row["method"]))
        memory = {method: [(row["model_gb"], row["peak_rss_gib"]) for row in of] for method, of in lines_of}
        plot(RESULTS / f"streaming-{hw}.svg", memory, "bf16 model, GB", "GiB resident at most")
        lines += [f"![Peak memory against the size of the model](streaming-{hw}.svg)", ""]
    head = ("method", "model, GB", "matrices", "the bytes alone, s", "into many files", "stream, s", "ratio", "to many files",
            "GiB resident", "on the GPU", "date")  # fmt: skip
    lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        gpu = f"{row['peak_gpu_gib']:.2f}" if row["peak_gpu_gib"] else ""
        turn, of_turn = (f"{row[key]:.2f}" if key in row else "" for key in ("bytes_in_turn_s", "ratio_in_turn"))
        cells = [
            row["method"], f"{row['model_gb']:.1f}", f"{row['matrices']:,}", f"{row['bytes_s']:.2f}", turn,
            f"{row['stream_s']:.2f}", f"{row['ratio']:.2f}", of_turn, f"{row['peak_rss_gib']:.2f}", gpu, row["date"],
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def overhead(hw: str) -> list[str]:
    """What qforge adds to the library and to vLLM's own benchmark, from results/overhead/<hw>.json."""
    file = RESULTS / "overhead" / f"{hw}.json"
    if not file.exists():
        return []
    found = json.loads(file.read_text())
    seconds, bench = found["quantize"]["seconds"], found["bench"]
    lines = [
        "### What qforge itself costs", "",
        f"{found['date']}, {found['model']}, {found['method']} g{found['group_size']}, by `benchmarks/overhead.py`.", "",
        "| quantize, process start to end | s, each round | over the library in that round, s | median |", "|---|---|---|---|",
    ]  # fmt: skip
    for way, times in seconds.items():
        more = [time - library for time, library in zip(times, seconds["library"], strict=True)]
        each, over = ", ".join(f"{t:.1f}" for t in times), ", ".join(f"{m:+.1f}" for m in more)
        share = median(m / library for m, library in zip(more, seconds["library"], strict=True))
        cells = [way, each, *(("", "") if way == "library" else (over, f"{median(more):+.1f} s, {share:+.0%}"))]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "| bench, tokens/s | qforge, each time | `vllm bench serve` by hand | median apart |",
        "|---|---|---|---|",
    ]
    for streams, rates in bench.items():
        ours, hand = rates["qforge"], rates["by hand"]
        both = [", ".join(f"{rate:.0f}" for rate in side) for side in (ours, hand)]
        lines.append(f"| {streams} streams | {' | '.join(both)} | {median(ours) / median(hand) - 1:+.1%} |")
    return [*lines, ""]


if __name__ == "__main__":
    main()
