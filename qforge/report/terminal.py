"""What a run says in the terminal."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from qforge.console import console
from qforge.judge import goals
from qforge.judge.comparison import main_metric
from qforge.judge.metrics import METRICS
from qforge.report import baseline, single
from qforge.report import table as tables
from qforge.report.plan_table import size as size_of
from qforge.report.reasons import of_cache, sign

if TYPE_CHECKING:
    from qforge.inspect.artifact import Verified
    from qforge.plan.sensitivity import Loss

WORST = 10  # parts that the table of sensitivities shows
SHOWN = 50  # rows of a sweep in the terminal, and their columns:
SWEPT = {"name": "row", "verdict": "verdict", "loss": "loss %", "kl": "KL", "bits": "bits", "tps": "tokens/s",
         "front": "front", "why": "why"}  # fmt: skip
FEW = 12  # rows that are told one by one
ENDS = {"accepted": "sound", "undecided": "undecided", "rejected": "unsound", "refused": "refused", "failed": "failed"}
COLOURS = dict.fromkeys(("accept", "pass", "sound"), "green") | dict.fromkeys(("reject", "fail", "unsound"), "red")


def warn(message: str) -> None:
    """What the user should know before the work begins."""
    console.print(message, style="yellow")


def headline(stage: str, result: dict[str, Any]) -> str:
    """A stage's result in a few words."""
    if stage == "evaluate":
        texts = [f"PPL {name} {text['perplexity']:.2f}" for name, text in result["texts"].items()]
        judged = [(name, task["metrics"], main_metric(task)) for name, task in result["tasks"].items()]
        tasks = [f"{name} {metric} {metrics[metric]:.3f}" for name, metrics, metric in judged if metric in metrics]
        rated = [(name, task["rated"]["unrated"]) for name, task in result["tasks"].items() if "rated" in task]
        unrated = [f"{count} answers to {name} not rated" for name, count in rated if count]
        return ", ".join(texts + tasks + unrated + _mt_bench(result.get("chat")))
    if stage == "speak":
        answers = result["answers"]
        first, factor = (median(a[key] for a in answers) for key in ("first_sound_seconds", "real_time_factor"))
        return f"{len(answers)} answers, first sound after {first:.2f} s, real-time factor {factor:.2f}"
    if stage == "handed":
        return f"cosine {result['mean']:.4f}, at least {result['least']:.4f}, after {result['layer']} blocks"
    runs = {c: median(r["output_throughput"] for r in repeats) for c, repeats in result["runs"].items()}
    return ", ".join(f"{rate:.0f} tokens/s at {c}" for c, rate in runs.items())


def _mt_bench(chat: dict[str, Any] | None) -> list[str]:
    """What a judge said of a checkpoint's answers, in a few words, where one was asked."""
    if not chat:
        return []
    rated = f"MT-bench {chat['mean']:.2f} of 10" if chat["mean"] is not None else "MT-bench: no rating"
    pairs = chat["pairs"]
    return [
        rated,
        *([f"{pairs['won']} won, {pairs['lost']} lost, {pairs['tied']} tied beside the baseline"] if pairs else []),
    ]


def row(result: dict[str, Any]) -> None:
    """The verdict in a sentence, and what it rests on."""
    console.print(coloured(goals.word(result), result["says"]))
    if criteria := goals.criteria(result):
        table = Table(title=None, box=None, pad_edge=False, header_style="dim")
        sides = (baseline.name_of(result), result["method"])
        for name in ("for", "criterion", "of", *sides, "value", "interval", "wanted", "verdict"):
            table.add_column(name)
        for what, c in criteria:
            table.add_row(
                what, c["criterion"], c["of"], _number(c["baseline"]), _number(c["measured"]),
                f"{_number(c['value'])} {METRICS[c['metric']].unit}" if c["value"] is not None else "",
                _interval(c["interval"]), sign(c["threshold"]), coloured(c["verdict"]),
            )  # fmt: skip
            if c["reason"]:
                table.add_row("", "", c["reason"], style="dim")
        console.print(table)
    if cache := of_cache(result):
        console.print(cache)
    gate, size = result["gate"], result["size"]
    if gate.get("required") and criteria:
        holds = "holds" if result["verdict"] == "accept" else f"does not hold ({result['verdict'].replace('_', ' ')})"
        console.print(coloured(result["verdict"], f"gate={gate['name']} {holds}"))
    console.print(
        f"{result['model']} {result['method']}: {size_of(size['bytes'])} "
        + f"({_originals(size, result.get('published'))}), {size['bits_per_weight']:.2f} bits per weight"
    )
    if counted := (result["quantize"] or {}).get("experts"):
        console.print(counted["said"], style="yellow" if counted["starved"] else "dim")
    spent(result["time"])
    if step := single.next_step(result):
        why, command = step
        console.print(f"next, {why}:\n  {command}", soft_wrap=True)


def page(file: Path) -> None:
    """Where the report of a run is."""
    console.print(f"report: {file}", soft_wrap=True)


def _originals(size: dict[str, Any], published: str | None) -> str:
    """What the source takes, as it is published and in bf16."""
    return (f"source {size_of(size['source_bytes'])}, " if published else "") + f"bf16 {size_of(size['bf16_bytes'])}"


def spent(time: dict[str, dict[str, float]]) -> None:
    """Where the time of a run went, in one line."""
    parts = [
        f"{stage} {seconds:.0f} s" for stage, seconds in {**time["spent"], **time["waited"]}.items() if seconds >= 0.5
    ]
    saved = sum(time["saved"].values())
    console.print(
        f"time: {', '.join(parts) or '0 s'}" + (f"; reused: saves {saved:.0f} s" if saved else ""), style="dim"
    )


def sweep(columns: tables.Table, summary: dict[str, Any], folder: Path) -> None:
    """All rows, best first; of a few how each ended, in words, of many the best for each goal; what is one checkpoint; what
    sharing saved. The last line is the page."""
    few = len(next(iter(columns.values()))) <= FEW
    ranking(columns, reasons=not few)
    if few:
        ends(columns)
    for goal, best in ({} if few else summary["best"]).items():
        console.print(f"best for {goal}: {'; '.join(best) or 'no row is surely good for it'}")
    for names in summary["same"]:
        console.print(f"the same checkpoint, by equal plans: {', '.join(names)}")
    console.print(
        f"time: {summary['seconds']:.0f} s; the rows one by one, sharing only the model: {summary['alone']:.0f} s"
    )
    console.print(f"report: {folder / 'report.html'}", style="bold", soft_wrap=True)


def ends(columns: tables.Table) -> None:
    """How each row ended, in words: accepted and for what, rejected and why."""
    values = {column.key: values for column, values in columns.items()}
    for word, verdict in ENDS.items():
        for name, found, why in zip(values["name"], values["verdict"], values["why"], strict=True):
            if found == verdict:
                console.print(Text.assemble(coloured(verdict, f"{word:9}"), f" {name}: {why}"), soft_wrap=True)


def sensitivity(measured: dict[str, Any], losses: list[Loss]) -> None:
    """The parts whose exemption saves most per byte, and which of them are exempted."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("part", "KL alone", "KL saved in bf16", "MB more", "saved per MB", ""):
        table.add_column(name, justify="left" if name in ("part", "") else "right")
    for loss in losses[:WORST]:
        size = loss.extra_bytes / 1e6
        table.add_row(
            loss.part, f"{loss.alone:.2g}", f"{loss.saved:.2g}", f"{size:.2f}", f"{loss.saved / size:.2g}",
            "bf16" if loss.exempted else "",
        )  # fmt: skip
    console.print(table)
    chosen = [loss for loss in losses if loss.exempted]
    exempted = f"; exempted: {len(chosen)}, {size_of(sum(loss.extra_bytes for loss in chosen))} more" if chosen else ""
    console.print(
        f"KL to bf16 {fmean(measured['all']):.4f} nats per token with all {len(losses)} quantized, over {measured['tokens']:,} "
        f"tokens of {measured['text']}{exempted}",
        style="dim",
    )
    if measured["note"]:
        console.print(measured["note"], style="dim")


def budget(said: dict[str, Any]) -> None:
    """Which formats were chosen for the size, and what uniform ones lose."""
    count = Counter(part["format"] for part in said["parts"])
    chosen, table = said["chosen"], Table(box=None, pad_edge=False, header_style="dim")
    for name in ("format", "parts", "bits per weight", "KL, parts added up", "KL, whole model"):
        table.add_column(name, justify="left" if name == "format" else "right")
    table.add_row("chosen", str(len(said["parts"])), f"{chosen['bits']:.2f}", f"{chosen['added']:.4f}", "")
    for name in said["candidates"]:
        table.add_row(f"  {name}", str(count[name]))
    for only in said["uniform"]:
        table.add_row(f"{only['format']} alone", "", f"{only['bits']:.2f}", f"{only['added']:.4f}", f"{only['kl']:.4f}")
    for kept in said["boundary"]:
        cells = (f"{kept['bits']:.2f}", f"{kept['added']:.4f}", "")
        table.add_row(f"{kept['format']}, first and last block in bf16", "", *cells)
    console.print(table)
    console.print(f"KL to bf16 in nats per token, over {said['tokens']:,} tokens of {said['text']}", style="dim")


def ranking(columns: tables.Table, reasons: bool = True) -> None:
    """The table of rows, as many as one looks at, without the columns for which nothing was measured."""
    values: dict[str, list[Any]] = {column.key: values for column, values in columns.items()}
    labels = {key: label for key, label in SWEPT.items() if any(values.get(key, [])) and (reasons or key != "why")}
    table = Table(box=None, pad_edge=False, header_style="dim")
    for key, label in labels.items():
        table.add_column(label, justify="left" if isinstance(values[key][0], str) else "right")
    for cells in islice(zip(*(values[key] for key in labels), strict=True), SHOWN):
        table.add_row(*map(_cell, labels, cells))
    console.print(table)
    if (more := len(values["name"]) - SHOWN) > 0:
        console.print(f"{more} more rows")


def _cell(key: str, value: str | float | None) -> str | Text:
    if key == "verdict":
        return coloured(str(value))
    return value if isinstance(value, str) else _number(value)


def coloured(verdict: str, text: str | None = None) -> Text:
    """A verdict, or a text about it, in its colour."""
    return Text.assemble((text or verdict, f"bold {COLOURS.get(verdict, 'yellow')}"))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _interval(interval: tuple[float, float] | None) -> str:
    return f"{interval[0]:.3g} .. {interval[1]:.3g}" if interval else ""


def verified(artifact: str, result: Verified) -> None:
    """What a check of an artifact found. Raises ValueError where it is not what it was."""
    if result.faults:
        raise ValueError(f"verify={artifact}: changed since it was made:\n  " + "\n  ".join(result.faults))
    for checked in result.checked:
        console.print(Text.assemble(("✓", "green"), f" {checked}"))
    for difference in result.differs:
        console.print(Text.assemble(("~", "yellow"), f" {difference}"))
    console.print(Text.assemble(("✓", "green"), f" {artifact}: unchanged since it was made"))
