"""A mix on the page: its formats with the kernels that the log names, and what could have been chosen for other sizes."""

from __future__ import annotations

from pathlib import Path

from support.jobs import job

from qforge.config.places import ROOT
from qforge.json_files import read_json
from qforge.judge.goals import judge_again
from qforge.plan import plan
from qforge.report import curve, mix, pages

SAID = {
    "candidates": ["bf16", "fp8", "rtn:32"], "tokens": 1016, "text": "python_reference",
    "chosen": {"bits": 8.0, "added": 0.02},
    "curve": [{"bits": bits, "added": added} for bits, added in ((5.0, 0.1), (8.0, 0.02), (16.0, 0.0))],
    "uniform": [{"format": "fp8", "bits": 9.0, "added": 0.01, "kl": 0.012}],
    "boundary": [{"format": "fp8", "bits": 9.5, "added": 0.009}],
}  # fmt: skip


def test_the_log_is_asked_for_each_planned_kernel() -> None:
    wanted = job("method=mixed", "model=qwen3_8b", "hw=h200")
    planned = plan.make(wanted, None)
    log = {"serve": {"kernels": ["CutlassFP8ScaledMMLinearKernel for CompressedTensorsW8A8Fp8"]}}
    found = {share["method"]: share for share in mix.formats(wanted, planned, log)}
    assert {name: share["logged"] for name, share in found.items()} == {"fp8": True, "nvfp4_llmc": False}
    assert found["nvfp4_llmc"]["parts"] == ["mlp", "expert", "shared_expert"]
    silent = mix.formats(wanted, planned, {"serve": {"not_measured": "stages"}})
    assert [share["logged"] for share in silent] == [None, None]
    assert mix.formats(job("method=fp8", "hw=h200"), plan.make(job("method=fp8", "hw=h200"), None), log) == []


def test_more_bits_are_further_right_and_less_loss_further_down() -> None:
    drawn = curve.drawn(SAID)
    places = [tuple(map(float, place.split(","))) for place in drawn["line"].split()]
    assert places == sorted(places)
    assert [y for _, y in places] == sorted(y for _, y in places)
    assert places[-1] == (drawn["right"], drawn["floor"])
    assert drawn["left"] < drawn["chosen"]["x"] < drawn["uniform"][0]["x"] < drawn["right"]


def test_the_page_has_both(tmp_path: Path) -> None:
    wanted = job("method=mixed", "model=qwen3_8b", "hw=h200")
    row = judge_again(read_json(ROOT / "results" / "smollm2_135m-rtn-cpu.json"), job().goals)
    row |= {"formats": mix.formats(wanted, plan.make(wanted, None), {"serve": {}}), "curve": SAID}
    pages.html(tmp_path / "report.html", [row])
    page = (tmp_path / "report.html").read_text()
    assert "Formats of this checkpoint" in page
    assert "chosen, 8.00 bits" in page
    assert "fp8 alone: 9.00 bits, 0.0100 added up, 0.0120 of the whole model" in page
    assert "fp8 with the first and the last block in bf16: 9.50 bits, 0.0090 added up" in page
    row["curve"] = {key: value for key, value in SAID.items() if key != "boundary"}  # of before 2026-11-30
    pages.html(tmp_path / "report.html", [row])
    assert "last block in bf16:" not in (tmp_path / "report.html").read_text()
