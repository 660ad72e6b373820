"""results/chat.md, drawn from results/chat/: what answers in chat lose, and how often the verdict is wrong about it.

    python benchmarks/chat.py
    python benchmarks/chat.py row RUN/row.json OUT.json
    python benchmarks/chat.py seeds OUT.json NAME=ANSWERS.jsonl ...

The first draws the page. The second keeps a row without the places of the machine that made it: of a run with eval=chat as
results/chat/MODEL-METHOD-HW.json, of long prompts (eval.long_context) as results/chat/long-MODEL-METHOD-HW.json. The third
keeps of many runs of answers (answers.jsonl, or bf16-answers.jsonl) what was right and what was broken by task, seed and
question, as a figure each: results/chat/seeds-MODEL-HW.json, from which the verdict is drawn again and again, with other seeds
each time. Of a run with eval.seeds=63 (seeds-MODEL-HW-63.json) each draw has seeds of its own:

    python run.py model=MODEL eval=chat eval.seeds=63 gate=chat gate.required=false method=rtn group_size=-1 hydra.run.dir=RUN
    python benchmarks/chat.py seeds results/chat/seeds-MODEL-HW-63.json bf16=RUN/bf16-answers.jsonl damaged=RUN/answers.jsonl
"""

from __future__ import annotations

import gzip
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from qforge.config.compose import compose
from qforge.config.places import CONF
from qforge.evaluation.own_tasks import JUDGED
from qforge.judge import verdict

RESULTS = ROOT / "results" / "chat"
GATE = compose(CONF, "gate=chat").gate
MAIN = (*JUDGED.values(), "exact_match,strict-match")  # of which an answer has one
SEEDS = 2  # of one run, so that two runs share no answer of five
PAIRS = 20  # of runs
MANY = 3  # seeds of a run, as eval=chat asks, where there are so many that
RUNS = 20  # runs and more share none
HALF = "itself, with every second right answer taken away"
Row = dict[str, Any]
Kept = dict[
    str, dict[str, list[str]]
]  # by task, of `right` and `broken` a text for each seed with a figure for each question


def main() -> None:
    """Draw the page, or keep a row or answers."""
    if sys.argv[1:2] == ["row"]:
        row = json.loads(Path(sys.argv[2]).read_text())
        row["command"] = re.sub(r" \S+=/\S*", "", row["command"])
        Path(sys.argv[3]).write_text(json.dumps(row, indent=1) + "\n")
    elif sys.argv[1:2] == ["seeds"]:
        named = [word.partition("=") for word in sys.argv[3:]]
        Path(sys.argv[2]).write_text(json.dumps({name: keep(Path(file)) for name, _, file in named}, indent=1) + "\n")
    else:
        (ROOT / "results" / "chat.md").write_text(page())


# -- the page


def page() -> str:
    """Everything, by model and hardware."""
    lines = [
        "# Answers in chat", "", "Drawn by `python benchmarks/chat.py` from the files in results/chat/: do not edit.", "",
        "docs/howto/ask.md defines each number. In brackets: points lost against bf16 on the same questions and seeds, and how "
        "likely chance alone loses or wins as much (p, after Holm's correction over the tasks).",
        "",
    ]  # fmt: skip
    rows = [
        json.loads(file.read_text())
        for file in sorted(RESULTS.glob("*.json"))
        if not file.name.startswith(("seeds-", "long-"))
    ]
    places = sorted({(row["model"], row["conditions"]["hw"]) for row in rows})
    for model, hw in places:
        there = [row for row in rows if (row["model"], row["conditions"]["hw"]) == (model, hw)]
        lines += [f"## {model}, {hw}", ""]
        for commit in sorted({row["qforge"]["commit"] for row in there}, reverse=True):
            alike = [row for row in there if row["qforge"]["commit"] == commit]  # bf16 is measured with each
            alike.sort(key=lambda row: (bool(row["baseline"]), -row["size"]["bits_per_weight"]))
            lines += [*scores(alike), *faults(alike), *minutes(alike), *flips(alike)]
        for file in sorted(RESULTS.glob(f"seeds-{model}-{hw}*.json")):
            lines += chance(json.loads(file.read_text()))
        lines += long_prompts(
            [json.loads(file.read_text()) for file in sorted(RESULTS.glob(f"long-{model}-*-{hw}.json"))]
        )
    if (notes := RESULTS / "notes.md").exists():
        lines += notes.read_text().splitlines()
    return "\n".join(lines).rstrip() + "\n"


def name_of(row: Row) -> str:
    """The method, its group, where it has one (one of -1 is a whole row of a matrix), and its KV cache."""
    size = row["group_size"] if row["method"] != "bf16" else None
    cache = "" if row["kv"]["name"] == "auto" else f", kv={row['kv']['name']}"
    return row["method"] + (", a scale per row" if size == -1 else f" g{size}" if size else "") + cache


def tasks_of(row: Row) -> dict[str, Row]:
    """The tasks that were asked in chat."""
    return {name: task for name, task in row["measured"]["evaluate"]["tasks"].items() if "asked" in task}


def scores(rows: list[Row]) -> list[str]:
    """Per task what is right, in percent."""
    first, names = rows[0], list(tasks_of(rows[0]))
    asking = first["measured"]["evaluate"]["asking"]
    heads = [f"{name}, {tasks_of(first)[name]['judged']}" for name in names]
    lines = [
        f"{first['date']}, vLLM {first['measured']['serve']['version']}, {machine(first)}; "
        f"qforge {first['qforge']['commit'][:9]}. {asking['seeds']} seeds, temperature {asking['temperature']}, "
        f"top_p {asking['top_p']}, {asking['answer_tokens']} tokens an answer. {first['caution']}",
        "",
        *table(
            ["method", "bits", *heads, "PPL wikitext", "KL of own answers", "gate=chat"],
            [score(row, names) for row in rows],
        ),
        "",
    ]
    counts = ", ".join(f"{name} {tasks_of(first)[name]['samples']}" for name in names)
    return [*lines, f"Questions: {counts}. Each in percent right, a mean over questions and seeds.", ""]


def score(row: Row, names: list[str]) -> list[str]:
    found = {c["of"].partition(" ")[0]: c for c in row["criteria"] if c["metric"] == "answers_lost_points"}
    cells = []
    for name in names:
        task = tasks_of(row)[name]
        cell = f"{100 * task['metrics'][task['judged']]:.1f}"
        if c := found.get(name):
            cell += f" ({c['value']:+.1f} lost, p {c['p']:.2g})"
        cells.append(cell)
    texts = row["measured"]["evaluate"]["texts"]
    kl = row["measured"].get("divergence", {}).get("texts", {}).get("own answers")
    judged = row["verdict"] if row.get("baseline") else "baseline"
    bits = f"{row['size']['bits_per_weight']:.1f}"
    return [
        name_of(row),
        bits,
        *cells,
        f"{texts['wikitext']['perplexity']:.2f}",
        f"{kl['kl']:.4f}" if kl else "",
        judged,
    ]


def machine(row: Row) -> str:
    """The GPU, else the CPU and its cores."""
    gpus = row["machine"]["gpus"]
    return gpus[0].partition(",")[0] if gpus else f"{row['machine']['cpu']}, {row['machine']['cores']} cores"


def faults(rows: list[Row]) -> list[str]:
    """Of all answers those with a fault, by fault."""
    kinds = list(next(iter(tasks_of(rows[0]).values()))["asked"]["faults"])
    lines = []
    for row in rows:
        asked = [task["asked"] for task in tasks_of(row).values()]
        counts = [sum(one["faults"][kind] for one in asked) for kind in kinds]
        lines.append([name_of(row), str(sum(one["answers"] for one in asked)), *map(str, counts)])
    return [
        "What went wrong, in answers:",
        "",
        *table(["method", "answers", *(kind.replace("_", " ") for kind in kinds)], lines),
        "",
    ]


def minutes(rows: list[Row]) -> list[str]:
    """What a row costs."""
    lines = []
    for row in rows:
        took = {**row["time"]["saved"], **row["time"]["spent"]}
        spent = row["measured"]["evaluate"]["seconds"]
        stages = [took.get(stage, 0.0) for stage in ("quantize", "server")]
        parts = [spent.get(part, 0.0) for part in ("perplexity", "own_answers", "tasks")]
        lines.append([name_of(row), *(f"{seconds / 60:.1f}" for seconds in [*stages, *parts, sum([*stages, *parts])])])
    heads = ["method", "quantize", "start of the server", "texts", "own answers", "questions", "in all"]
    return ["Minutes of a row, bf16's own share not counted:", "", *table(heads, lines), ""]


def flips(rows: list[Row]) -> list[str]:
    """Items that flipped, and of each task the worst one side by side."""
    lines, shown = [], []
    for row in rows:
        for task, found in row["measured"].get("flips", {}).items():
            lines.append([name_of(row), task, str(found["items_lost"]), str(found["items_won"]), str(found["of"])])
            if worst := next(iter(found["items"]), None):
                cells = (worst["asked"], worst["wanted"], worst["bf16"], worst["model"])
                shown.append([name_of(row), task, *(short(cell) for cell in cells)])
    if not lines:
        return []
    heads = ["method", "task", "asked", "wanted", "bf16", "the method"]
    return [
        "Questions that bf16 answered better, and worse:", "", *table(["method", "task", "lost", "won", "of"], lines), "",
        "Of each the one that lost most, as a report shows it side by side:", "", *table(heads, shown), "",
    ]  # fmt: skip


def short(value: Any) -> str:
    """What fits into a cell, as text."""
    text = value if isinstance(value, str) else json.dumps(value)
    text = " ".join(text.split()).replace("|", "\\|").replace("`", "'")
    return f"`{text[:160]}{' …' if len(text) > 160 else ''}`" if text else "(nothing)"


def table(heads: list[str], rows: list[list[str]]) -> list[str]:
    """In Markdown."""
    return [f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(heads), *rows)]


def long_prompts(rows: list[Row]) -> list[str]:
    """By family what was found in prompts of each length."""
    lines = []
    for row in sorted(rows, key=lambda row: (row["method"] != "bf16", -row["size"]["bits_per_weight"])):
        needles = row["measured"]["evaluate"]["long_context"]["needles"]
        for place, length in enumerate(needles["lengths"]):
            shares = [fmean(cells[place]) for cells in needles["found"].values()]
            lines.append([name_of(row), f"{length:,}", *(f"{100 * share:.0f}" for share in shares)])
    if not rows:
        return []
    prompts = needles["per_cell"] * len(needles["depths"])
    return [
        f"Found in long prompts, in percent, a mean of {prompts} prompts each ({rows[0]['date']}, vLLM "
        f"{rows[0]['measured']['serve']['version']}, {machine(rows[0])}, qforge {rows[0]['qforge']['commit'][:9]}):", "",
        *table(["method", "tokens", *needles["found"]], lines), "",
    ]  # fmt: skip


# -- chance


def keep(file: Path) -> Kept:
    """What was right and broken, out of every answer of a run."""
    text = gzip.decompress(file.read_bytes()).decode() if file.suffix == ".gz" else file.read_text()
    kept: dict[str, dict[str, dict[int, str]]] = {}
    for line in text.splitlines():
        answer = json.loads(line)
        right = answer["scores"][next(name for name in MAIN if name in answer["scores"])]
        seeds = kept.setdefault(answer["task"], {"right": {}, "broken": {}})
        for name, figure in (("right", right), ("broken", bool(answer["faults"]))):
            assert figure in (0, 1), f"{answer['task']} scores in parts"
            seeds[name][answer["seed"]] = seeds[name].get(answer["seed"], "") + str(int(figure))
    return {
        task: {name: [of[seed] for seed in sorted(of)] for name, of in found.items()} for task, found in kept.items()
    }


def chance(kept: dict[str, Kept]) -> list[str]:
    """How often gate=chat rejects by answers alone: pairs of runs that share no answer."""
    asked = kept["bf16"]
    items = ", ".join(f"{task} {len(found['right'][0])}" for task, found in asked.items())
    many = seeds(asked) >= RUNS * MANY
    names = [(name, name) for name in kept] + ([] if many else [(HALF, "bf16")])
    lines = []
    for name, kind in names:
        times = [rejected(*pair) for pair in pairs(kept, kind, halved=name == HALF)]
        lines.append([f"bf16 against {'itself' if name == 'bf16' else name}", f"{sum(times)} of {len(times)}"])
    how = (
        f"Runs of {MANY} seeds each, as many as {seeds(asked)} seeds make without an answer in two of them: bf16's against the "
        "next one of bf16, another model's against bf16's of the same seeds."
        if many
        else f"Two runs of {SEEDS} seeds each: of every question {SEEDS} answers, drawn from the {seeds(asked)} that were "
        f"given, are the one's and {SEEDS} others the other's, so that of bf16 against itself chance alone differs."
    )
    return [
        "How often answers alone are rejected by `gate=chat` (a task lost more than its margin and chance does not explain "
        f"it, or more answers are broken). {how} Questions: {items}.", "",
        *table(["", "rejected"], lines), "",
    ]  # fmt: skip


def seeds(of: Kept) -> int:
    return len(next(iter(of.values()))["right"])


def pairs(kept: dict[str, Kept], name: str, halved: bool = False) -> Iterator[tuple[Row, Row]]:
    """Runs of `name` and of bf16, no answer in both. `halved`: every second right answer of the former counts as wrong."""
    if (count := seeds(kept["bf16"])) >= RUNS * MANY:
        runs = [list(range(first, first + MANY)) for first in range(0, count - MANY + 1, MANY)]
        for i, own in enumerate(runs):
            yield side(kept[name], own), side(kept["bf16"], runs[(i + 1) % len(runs)] if name == "bf16" else own)
    else:
        yield from (sides(kept, name, draw, halved) for draw in range(PAIRS))


def side(kept: Kept, of: list[int]) -> Row:
    """A run with these seeds, in the form of the stages."""
    return {"evaluate": {"tasks": {task: run_of(found, [of] * len(found["right"][0])) for task, found in kept.items()}}}


def sides(kept: dict[str, Kept], name: str, draw: int, halved: bool = False) -> tuple[Row, Row]:
    """A run of `name` and one of bf16 in the form of the stages, of other seeds for each question. `halved` is by
    lot."""
    random = Random(draw)
    own, other = {}, {}
    for task, found in kept[name].items():
        order = [random.sample(range(seeds(kept[name])), 2 * SEEDS) for _ in found["right"][0]]  # of each question
        own[task] = run_of(found, [places[:SEEDS] for places in order])
        if halved:
            scores = own[task]["per_sample"]
            scores["right"] = [
                sum(random.random() < 0.5 for _ in range(round(s * SEEDS))) / SEEDS for s in scores["right"]
            ]
        other[task] = run_of(kept["bf16"][task], [places[SEEDS:] for places in order])
    return {"evaluate": {"tasks": own}}, {"evaluate": {"tasks": other}}


def run_of(found: dict[str, list[str]], places: list[list[int]]) -> Row:
    """A task's result, of the answers with these seeds to each question."""
    right, broken = (
        [sum(int(found[what][seed][item]) for seed in of) / len(of) for item, of in enumerate(places)]
        for what in ("right", "broken")
    )
    return {"judged": "right", "per_sample": {"right": right}, "asked": {"broken": broken}}


def rejected(own: Row, other: Row) -> bool:
    """Whether one criterion of the answers fails."""
    criteria = {name: GATE.criteria[name] for name in ("task", "broken")}
    return any(
        finding.verdict == "fail"
        for name, criterion in criteria.items()
        for finding in verdict.findings(name, criterion, own, other)
    )


if __name__ == "__main__":
    main()
