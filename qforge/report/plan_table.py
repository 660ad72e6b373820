"""What a plan and the decision guide say in the terminal: one screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from qforge.config.job import Job
from qforge.console import console
from qforge.plan import support_matrix
from qforge.plan.evidence import Measurement, of_method, of_version, quantized_to, rows, telling
from qforge.plan.guide import Advice, Choice
from qforge.plan.loads import loads
from qforge.plan.plan import Plan
from qforge.plan.speech import Deployed
from qforge.plan.support_matrix import How
from qforge.report.tiers import tiers

COLOURS = {How.native: "green", How.weight_only: "green", How.refused: "red"}


def plan(planned: Plan, job: Job) -> None:
    """The plan: what happens to which modules, how big, served how, and what to expect."""
    table = Table.grid(padding=(0, 2))
    group = f", group {planned.group_size}" if planned.group_size else ""
    table.add_row(
        "model", f"{planned.model}  {_parameters(planned.parameters)} parameters, shapes from {planned.source}"
    )
    table.add_row("method", f"{planned.method}: {job.method.summary} ({planned.layout}{group})")
    table.add_row("modules", _parts(planned))
    for rule, hits in planned.rules.items():
        effect = (f"{len(hits.changes)} kept in bf16", "") if hits.changes else ("changes nothing", "yellow")
        matched = f", {len(hits.modules)} matched ({_some(hits.modules)}): {hits.why}"
        table.add_row(f"exempt.{rule}", Text.assemble(effect, matched))
    saved = f", bf16 {size(planned.bf16_bytes)}" if planned.quantized else ""
    table.add_row("size", f"{size(planned.bytes)}{saved}, {planned.bits_per_weight:.2f} bits per weight")
    if planned.mixed:
        for share in planned.formats:
            table.add_row("format", _share(share))
    table.add_row("served", _served(planned, job))
    evidence = "the kernel is seen in the server's log alone" if job.method.online else planned.serving.evidence
    table.add_row("", Text(evidence, style="dim"))
    table.add_row("TP", ", ".join(map(str, planned.tensor_parallel)) + " are legal: no head and no group is cut")
    for name, text in _expected(planned, job):
        table.add_row(name, text)
    if planned.speech:
        table.add_row("speech", _stages(planned.speech, job))
    table.add_row("judged", _judged(job))
    for name, text in tiers(planned, job):
        table.add_row(name, text)
    for note in planned.notes:
        table.add_row("note", note)
    if job.model.caution:
        table.add_row("caution", job.model.caution)
    console.print(table)


def _judged(job: Job) -> str:
    """Of what the run will say whether it is good, and what must hold."""
    if job.is_original:
        return "nothing: it is the original, to which others are compared"
    if "judge" not in job.stages:
        return f"nothing: stages={job.stages} leaves it out"
    held = f"; gate={job.gate.name} must hold" if job.gate.required else ""
    goals = f", and good for {', '.join(job.goals)}" if job.goals else ""
    return f"whether it is sound{goals}{held}"


def _parts(planned: Plan) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("kind", "matrices", "quantized", "bf16", "planned"):
        table.add_column(name, justify="left" if name == "kind" else "right")
    for kind, part in planned.parts.items():
        quantized = str(part.quantized) if part.quantized else "-"
        table.add_row(kind, str(part.modules or ""), quantized, size(part.bf16_bytes), size(part.bytes))
    return table


def _served(planned: Plan, job: Job) -> Text:
    serving = planned.serving
    where = f" on {job.hw.name} with {job.runtime.name}"
    reason = f"quantized by vLLM at load to {job.method.online}" if job.method.online else serving.reason
    rest = ", ".join(part for part in (where, support_matrix.kernels(serving), reason) if part)
    return _coloured(serving.how) + rest


def _share(share: Mapping[str, Any]) -> Text:
    """Of a mix what has one of its formats."""
    serving = share["serving"]
    sizes = f"{share['method']}: {share['matrices']} matrices, {share['bits_per_weight']:.2f} bits per weight; "
    return Text(sizes) + _coloured(serving.how) + f", {support_matrix.kernels(serving)}"


def _coloured(how: How) -> Text:
    return Text.assemble((how.value, COLOURS.get(how, "yellow")))


def _expected(planned: Plan, job: Job) -> list[tuple[str, str | Text]]:
    """Estimates, and said to be; then what was measured of this method on such hardware."""
    e = planned.estimates
    m = e.memory
    each = f"on each of {m.devices} devices " if m.devices > 1 else ""
    fits = ("fits", "green") if m.fits else ("does not fit at once", "yellow")
    lines: list[tuple[str, str | Text]] = [(
        "memory", f"estimate {each}in GiB: weights {m.weights:.2f}, activations {m.activations:.2f}, KV cache "
        f"{m.kv_cache:.2f} ({m.concurrency} x {m.context} tokens, {m.kv_dtype}), of {m.budget:.1f} that vLLM may take",
    ), (
        "", Text.assemble(
            fits, f"; at most {m.largest_context:,} tokens of context for {m.concurrency} at once, or "
            f"{m.largest_concurrency:,} at once with {m.context:,} tokens each",
        ),
    )]  # fmt: skip
    if e.quantizing_gib is not None:
        lines.append(("", f"quantizing: about {e.quantizing_gib:.1f} GiB besides the libraries"))
    elif job.method.streams:
        lines.append(("", "quantizing: as a stream, whose memory does not grow with the model"))
    if e.speed and e.bf16_speed:
        own, bf16 = e.speed, e.bf16_speed
        pairs = [("1 stream", own.decode_1, bf16.decode_1), ("64 streams", own.decode_64, bf16.decode_64),
                 ("prefill", own.prefill, bf16.prefill)]  # fmt: skip
        rates = ", ".join(f"{name} {rate:,.0f} ({rate / base:.2f} x bf16)" for name, rate, base in pairs)
        lines.append(("speed", f"at most, tokens/s (roofline, no prediction): {rates}"))
    of_it = quantized_to(of_method(rows(job.hw), planned.method), job.method.online)
    measured = [r for r in of_it if r.group_size == planned.group_size]
    shown = telling(measured, support_matrix.newest(job.hw))
    for row in shown:
        lines.append(("measured", Text.assemble(f"{row.numbers}  ", (f"({_source(row, job)})", "dim"))))
    if rest := len(measured) - len(shown):
        lines.append(("", Text(f"{rest} more in results/: the same models again, or an older vLLM", style="dim")))
    return lines


def _stages(deployed: Deployed, job: Job) -> str:
    """Where vLLM-Omni's stages run, and what each takes there."""
    assert job.runtime.speech
    parts = [
        f"{name} {stage.need:.2f} GiB on device {', '.join(map(str, stage.devices))} ({stage.utilization:.0%} of it)"
        for name, stage in deployed.stages.items()
    ]
    speech = job.runtime.speech
    return (
        f"{'; '.join(parts)}; {speech.sequences} answers of {speech.context} tokens and {speech.seconds:g} s of sound"
    )


def _source(row: Measurement, job: Job) -> str:
    """Where a row comes from, and whether it is of the vLLM that will serve."""
    newest = support_matrix.newest(job.hw)
    return row.source + ("" if of_version([row], newest) else f"; {newest} will serve, and its kernels may differ")


def guide(choices: Sequence[Choice], advice: Sequence[Advice]) -> None:
    """What would work, method by method, and what to take for which goal."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in (
        "method",
        "hw",
        "served",
        "kernel",
        "GiB",
        "bits",
        "at most, 1",
        "arithmetic",
        "measured, bf16 = 1",
        "PPL lost",
    ):
        table.add_column(name, overflow="fold")
    for choice in choices:
        if choice.plan:
            table.add_row(choice.method, choice.hw, *_cells(choice, choice.plan))
    console.print(table)
    for choice in choices:
        if choice.plan is None:
            console.print(Text.assemble(("refused", "red"), f" {choice.refusal}"))
    console.print(
        "at most, 1: the roofline's bound for one stream; arithmetic: the kernel's rate; both over bf16's, no prediction",
        style="dim",
    )
    for advised in advice:
        method = (advised.method, "bold green")
        console.print(Text.assemble((advised.hw, "bold"), f", {advised.goal}: ", method, f", {advised.reason}"))
    for load in loads(choices):
        methods = ", ".join(load.methods)
        console.print(Text.assemble((load.hw, "bold"), f", by load: {load.layout} ({methods}): {load.said}"))
    for source in dict.fromkeys(row.source for choice in choices for row in choice.measurements):
        console.print(source, style="dim")
    for source in dict.fromkeys(row.source for choice in choices for row in choice.older):
        console.print(f"{source}: another version will serve, so this decides nothing", style="dim")


def _cells(choice: Choice, planned: Plan) -> list[str | Text]:
    bounds = [f"{b:.2f}" if b is not None else "" for b in (choice.bound(many=False), choice.bound(many=True))]
    measured = [f"{r:.2f} at {s}" for m in choice.measurements for s, r in m.speed.items()]
    return [
        _coloured(planned.serving.how), support_matrix.kernels(planned.serving),
        f"{planned.bytes / 2**30:.2f}",
        f"{planned.bits_per_weight:.2f}", *bounds, ", ".join(measured),
        "" if choice.loss is None else f"{choice.loss:.1f} %",
    ]  # fmt: skip


def size(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _parameters(count: int) -> str:
    return f"{count / 1e9:,.2f} B" if count >= 1e9 else f"{count / 1e6:,.1f} M"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:2]) + (" ..." if len(names) > 2 else "")
