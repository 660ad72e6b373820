"""The same checkpoint over dates and versions: what is followed, and what is an alarm."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from support.rows import ROWS

from qforge.json_files import write_json
from qforge.report import watch
from qforge.report.__main__ import main

ROW = next(row for row in ROWS if row["method"] == "gptq")
SPEEDS = list(ROW["measured"]["bench"]["runs"])


def later(perplexity: float = 1.0, speed: float = 1.0, **more: object) -> dict:
    """The same checkpoint a year on, under a newer vLLM."""
    row = {**copy.deepcopy(ROW), "date": "2027-11-29", **more}
    row["measured"]["serve"]["version"] = "0.99.0"
    row["measured"]["evaluate"]["texts"]["wikitext"]["perplexity"] *= perplexity
    bench = row["measured"]["bench"]
    for streams, run in bench["runs"].items():
        run["output_throughput"] *= speed
        bench["tokens_per_second_range"][streams] = [speed * x for x in bench["tokens_per_second_range"][streams]]
    return row


def folder(path: Path, *rows: dict) -> Path:
    for number, row in enumerate(rows):
        write_json(path / str(number) / "row.json", row)
        write_json(path / str(number) / "plan.json", {"no": "row"})
    return path


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / str(number)).mkdir()


def alarms(*rows: dict, **options: Any) -> set[str]:
    found = watch.series([(str(number), row) for number, row in enumerate(rows)], **options)
    return {each.measure for each in found for point in each.points if point.alarm}


def test_what_stays_as_it_was_is_no_alarm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", str(folder(tmp_path, later(), ROW))]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'watch.html'}\n"
    page = (tmp_path / "watch.html").read_text()
    assert "perplexity of wikitext" in page
    assert page.index(f">{ROW['date']}</th>") < page.index(">2027-11-29</th>"), "in the order of their dates"


def test_a_worse_score_is_told_with_both_versions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    assert main(["watch", str(folder(tmp_path, ROW, later(perplexity=1.02))), "--page", str(page)]) == 3
    said = capsys.readouterr().out
    was = ROW["measured"]["serve"]["version"]
    assert f"with vLLM 0.99.0, +2.0 % since {ROW['date']}, vLLM {was} (1/row.json)" in said
    assert "1 alarm" in page.read_text()


def test_fewer_tokens_are_an_alarm_where_no_repeat_is_as_fast() -> None:
    assert alarms(ROW, later(speed=0.5)) == {f"tokens/s at {streams}" for streams in SPEEDS}
    assert alarms(ROW, later(speed=0.96)) == set()
    noisy = later(speed=0.9)
    for ends in noisy["measured"]["bench"]["tokens_per_second_range"].values():
        ends[1] *= 2
    assert alarms(ROW, noisy) == set()


def test_what_may_be_lost_is_given() -> None:
    assert alarms(ROW, later(perplexity=1.02), quality=3) == set()


def test_another_checkpoint_or_machine_is_not_followed() -> None:
    another = later(perplexity=2, quantize={**ROW["quantize"], "key": "another"})
    assert alarms(ROW, another) == set()
    elsewhere = later(speed=0.5, machine={**ROW["machine"], "cores": 96})
    assert alarms(ROW, elsewhere) == set()


def test_another_cache_is_not_followed_and_another_share_of_the_memory_is() -> None:
    in_fp8 = later(perplexity=2, speed=0.5, kv={"name": "fp8", "dtype": "fp8", "strategy": None})
    assert alarms(ROW, in_fp8) == set()
    options = {"kv_cache_dtype": "fp8", **ROW["conditions"]["runtime_args"]}  # as earlier rows say it
    assert alarms(ROW, later(perplexity=2, conditions={**ROW["conditions"], "runtime_args": options})) == set()
    options = {"gpu_memory_utilization": 0.2, "kv_cache_dtype": "auto", **ROW["conditions"]["runtime_args"]}
    smaller = later(speed=0.5, conditions={**ROW["conditions"], "runtime_args": options})
    assert alarms(ROW, smaller) == {f"tokens/s at {streams}" for streams in SPEEDS}


def test_checkpoints_that_are_made_anew_are_followed_by_their_recipe_where_one_asks() -> None:
    anew = later(perplexity=2, quantize={**ROW["quantize"], "key": "another"})
    assert alarms(ROW, anew, anew=True) == {"perplexity of wikitext"}
    assert alarms(ROW, {**anew, "command": f"{ROW['command']} calib.sequences=3"}, anew=True) == set()


def test_a_folder_without_rows_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", str(tmp_path)]) == 2
    assert "no row of a finished run in it" in capsys.readouterr().err


def test_a_broken_file_is_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And report.json, which is a list, says nothing of it."""
    folder(tmp_path, ROW, later(perplexity=1.02))
    (tmp_path / "0" / "bench.json").write_text('{"runs": ')
    (tmp_path / "1" / "report.json").write_text("[]")
    assert main(["watch", str(tmp_path)]) == 3
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out: ")]
    assert len(told) == 1
    assert told[0].startswith(f"left out: {tmp_path / '0' / 'bench.json'}: no JSON (Expecting value")


def test_transformers_is_no_version_of_vllm(tmp_path: Path) -> None:
    other = later(perplexity=1.5)
    other["measured"]["serve"] = {"not_measured": "no server"}
    other["measured"]["evaluate"].pop("versions", None)
    assert main(["watch", str(folder(tmp_path, ROW, other))]) == 0


def test_what_is_no_row_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(tmp_path / "plan.json", {"no": "row"})
    assert main([str(tmp_path / "page.html"), str(tmp_path / "plan.json")]) == 2
    assert "plan.json: is no row of a run; give a row.json" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()
