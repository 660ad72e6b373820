"""method=auto: measured rows decide where there are any, the rule otherwise, and it says which."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from support.command import ROOT, Cli
from support.jobs import job

from qforge.config.job import Job
from qforge.plan import evidence, guide, plan, support_matrix
from qforge.plan.evidence import Measurement
from qforge.plan.guide import Choice
from qforge.plan.loads import loads


@functools.cache
def choices(*hardware: str, model: str = "llama3_1_8b") -> list[Choice]:
    def again(*overrides: str):
        return job(f"model={model}", *overrides)

    return guide.choices(again, hardware, None)


def row(method: str, group: int | None, **speed: float) -> Measurement:
    streams = {int(name.removeprefix("at")): ratio for name, ratio in speed.items()}
    return Measurement("x.json", "m", method, "int4", group, "h100", "0.26", 8_000_000_000, False, streams, streams, {})


def advised(found: list[Choice], *hardware: str) -> dict[tuple[str, str], guide.Advice]:
    return {(a.hw, a.goal): a for a in guide.advice(found, hardware)}


def without_rows(found: list[Choice]) -> list[Choice]:
    return [replace(c, measurements=[], loss=None) for c in found]


def test_by_rule_4_bits_for_memory_and_one_stream_fp8_for_many() -> None:
    found = advised(without_rows(choices("h100")), "h100")
    # rtn has as many bytes, and uses no data; autoround too, and was never judged
    assert found["h100", "memory"].method == "gptq"
    assert found["h100", "a single stream"].method == "gptq"
    assert found["h100", "many streams"].method == "fp8"
    assert "by rule, not measured" in found["h100", "many streams"].reason


def test_on_blackwell_many_streams_gain_from_fp4_arithmetic() -> None:
    found = advised(without_rows(choices("b200")), "b200")
    assert found["b200", "many streams"].method == "nvfp4_w4a4"


def test_between_two_days_the_middle_counts() -> None:
    (gptq,) = [c for c in choices("h100") if c.method == "gptq"]
    twice = replace(gptq, measurements=[row("gptq", 128, at1=1.05), row("gptq", 128, at1=1.21)])
    assert twice.speed(1) == pytest.approx(1.13)


def test_rows_of_one_model_on_one_hardware_are_compared() -> None:
    near, other = [row(m, 128, at1=1.2) for m in ("rtn", "gptq")], replace(row("mxfp4", 32, at1=1.6), hw="h200")
    far = [replace(row(m, 128, at1=2.0), model="n", parameters=10**9) for m in ("rtn", "gptq", "awq")]
    assert evidence.nearest([*far, other, *near], 7 * 10**9) == near


def test_what_a_layout_was_measured_at_speaks_for_every_method_that_makes_it() -> None:
    """nvfp4_gptq has nvfp4_llmc's tensors and kernel; of the two it looks at data."""
    rows = [row("nvfp4_llmc", 16, at1=1.39)]
    pair = ("nvfp4_llmc", "nvfp4_gptq")
    found = [replace(c, measurements=rows if c.method in pair else []) for c in without_rows(choices("h100"))]
    stream = advised(found, "h100")["h100", "a single stream"]
    assert stream.method == "nvfp4_gptq"
    assert stream.reason == "measured on m, bf16 = 1: nvfp4_gptq 1.39, nvfp4_llmc 1.39"


def test_what_is_archived_is_left_out_and_its_plan_says_what_to_use() -> None:
    assert "auto_gptq" not in {c.method for c in choices("h100")}
    notes = plan.make(job("method=auto_gptq", "hw=h100"), None).notes
    assert "auto_gptq's library is archived; except for a comparison, use method=gptqmodel" in notes


def test_measured_rows_beat_the_rule() -> None:
    """What an H200 showed at one and at 64 streams with 7.3B and vLLM 0.26; of losses nothing was known."""
    rows = {"nvfp4": row("nvfp4", 16, at1=1.39, at64=0.66), "gptq": row("gptq", 64, at1=1.20, at64=0.95)}

    def with_rows() -> list[Choice]:
        return [
            replace(c, measurements=[rows[c.method]] if c.method in rows else []) for c in without_rows(choices("h100"))
        ]

    found = advised(with_rows(), "h100")
    stream, many = found["h100", "a single stream"], found["h100", "many streams"]
    assert (stream.method, stream.reason) == ("nvfp4", "measured on m, bf16 = 1: nvfp4 1.39, gptq 1.20")
    assert many.method == "fp8"  # nothing measured is faster than bf16
    assert "measured on m, bf16 = 1: gptq 0.95, nvfp4 0.66" in many.reason
    rows["fp8"] = row("fp8", None, at1=1.1, at64=1.5)
    found = advised(with_rows(), "h100")
    assert found["h100", "many streams"].reason.startswith("measured on m, bf16 = 1: fp8 1.50")


def test_a_difference_within_the_spread_of_the_repeats_is_none() -> None:
    noisy = replace(row("gptq", 64, at64=1.05), least={64: 0.93})
    plain = without_rows(choices("h100"))
    found = advised([replace(c, measurements=[noisy] if c.method == "gptq" else []) for c in plain], "h100")
    assert found["h100", "many streams"].method == "fp8"


def test_of_methods_nearly_as_fast_the_one_that_loses_least() -> None:
    rows = {
        "nvfp4": (row("nvfp4", 16, at1=1.45), 6.5),
        "fp8": (row("fp8", None, at1=1.39), 0.9),
        "gptq": (row("gptq", 64, at1=1.18), 0.5),
    }
    found = [
        replace(c, measurements=[rows[c.method][0]], loss=rows[c.method][1], loss_of="n") if c.method in rows else c
        for c in without_rows(choices("h100"))
    ]  # fmt: skip
    stream = advised(found, "h100")["h100", "a single stream"]
    assert stream.method == "fp8"  # gptq loses less, and is not nearly as fast
    assert stream.reason.endswith("fp8 1.39, gptq 1.18; perplexity lost on n: gptq 0.5 %, fp8 0.9 %, nvfp4 6.5 %")


def test_rows_of_another_vllm_are_shown_and_decide_nothing() -> None:
    """On Hopper NVFP4 at 64 streams was 0.70 of bf16 with vLLM 0.26, and is 1.02 and 1.07 on two hosts with 0.33."""
    (nvfp4,) = [c for c in choices("h200", model="qwen3_8b") if c.method == "nvfp4_llmc"]
    assert {m.vllm for m in nvfp4.measurements} == {"0.33.0"}
    assert {m.vllm for m in nvfp4.older} == {"0.26.0"}
    assert nvfp4.speed(64) == pytest.approx((1.02 + 1.07) / 2, abs=0.005)
    only_older = [replace(nvfp4, measurements=[])]
    assert "by rule" in advised(only_older, "h200")["h200", "many streams"].reason


def test_the_place_of_a_format_is_said_by_load() -> None:
    """On an H200 with vLLM 0.33 and an 8B shape: FP8 always, NVFP4 and INT4 for few streams."""
    found = {load.layout: load for load in loads(choices("h200", model="qwen3_8b"))}
    assert found["fp8"].said.startswith("faster than bf16 at every number of streams measured (1.38 at 1, ")
    assert found["nvfp4"].said.startswith("faster than bf16 up to 64 streams, not surely at more (1.44 at 1")
    assert {"nvfp4_llmc", "nvfp4_gptq"} <= set(found["nvfp4"].methods)
    assert found["int4"].faster == [1, 8]
    mixed = replace(found["fp8"], faster=[1, 64])
    assert mixed.said.startswith("faster than bf16 at 1, 64 streams (")
    assert replace(mixed, faster=[1]).said.startswith("faster than bf16 at one stream, not surely at more")
    assert replace(mixed, faster=[]).said.startswith("not surely faster than bf16 at any number")


def test_the_rows_measured_at_a_load_speak_for_it() -> None:
    """One row at 64 and 256 streams and one at 64 and 128: what the first had at 64 is nothing about 128."""
    choice = replace(
        choices("h100")[0], measurements=[row("rtn", 64, at64=1.07, at256=1.01), row("rtn", 64, at64=1.03, at128=0.98)]
    )
    assert [choice.speed(streams) for streams in (64, 128, 256)] == pytest.approx([1.05, 0.98, 1.01])
    assert choice.speed(100) == pytest.approx((1.07 + 0.98) / 2)


@pytest.mark.parametrize(("hw", "pin"), [("h200", "vllm.txt"), ("cpu", "vllm_cpu.txt")])
def test_the_vllm_that_will_serve_is_the_one_that_is_pinned(hw: str, pin: str) -> None:
    said = support_matrix.newest(job(f"hw={hw}").hw)
    assert re.search(rf"^vllm(-cpu)?=={re.escape(said)}\.", (ROOT / "envs" / pin).read_text(), re.MULTILINE)


def test_only_rows_of_the_model_nearest_in_size_count() -> None:
    small, large = replace(row("rtn", 64), parameters=10**9, model="small"), replace(row("rtn", 64), parameters=10**10)
    assert evidence.nearest([small, large], 2 * 10**9) == [small]
    assert evidence.nearest([small, large], 8 * 10**9) == [large]
    assert evidence.nearest([], 8) == []
    assert evidence.nearest([small, large], 8 * 10**9, experts=True) == []  # other kernels


def test_the_portable_case_leaves_out_what_one_of_them_refuses() -> None:
    found = choices("h100", "mi325x")
    refused = [c for c in found if c.plan is None]
    assert {(c.method, c.hw) for c in refused} >= {("nvfp4", "mi325x"), ("nvfp4_llmc", "mi325x")}
    portable = advised(found, "h100", "mi325x")["h100 + mi325x", "one checkpoint for all"].method.split(", ")
    assert {"gptq", "awq", "fp8"} <= set(portable)
    assert "nvfp4" not in portable


def test_committed_rows_are_read_as_ratios_to_bf16() -> None:
    rows = evidence.of_method(evidence.rows(job().hw), "gptq")
    (found,) = [r for r in rows if r.file == "smollm2_135m-gptq-cpu.json"]
    file = json.loads((ROOT / "results" / found.file).read_text())
    ours, bf16 = (file[k]["bench"]["runs"]["4"]["output_throughput"] for k in ("measured", "baseline"))
    assert found.speed[4] == pytest.approx(ours / bf16)
    ours, bf16 = (file[k]["evaluate"]["texts"]["wikitext"]["perplexity"] for k in ("measured", "baseline"))
    assert found.perplexity["wikitext"] == pytest.approx(100 * (ours - bf16) / bf16)
    assert "group 64 on cpu, vLLM 0.32" in found.source


def test_the_command(cli: Cli, tmp_path: Path) -> None:
    done = cli.succeed_inside("method=auto", "plan_only=true", "model=llama3_1_8b", "hw=[h100,mi325x]")
    assert "one checkpoint for all" in done.output
    said = json.loads((done.folder / "guide.json").read_text())
    assert {c["method"] for c in said["choices"]} >= {"bf16", "gptq", "awq", "nvfp4", "fp8"}
    # each has a runtime of its own
    three = cli.inside("method=auto", "plan_only=true", "model=smollm2_135m", "hw=[mi325x,cpu,h100]")
    assert three.code == 0, three.output
    assert cli.inside("method=auto").code == 2
    assert "ranks the methods and runs none; use plan_only=true" in cli.inside("method=auto").output
    both = cli.inside("method=gptq", "hw=[h100,mi325x]", "plan_only=true")
    assert both.code == 2
    assert "hw=[h100,mi325x]: a run is on one hardware; use method=auto" in both.output


def test_each_option_is_composed_once_and_joined() -> None:
    composed: list[tuple[str, ...]] = []

    def again(*overrides: str) -> Job:
        composed.append(overrides)
        return job("model=llama3_1_8b", "eval=full", *overrides)

    hardware = ["h100", "mi325x", "cpu"]
    found = {(method, made.hw.name): made for method, made in guide.jobs(again, hardware)}
    methods = len(list((ROOT / "conf/method").glob("*.yaml"))) - 1
    assert len(composed) == methods + len(hardware) - 1
    assert ("online_fp8", "h100") not in found  # it makes no checkpoint
    for method, hw in (("gptq", "mi325x"), ("nvfp4", "cpu"), ("bf16", "h100"), ("awq", "cpu"), ("rtn", "mi325x")):
        assert found[method, hw] == again(f"method={method}", f"hw={hw}", "plan_only=true")
