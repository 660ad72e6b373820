"""The reference pages, drawn from the code and from conf/: each fact stands in one place, and this only sets it as tables."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml

from qforge.config.bounds import BOUNDS, LARGEST, Bounds
from qforge.config.compose import compose
from qforge.config.job import Job
from qforge.config.places import CONF
from qforge.judge.metrics import METRICS
from qforge.models.formats import FORMATS
from qforge.plan import support_matrix
from qforge.plan.guide import AUTO
from qforge.runtimes import diagnose

COMMENT = re.compile(r"^\s*# ?(?P<text>.*)$")
FIELD = re.compile(r"^    (?P<name>\w+): (?P<type>[^=#]+?)\s*(?:=|#|$)")


def pages() -> dict[str, str]:
    """The text of every page, by its name."""
    drawn = {
        "keys": keys(), "methods": methods(), "hardware": hardware(), "gates": gates(), "metrics": metrics(),
        "support": support(), "errors": errors(),
    }  # fmt: skip
    return {f"reference/{name}.md": "\n".join(lines).rstrip() + "\n" for name, lines in drawn.items()}


def table(heads: list[str], rows: list[list[Any]]) -> list[str]:
    """A table of Markdown; cells are plain text or code."""
    lines = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines]


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def code(value: Any) -> str:
    """A value as one would type it; nothing for none."""
    return "" if value in (None, "") else f"`{value}`"


def keys() -> list[str]:
    """Every key with its type, its value where none is given, its bounds, and the comment beside its field."""
    default = compose(CONF)
    lines = [
        "# Keys",
        "",
        "Any value of the configuration can be given as `key=value`; `qforge --cfg job` prints all of them as they are",
        "resolved. The third column is the value where no group and no key is given: the demo model by GPTQ on a CPU.",
        f"A number without an upper bound of its own is at most {LARGEST:,}.",
        "",
    ]
    for prefix, kind, value in sections("", Job, default):
        lines += [f"## {prefix.rstrip('.') or 'The job'}", ""]
        if kind.__doc__ and not kind.__doc__.startswith(f"{kind.__name__}("):
            lines += [" ".join(kind.__doc__.split()), ""]
        rows = [
            [
                f"`{prefix}{each.name}`",
                code(shown_type.replace(" | None", " or null")),
                shown(getattr(value, each.name, None)),
                bounds(each, get_type_hints(kind)[each.name]),
                meaning,
            ]
            for each, shown_type, meaning in described(kind)
            if not part_of(kind, each.name)
        ]
        lines += [*table(["key", "type", "default", "bounds", "meaning"], rows), ""]
    return lines


def sections(prefix: str, kind: type, value: Any) -> Iterator[tuple[str, type, Any]]:
    """Every dataclass of the schema with the prefix of its keys and, where there is one, the value it has."""
    yield prefix, kind, value
    for each in fields(kind):
        if inner := part_of(kind, each.name):
            part, own = getattr(value, each.name, None), f"{prefix}{each.name}."
            if isinstance(part, dict) or "dict" in str(get_type_hints(kind)[each.name]):
                part, own = next(iter((part or {}).values()), None), f"{own}NAME."
            yield from sections(own, inner, part)


def part_of(kind: type, name: str) -> type | None:
    """The dataclass that a field holds, one or by name; none for a plain value."""
    hint = get_type_hints(kind)[name]
    return next((part for part in (hint, *get_args(hint)) if is_dataclass(part) and isinstance(part, type)), None)


def described(kind: type) -> Iterator[tuple[Field[Any], str, str]]:
    """The fields of a dataclass with their type and the comment that stands beside or above them."""
    found, above = dict[str, tuple[str, str]](), list[str]()
    for line in textwrap.dedent(inspect.getsource(kind)).splitlines():
        if comment := COMMENT.match(line):
            above.append(comment["text"])
        elif each := FIELD.match(line):
            beside = line.partition("  # ")[2]
            found[each["name"]] = each["type"], beside or " ".join(above)
            above = []
        else:
            above = []
    for each in fields(kind):
        if each.name in found:
            yield each, *found[each.name]
        else:  # of a class below
            base = next(parent for parent in kind.__mro__[1:] if each.name in parent.__annotations__)
            yield next(one for one in described(base) if one[0].name == each.name)


def bounds(each: Field[Any], kind: Any) -> str:
    """What a value may be, in words."""
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "one of " + ", ".join(member.value for member in kind)
    if not (limits := each.metadata.get(BOUNDS)):
        return ""
    assert isinstance(limits, Bounds)
    words = [f"{word.replace('_', ' ')} {value:g}" for word in ("at_least", "above", "at_most")
             if (value := getattr(limits, word)) not in (None, LARGEST)]  # fmt: skip
    words += ["one of " + ", ".join(limits.one_of)] if limits.one_of else []
    return ", ".join([*words, *(["not empty"] if limits.non_empty else []), *(["no repeats"] if limits.unique else [])])


def shown(value: Any) -> str:
    """A default, cut where it is long."""
    if value is MISSING or value == "???" or value is None or is_dataclass(value):
        return ""
    text = value.value if isinstance(value, Enum) else str(value).lower() if isinstance(value, bool) else str(value)
    return code(text if len(text) <= 40 else text[:37] + "...")


def options(group: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Every file of a group: its name, what it says, and the comment on top."""
    for file in sorted((CONF / group).glob("*.yaml")):
        text = file.read_text()
        top = [line[1:].strip() for line in text.splitlines()[: _first_key(text)] if line.startswith("#")]
        yield file.stem, yaml.safe_load(text) or {}, " ".join(top)


def _first_key(text: str) -> int:
    return next(number for number, line in enumerate(text.splitlines()) if line and not line.startswith("#"))


def methods() -> list[str]:
    """Every method, with what it makes and what it needs."""
    rows = []
    for name, method, _ in options("method"):
        if name != AUTO:
            layout = FORMATS[method["format"]]
            group = method.get("group_size")
            rows.append([
                f"`{name}`", method["summary"], method["format"], layout.bits if layout.scheme != "bf16" else "",
                "" if group is None else group, "yes" if method.get("calibrated") else "",
                "yes" if method.get("streams") else "", method.get("env") or "",
                f"archived: use `{method['instead']}`" if method.get("instead") else "",
            ])  # fmt: skip
    return [
        "# Methods", "",
        "`method=NAME`. Bits are those of the packed weights, without scales. *Text*: looks at calibration text. *Stream*:",
        "weights pass through a few megabytes at a time, so that no model is held in memory. `method=auto` ranks them for the",
        "hardware: see [Choose a method](../choose.md).", "",
        *table(["method", "what it is", "layout", "bits", "group", "text", "stream", "environment", ""], rows),
    ]  # fmt: skip


def hardware() -> list[str]:
    """Every hardware, with what its file says of it."""
    rows = []
    for name, hw, top in options("hw"):
        rates = ", ".join(f"{kind} {rate:g}" for kind, rate in hw.get("tflops", {}).items())
        runtime = compose(CONF, f"hw={name}").runtime.name
        rows.append([f"`{name}`", hw.get("capability", ""), hw.get("memory_gib", ""), hw.get("bandwidth_gbs", ""), rates,
                     f"`{runtime}`", top])  # fmt: skip
    return [
        "# Hardware", "",
        "`hw=NAME`, or `hw=auto` for this machine. These numbers make estimates and bounds, never results; where they are from",
        "stands in the last column.", "",
        *table(["hw", "capability", "GiB", "10⁹ bytes/s", "dense tflops", "runtime", "notes"], rows),
    ]  # fmt: skip


def gates() -> list[str]:
    """Every gate with its criteria, those of the gates that it builds on among them."""
    lines = [
        "# Gates",
        "",
        "`gate=NAME`, or several as `gate=[memory,latency]`: what must hold. "
        "[How a verdict is reached](../verdict.md) says how each is judged.",
        "",
    ]
    for name, _, top in options("gate"):
        criteria = compose(CONF, f"gate={name}").gate.criteria
        lines += [f"## {name}", "", top, ""]
        rows = []
        for criterion, each in criteria.items():
            bound = f"at most {each.at_most:g}" if each.at_most is not None else f"at least {each.at_least:g}"
            streams = f" at {each.concurrency} streams" if each.concurrency else ""
            rows.append(
                [f"`{criterion}`", f"`{each.metric}`{streams}", f"{bound} {METRICS[each.metric].unit}", each.why]
            )
        lines += [*table(["criterion", "metric", "bound", "why"], rows), ""]
    return lines


def metrics() -> list[str]:
    """Every metric that a gate may ask for, with its definition."""
    rows = []
    for name, metric in METRICS.items():
        function = metric.compare.func if isinstance(metric.compare, partial) else metric.compare
        text = " ".join((inspect.getdoc(function) or "").split())
        if isinstance(metric.compare, partial) and isinstance(metric.compare.args[0], str):
            text = text.replace("`what`", f"`{metric.compare.args[0]}`")
        against = "bf16" if metric.relative else ""
        rows.append([f"`{name}`", metric.unit, against, metric.stage, metric.grows, text])
    modules = (
        "perplexity",
        "divergence",
        "own_answers",
        "tasks",
        "asking",
        "answer_metrics",
        "instructions",
        "tool_calls",
        "sandbox",
        "rubrics",
        "long_context",
        "needles",
        "counted_words",
        "documents",
        "stability",
        "mt_bench",
        "chat_judge",
    )
    lines = [
        "# Metrics", "", "What a criterion of a gate may ask for. *Grows*: what more of narrows its interval.", "",
        *table(["metric", "unit", "against", "stage", "grows", "definition"], rows), "",
        "## How each is measured", "",
    ]  # fmt: skip
    for module in modules:
        tree = __import__(f"qforge.evaluation.{module}", fromlist=[""])
        lines += [f"### {module.replace('_', ' ')}", "", *(inspect.getdoc(tree) or "").splitlines(), ""]
    return lines


def support() -> list[str]:
    """How each layout is served on each hardware, and the facts behind it."""
    names = [name for name, _, _ in options("hw")]
    jobs = {name: compose(CONF, f"hw={name}", *(["hw.capability=avx512"] if name == "cpu" else [])) for name in names}
    rows = []
    for layout, made in FORMATS.items():
        group = next((size for size in (128, *made.group_sizes) if size in made.group_sizes), None)
        cells = []
        for job in jobs.values():
            found = support_matrix.serving(
                made.scheme, layout, group, job.hw, job.runtime, version=support_matrix.newest(job.hw)
            )
            cells.append(found.how.value + (f", {found.kernel.removesuffix('LinearKernel')}" if found.kernel else ""))
        rows.append([f"`{layout}`" + (f" g{group}" if group else ""), *cells])
    lines = [
        "# What serves what", "",
        "By the runtime that the hardware chooses, for linear layers; a plan says it for every layer of a model, experts too.",
        "*Native*: the format's own arithmetic. *Weight-only*: packed weights, 16-bit arithmetic. *Emulated*: the right",
        "numbers without the memory or the speed. A CPU is taken to have AVX-512.", "",
        *table(["layout", *(f"`{name}`" for name in names)], rows), "",
        "## Where that was read or run", "",
        "*ran*: seen, with version and hardware; *read*: file and line of vLLM's source; *assumed*: neither. In the order in",
        "which they are asked: the first that fits decides.", "",
    ]  # fmt: skip
    facts = [
        [", ".join(row.formats), ", ".join(row.platforms), row.how, row.kernel, row.reason, row.evidence, row.fix]
        for row in support_matrix.facts()["rows"]
    ]
    return [*lines, *table(["layouts", "platforms", "how", "kernel", "reason", "evidence", "fix"], facts)]


def errors() -> list[str]:
    """What vLLM's errors mean, and what to do."""
    known = json.loads(diagnose.PATTERNS.read_text())
    lines = [
        "# vLLM's errors", "",
        "A server that does not start ends with one of these, found in its log: cause, remedy, and the last lines of it.", "",
    ]  # fmt: skip
    for each in known:
        words = _cell(each.get("template", each["match"]))
        lines += [f"## {each['id']}", "", f"`{words}`", ""]
        lines += [f"**Cause.** {each['cause']}", "", f"**Remedy.** {each['remedy']}", ""]
        lines += [f"In vLLM's source: `{each['src']}`; {each['evidence']}", ""]
    return lines


def written(folder: Path) -> None:
    """Write the pages below `folder`."""
    for name, text in pages().items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
