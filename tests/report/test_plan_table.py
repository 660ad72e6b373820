"""A plan in the terminal: one screen, whatever was measured before."""

from __future__ import annotations

import pytest
from support.jobs import job

from qforge.console import console
from qforge.plan import plan
from qforge.report import plan_table

SCREEN = 52  # lines of 120 columns


@pytest.mark.parametrize("hw", ["thor", "h100", "b200"])
def test_qwen3_omni_is_planned_on_one_screen(
    hw: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "width", 120)
    made = job("model=qwen3_omni_30b", "method=nvfp4_llmc", f"hw={hw}", "runtime=vllm_omni", "gate=target")
    plan_table.plan(plan.make(made, None), made)
    said = capsys.readouterr().out
    assert len(said.splitlines()) <= SCREEN
    words = " ".join(said.split())
    assert "weights 20.5 GB of at most 20: missed" in words
    assert "thinker 21.17 GiB on device 0" in words
    assert "talker 6.75 GiB" in words
    assert "code2wav 1.17 GiB" in words


def test_what_vllm_quantizes_at_load_is_not_called_unquantized(capsys: pytest.CaptureFixture[str]) -> None:
    made = job("model=qwen3_8b", "method=online_mxfp4", "hw=h200")
    plan_table.plan(plan.make(made, None), made)
    words = " ".join(capsys.readouterr().out.split())
    assert "quantized by vLLM at load to mxfp4" in words
    assert "unquantized" not in words
