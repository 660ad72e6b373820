"""The page in a real browser: plots are drawn, sorting and filtering work, nothing is fetched, nothing overlaps."""

from __future__ import annotations

import copy
import csv
import json
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.browser import ask, browser
from support.command import ROOT, Cli
from support.jobs import job
from support.rows import ROWS

from qforge.json_files import read_json
from qforge.judge.goals import judge_again
from qforge.report import figures, names, pages, table

RESULTS = sorted((ROOT / "results").glob("*.json"))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    page = tmp_path_factory.mktemp("many") / "report.html"
    pages.html(page, ROWS)
    return page


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    page = tmp_path_factory.mktemp("one") / "report.html"
    pages.html(page, [row for row in ROWS if row["method"] == "gptq"])
    return page


CELLS = "[...document.querySelectorAll('#rows tbody tr')].map(tr => tr.cells[i].textContent)"
HEADS = "[...document.querySelectorAll('#head th')].map(th => th.textContent)"


def test_every_row_is_in_the_table_best_first_and_the_plots_are_drawn(many: Path) -> None:
    found = ask(
        many,
        f"""
        const i = 0, count = (what) => document.querySelectorAll(what).length;
        return {{heads: {HEADS}, names: {CELLS}, dots: count('#paretos path.dots'), plots: count('#paretos svg'),
                 fronts: count('#paretos path.front'), curves: count('#curves path.curve'), charts: count('#curves svg')}}""",
    )
    assert found["names"] == ["bf16", "fp8", "awq g64", "nvfp4 g16", "rtn g64", "gptq g64"]
    assert found["heads"][:3] == ["row", "verdict", "perplexity lost, worst text, %"]
    assert found["plots"] == 4, "tokens/s at the fewest and at the most streams, memory, bits"
    assert found["dots"] >= 8
    assert found["fronts"] == 2, "bf16 beats all others in both quality and speed"
    # throughput, three latencies and throughput by speed per user; five rows were timed, each latency at p50 and p95
    assert (found["charts"], found["curves"]) == (5, 5 + 3 * 5 * 2 + 5)


def test_what_all_get_is_drawn_against_what_each_gets() -> None:
    data = figures.data(table.table(ROWS))
    (plot,) = (curve for curve in data["curves"] if curve["x"] == "tokens/s per user")
    by = {column["key"]: column["values"] for column in data["columns"]}
    for streams, made, each in plot["lines"][0]["points"]:
        assert data["columns"][made]["key"] == f"tps@{streams}"
        for user, latency in zip(data["columns"][each]["values"], by[f"p50_tpot@{streams}"], strict=True):
            assert user == (latency and pytest.approx(1000 / latency, rel=1e-3))


def test_sorting_works_both_ways_and_leaves_what_is_missing_last(many: Path) -> None:
    found = ask(
        many,
        f"""
        const index = {HEADS}.findIndex(text => text.startsWith('tokens/s, 4'));
        const read = () => {{ const i = index; return {CELLS}; }};
        const click = () => document.querySelectorAll('#head button')[index].click();
        click(); const down = read(), said = document.querySelectorAll('#head th')[index].ariaSort;
        click(); return {{down, up: read(), said, focused: document.activeElement.textContent}}""",
    )
    assert found["down"] == ["141.9", "89.5", "87.4", "82.3", "8.2", ""]
    assert found["up"] == ["8.2", "82.3", "87.4", "89.5", "141.9", ""]
    assert found["said"] == "descending"
    assert found["focused"].startswith("tokens/s, 4"), "the keyboard stays where it was"


def test_filters_work_on_the_table_and_on_the_plots(many: Path) -> None:
    found = ask(
        many,
        f"""
        const i = 0, enter = (id, value) => {{
            const box = document.getElementById(id); box.value = value; box.dispatchEvent(new Event('input')); }};
        enter('search', 'INT4 gptq'.slice(5)); const searched = {CELLS};
        enter('search', ''); enter('verdict-filter', 'unsound'); const rejected = {CELLS};
        const names = [...document.querySelectorAll('#paretos svg')][0].textContent;
        enter('search', 'nothing like it');
        return {{searched, rejected, names, said: document.getElementById('shown').textContent,
                 plots: document.querySelectorAll('#paretos svg, #curves svg').length}}""",
    )
    assert found["searched"] == ["gptq g64"]
    assert found["rejected"] == ["awq g64", "nvfp4 g16", "rtn g64", "gptq g64"], "fp8 is undecided"
    assert "bf16" not in found["names"]
    assert found["said"] == "0 of 0 rows shown, 6 in all"
    assert found["plots"] == 0


def test_rows_can_be_had_in_the_order_of_a_goal_and_back(tmp_path: Path) -> None:
    names = ["fp8", "nvfp4", "nvfp4_hessian", "rtn"]
    files = [ROOT / f"results/qwen2_5_coder_1_5b-{name}-h200.json" for name in names]
    pages.html(tmp_path / "report.html", [judge_again(read_json(file), job().goals) for file in files])
    found = ask(tmp_path / "report.html", f"""
        const i = 0, box = document.getElementById('goal'), orders = {{}};
        for (const option of [...box.options].concat(box.options[0])) {{
            box.value = option.value; box.dispatchEvent(new Event('input')); orders[option.textContent] = {CELLS}; }}
        return {{orders, said: document.body.innerText.match(/Best for .*/g)}}""")  # fmt: skip
    quality = ["bf16", "fp8", "nvfp4 g16", "nvfp4_hessian g16", "rtn g128"]
    best = ["nvfp4_hessian g16", "nvfp4 g16"]
    assert sorted(found["orders"]) == ["latency", "memory", "quality", "throughput"]
    assert sorted(found["orders"]["quality"]) == quality
    assert found["orders"]["memory"][:2] == best
    assert found["orders"]["throughput"][0] == "fp8"
    assert [": ".join(said.split(": ")[:2]) for said in found["said"]] == [
        "Best for memory: nvfp4_hessian g16", "Best for latency: no row is surely good for it", "Best for throughput: fp8",
    ]  # fmt: skip


def test_all_committed_rows_fit_on_one_page(tmp_path: Path) -> None:
    rows = [judge_again(read_json(file), job().goals) for file in RESULTS]
    pages.html(tmp_path / "report.html", rows)
    found = ask(tmp_path / "report.html", f"""
        const i = 0; document.getElementById('more').click();
        return {{names: {CELLS}, plots: document.querySelectorAll('#paretos svg, #curves svg').length}}""")  # fmt: skip
    assert len(found["names"]) >= len(rows)
    assert found["plots"] >= 4


def test_one_garbage_model_does_not_flatten_all_others(tmp_path: Path) -> None:
    garbage = copy.deepcopy(ROWS[-1])
    garbage["method"] = "garbage"
    garbage["measured"]["evaluate"]["texts"]["wikitext"]["perplexity"] = 7.6e44
    pages.html(tmp_path / "report.html", [*ROWS, garbage])
    found = ask(
        tmp_path / "report.html",
        """
        const figure = document.querySelector('#paretos figure');
        return {said: figure.querySelector('figcaption').textContent,
                ticks: [...figure.querySelectorAll('text.tick')].map(t => t.textContent)}""",
    )
    assert found["said"] == "1 of 6 rows lie above the top edge."
    assert "150" in found["ticks"]


def test_rows_of_one_experiment_are_told_by_their_methods(tmp_path: Path) -> None:
    demo = {"name": "demo", "question": "?", "expect": "!"}
    pages.html(
        tmp_path / "report.html", [{**row, "experiment": demo} for row in ROWS if row["method"] in ("fp8", "rtn")]
    )
    names = ask(
        tmp_path / "report.html", "return [...document.querySelectorAll('#paretos text.name')].map(t => t.textContent)"
    )
    assert {"bf16", "fp8", "rtn g64"} == set(names)


def test_pointing_at_a_point_names_its_row(many: Path) -> None:
    found = ask(
        many,
        """
        const svg = document.querySelector('#paretos svg'), box = svg.getBoundingClientRect();
        const front = svg.querySelector('path.v-baseline').getBBox(), scale = box.width / 420;
        const move = (x, y) => svg.dispatchEvent(
            new MouseEvent('mousemove', {clientX: box.left + x * scale, clientY: box.top + y * scale}));
        move(front.x + front.width / 2, front.y + front.height / 2);
        const tip = document.getElementById('tip'), said = tip.textContent, shown = !tip.hidden;
        move(70, 20); return {said, shown, hidden: tip.hidden}""",
    )
    assert found["shown"]
    assert found["said"].split("\n") == [
        "bf16", "perplexity lost, worst text: 0.00 %", "tokens/s, 1 stream: 54.2", "verdict: baseline",
    ]  # fmt: skip
    assert found["hidden"]


@pytest.mark.parametrize("page", ["many", "one"])
def test_no_text_of_a_plot_lies_on_another_or_leaves_it(page: str, request: pytest.FixtureRequest) -> None:
    found = ask(request.getfixturevalue(page), """
        const bad = [];
        for (const svg of document.querySelectorAll('figure svg')) {
            const frame = svg.getBoundingClientRect();
            const boxes = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
            boxes.forEach(([a, p], i) => {
                const inside = p.left > frame.left - 1 && p.right < frame.right + 1
                    && p.top > frame.top - 1 && p.bottom < frame.bottom + 1;
                if (!inside) bad.push(`${a} leaves`);
                for (const [b, q] of boxes.slice(i + 1)) {
                    const apart = p.left > q.right - 1 || q.left > p.right - 1 || p.top > q.bottom - 2 || q.top > p.bottom - 2;
                    if (!apart) bad.push(`${a} / ${b}`);
                }
            });
        }
        return bad""")  # fmt: skip
    assert found == []


def test_one_run_shows_its_verdict_first_and_its_intervals(one: Path) -> None:
    found = ask(one, """
        const text = document.body.innerText;
        return {verdict: document.getElementById('verdict').textContent, h1: document.querySelectorAll('h1').length,
                order: ['unsound', 'instead of', 'Next, spend bits', 'Verdict, criterion', 'Under load', 'Measured',
                        'Conditions', 'Run it again']
                    .map(t => text.indexOf(t)),
                bars: document.querySelectorAll('svg.bar .spread').length, table: document.getElementById('table').hidden,
                plots: document.querySelectorAll('#paretos svg, #curves svg').length}""")  # fmt: skip
    assert found["verdict"] == "unsound"
    assert found["order"] == sorted(found["order"])
    assert found["order"][0] > 0
    assert (found["bars"], found["plots"], found["table"], found["h1"]) == (7, 5, True, 1)


def test_a_page_needs_no_network_and_is_small(many: Path, one: Path) -> None:
    for page in (many, one):
        text = page.read_text()
        assert not re.search(r"(src|href)=\"(?!data:,)", text), "everything is in the page"
        assert "://" not in text.replace("http://www.w3.org/", "")
        assert len(text) < 200_000


def test_names_that_look_like_markup_are_shown_not_run(tmp_path: Path) -> None:
    row = {**copy.deepcopy(ROWS[0]), "model": "</script><script>console.log('ran')</script><b>x"}
    pages.html(tmp_path / "report.html", [row])
    found = ask(tmp_path / "report.html", "return document.querySelector('h1').textContent")
    assert found.startswith("</script><script>console.log('ran')")


MARKUP = """<img src=x onerror=alert(1)>"'>"""
# what a page looks up, computes with or splits, and does not show as it is
READ = {"metric", "threshold", "verdict", "command", "judged"}


class Tags(HTMLParser):
    """Counts tags that came out of a text."""

    found = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += ("src", "x") in attrs or any(name == "onerror" for name, _ in attrs)


def hostile(value: Any) -> Any:
    """The same with markup for every text."""
    if isinstance(value, dict):
        return {key: part if key in READ else hostile(part) for key, part in value.items()}
    if isinstance(value, list):
        return [hostile(part) for part in value]
    return MARKUP if isinstance(value, str) else value


def test_whatever_text_a_row_has_is_shown_not_run(tmp_path: Path) -> None:
    rows = [hostile(row) for row in ROWS if not row.get("failed")]
    for name, shown in (("many", rows), ("one", rows[:1])):
        pages.html(page := tmp_path / f"{name}.html", shown)
        tags = Tags()
        tags.feed(page.read_text())
        assert MARKUP[1:15] in page.read_text(), "it is shown"
        assert not tags.found


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_text_has_the_contrast_that_wcag_asks_for(scheme: str) -> None:
    css = (pages.TEMPLATES / "report.css").read_text()
    blocks = dict(zip(("light", "dark", "print"), re.findall(r":root \{(.*?)\}", css, re.S), strict=True))
    colours = dict(re.findall(r"--(\w+): (#\w+);", blocks[scheme]))
    for ink, paper in [("ink", "page"), ("dim", "page"), ("ink", "panel"), ("ink", "note"), ("accent", "page"),
                       *(("on", c) for c in ("good", "bad", "open", "none"))]:  # fmt: skip
        assert contrast(colours[ink], colours[paper]) >= 4.5, (ink, paper)


def contrast(a: str, b: str) -> float:
    """WCAG 2.2, relative luminance."""

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("page", ["many", "one"])
def test_it_prints_on_a_few_sheets(page: str, request: pytest.FixtureRequest) -> None:
    file = request.getfixturevalue(page)
    pdf = file.with_name("report.pdf")
    browser(file, f"--print-to-pdf={pdf}")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", pdf.read_bytes())) <= 12
    narrow = file.with_name("narrow.html")  # the print styles on a screen as wide as A4, where boxes can be asked
    narrow.write_text(file.read_text().replace("@media print", "@media screen"))
    found = ask(
        narrow,
        """
        document.body.style.width = '700px';
        const edge = document.body.getBoundingClientRect().right + 1;
        return [...document.querySelectorAll('td, th, p, svg')].filter(e => e.getBoundingClientRect().right > edge)
            .map(e => e.textContent)""",
    )
    assert found == [], "nothing runs off the paper"


def test_ten_thousand_rows_are_built_opened_and_sorted_in_seconds(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = []
    for number in range(10_000):
        row = copy.deepcopy(ROWS[number % len(ROWS)])
        row["exempt"]["lm_head"]["modules"] = [f"try {number}"]
        row["method"] = f"{row['method']}_{number}"
        row["measured"]["evaluate"]["texts"]["wikitext"]["perplexity"] *= float(random.uniform(1, 2))
        rows.append(row)
    started = time.process_time()
    pages.html(tmp_path / "report.html", rows)
    built = time.process_time() - started
    found = ask(tmp_path / "report.html", """
        const rows = () => document.querySelectorAll('#rows tbody tr').length, opened = performance.now(), first = rows();
        document.querySelectorAll('#head button')[2].click(); const sorted = performance.now() - opened;
        for (let i = 0; i < 3; i++) document.getElementById('more').click();
        return {opened, sorted, all: performance.now() - opened - sorted, first, last: rows()}""")  # fmt: skip
    size = (tmp_path / "report.html").stat().st_size
    print(f"10,000 rows: built in {built:.1f} s, {size / 1e6:.1f} MB, {found}")
    assert (found["first"], found["last"]) == (25, 10_000 + len(table.with_baselines(rows)) - len(rows))
    assert built < 10, "seconds of this process, however busy the machine is"
    assert found["opened"] < 10_000
    assert found["sorted"] < 5_000


def test_the_files_beside_the_page_have_every_number(many: Path) -> None:
    lines = list(csv.DictReader(many.with_suffix(".csv").open()))
    (gptq,) = [line for line in lines if line["method"] == "gptq"]
    (row,) = [row for row in ROWS if row["method"] == "gptq"]
    assert float(gptq["tps@4"]) == row["measured"]["bench"]["runs"]["4"]["output_throughput"]
    assert float(gptq["loss [%]"]) == pytest.approx(75.05, abs=0.01)
    assert gptq["command"] == row["command"]
    flat = json.loads(many.with_suffix(".json").read_text())
    assert [line["name"] for line in flat] == [line["name"] for line in lines]
    assert {line["name"]: line["tps@4"] for line in flat}["gptq g64"] == float(gptq["tps@4"])


def test_the_command_writes_a_page_and_refuses_what_is_no_row(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "qforge.report", str(tmp_path / "page.html")]
    done = subprocess.run([*command, str(ROOT / "results/smollm2_135m-rtn-cpu.json")], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page.html").is_file()
    done = subprocess.run([*command, str(tmp_path / "none.json")], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, f"refused: {tmp_path / 'none.json'}: no such file\n")


def test_what_was_refused_is_a_row_with_its_reason(cli: Cli, tmp_path: Path) -> None:
    done = cli("method=rtn", "group_size=128")
    assert done.code == 2
    refused = done.json("row")
    assert (refused["verdict"], refused["method"]) == ("refused", "rtn")
    assert refused["failed"]["reason"] in done.output
    assert refused["failed"]["reason"] in (done.folder / "report.html").read_text()
    pages.html(tmp_path / "report.html", [*ROWS, refused])
    found = ask(tmp_path / "report.html", f"""
        const i = 0; return {{names: {CELLS}, mixed: document.getElementById('mixed').hidden,
                             said: [...document.querySelectorAll('h2')].map(h => h.textContent)}}""")  # fmt: skip
    assert found["names"][-1] == "rtn g128"
    assert "Failed and refused" in found["said"]


def test_rows_of_other_conditions_are_told_apart_and_have_no_common_front(tmp_path: Path) -> None:
    other = copy.deepcopy(ROWS[-1])
    other["conditions"] |= {"context": 2048, "runtime": "transformers"}
    pages.html(tmp_path / "report.html", [*ROWS, other])
    found = ask(tmp_path / "report.html", f"""
        const state = () => [document.getElementById('mixed').hidden, document.querySelectorAll('path.front').length];
        const mixed = state(), select = document.getElementById('conditions-filter');
        select.selectedIndex = [...select.options].findIndex(o => o.textContent.includes('vllm_cpu'));
        select.dispatchEvent(new Event('input'));
        return {{mixed, chosen: state(), heads: {HEADS}}}""")  # fmt: skip
    assert found["mixed"] == [False, 0]
    assert found["chosen"] == [True, 2]
    assert "runtime" in found["heads"], "shown where it differs"


def test_a_row_of_an_experiment_shows_its_question_and_has_a_short_name_in_plots(tmp_path: Path) -> None:
    row = copy.deepcopy(next(row for row in ROWS if row["method"] == "rtn"))
    row["experiment"] = {"name": "B9", "question": "Does it <b>help</b>?", "expect": "Hardly."}
    pages.html(tmp_path / "one.html", [row])
    said = ask(
        tmp_path / "one.html", "return document.querySelector('#verdict').parentNode.nextElementSibling.innerText"
    )
    assert said == "Does it <b>help</b>? Expected: Hardly."
    pages.html(tmp_path / "many.html", [row, *ROWS[:3]])
    found = ask(tmp_path / "many.html", f"""
        const i = 0, texts = [...document.querySelectorAll('#paretos text.name')].map(t => t.textContent);
        return {{names: {CELLS}, texts, asked: document.querySelectorAll('p.asked').length}}""")  # fmt: skip
    assert "B9: rtn g64" in found["names"]
    assert "B9" in found["texts"]
    assert found["asked"] == 1


# -- what is computed for it


def test_the_baseline_is_a_row_once_per_set_of_conditions() -> None:
    rows = [copy.deepcopy(row) for row in ROWS if row["method"] in ("rtn", "awq")]
    rows.append(copy.deepcopy(rows[0]))
    rows[-1]["conditions"]["context"] = 2048
    found = table.with_baselines(rows)
    assert [row["method"] for row in found] == ["bf16", "bf16", "awq", "awq", "rtn"]
    assert len({table.conditions_of(row) for row in found}) == 2


def test_a_given_checkpoint_in_bf16_is_judged_and_no_baseline() -> None:
    row = copy.deepcopy(next(row for row in ROWS if row["method"] == "rtn"))
    row |= {"method": "bf16", "artifact": "/models/tuned", "group_size": None}
    found = table.with_baselines([row])
    assert [names.name_of(r) for r in found] == ["bf16", "bf16 of tuned"]
    columns = {column.key: values for column, values in table.table(found).items()}
    assert columns["verdict"] == ["baseline", "unsound"]
    assert columns["loss"][1] > 30


def test_a_bar_has_its_threshold_and_its_interval_in_order() -> None:
    bar = figures.bar({"value": 7.0, "interval": [6.0, 8.0], "threshold": "<= 5"})
    assert bar
    assert 0 <= bar["limit"] < bar["low"] < bar["value"] < bar["high"] <= 100
    assert figures.bar({"value": None, "interval": None, "threshold": "<= 5"}) is None


def rich() -> dict[str, Any]:
    """A row with everything that evaluate can measure, in the form in which it measures it."""
    row = copy.deepcopy(next(row for row in ROWS if row["method"] == "gptq"))

    def positions(extra: float) -> dict[str, Any]:
        return {
            "from": [1, 64, 512, 2048],
            "tokens": [63, 448, 1536, 2048],
            "loss": [300 + extra, 1500, 4800, 6100 + extra],
        }

    def long(extra: float) -> dict[str, Any]:
        found = [[1.0, 1.0, 1.0], [1.0, 0.5, 1.0], [0.5, 0.0, 1.0 - extra / 100]]
        text = {"length": 4096, "perplexity": 21.0 + extra, "tokens": 4095, "positions": positions(extra)}
        needles = {"lengths": [1024, 2048, 4096], "depths": [0.0, 0.5, 1.0], "per_cell": 2,
                   "found": {"noise": found, "common words": found}}  # fmt: skip
        return {"perplexity": {"war_and_peace": text}, "needles": needles}

    for side, extra in (("measured", 20.0), ("baseline", 0.0)):
        evaluate = row[side]["evaluate"]
        evaluate |= {
            "long_context": long(extra), "kv": {"fp8": long(extra + 50)},
            "stability": {"prompts": 16, "repeats": 2, "concurrency": 4, "degenerate_share": extra / 100,
                          "differing_share": 0.0,
                          "degenerate": [{"prompt": "Count.", "text": "1 1 1 1", "fault": "the same words repeated"}],
                          "load": {"seconds": 30.0, "requests": 44, "failed": 0, "concurrency": 4, "tokens_per_request": 64}},
        }  # fmt: skip
        for text in evaluate["texts"].values():
            text["positions"] = positions(extra)
            text["seen"] = {"kind": True, "overlap": 0.012}
    row["measured"]["divergence"] = {"texts": {"wikitext": {"kl": 0.081, "top1_agreement": 0.87, "tokens": 5115}}}
    row["unmeasured"] = ["sustained load"]
    row["heat"] = [{"title": "Bits per weight", "unit": "bits", "leaves": ["q_proj", "down_proj"], "blocks": [0, 1, 2],
                    "values": [[16.0, 4.25, 4.25], [16.0, None, 4.25]]}]  # fmt: skip
    return row


def test_long_context_needles_stability_and_layers_are_shown_where_they_were_measured(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    pages.html(page, [rich()])
    found = ask(
        page,
        """
        const plot = [...document.querySelectorAll('#curves figure')].find(f => f.textContent.includes('war_and_peace'));
        const cells = [...document.querySelectorAll('table.heat')]
            .map(t => [t.caption.textContent, t.querySelectorAll('td i').length]);
        return {lines: plot.querySelectorAll('path.curve').length, said: plot.querySelector('figcaption').textContent, cells,
                choice: document.getElementById('quality').selectedOptions[0].textContent, text: document.body.innerText}""",
    )
    assert found["lines"] == 4, "bf16 and the model, the KV cache as served and in fp8"
    assert found["said"] == "solid: KV cache as served, dashed: KV cache fp8"
    assert [count for _, count in found["cells"]] == [9, 9, 5]
    assert found["cells"][0][0] == "share found, 0 to 1, of 2 prompts each; down: tokens of context, across: depth"
    assert found["cells"][1][0].endswith("depth (words to be counted have none: further prompts)")
    assert "from 4.25 (light) to 16 (dark)" in found["cells"][2][0]
    assert found["choice"] == "KL to bf16, worst text, nats/token", "the most sensitive one first"
    for said in (
        "The calibration has seen text like wikitext (the same kind); 1.2 % of its 13-word sequences",
        "20 % degenerate answers (bf16 0 %)", "“Count.” → “1 1 1 1”", "44 requests of 64 tokens", "KL to bf16, wikitext",
        "sustained load", "Found in long prompts: common words",
    ):  # fmt: skip
        assert said in found["text"], said
