"""What a plan says of bounds in absolute numbers: the tiers that this project began with."""

from __future__ import annotations

from support.jobs import job

from qforge.plan import plan
from qforge.report.tiers import tiers


def said(*overrides: str) -> dict[str, str]:
    wanted = job(*overrides)
    return {name: text.plain for name, text in tiers(plan.make(wanted, None), wanted)}


def test_the_tiers_of_qwen3_omni_on_thor() -> None:
    speed = "1 stream at most 120 tokens/s of at least {}: within reach"
    assert said("experiment=omni", "hw=thor") == {
        "goal minimum": f"weights 20.5 GB of at most 30: held; {speed.format(2)}",
        "goal target": f"weights 20.5 GB of at most 20: missed; {speed.format(5)}",
        "goal optimal": f"weights 20.5 GB of at most 16: missed; {speed.format(10)}",
    }


def test_a_gate_that_is_no_goal_and_what_the_hardware_cannot_reach() -> None:
    found = said("model=qwen3_8b", "method=rtn", "hw=thor", "hw.bandwidth_gbs=10", "gate=target")
    assert found == {
        "gate target": "weights 6.2 GB of at most 20: held; 1 stream at most 2 tokens/s of at least 5: missed"
    }


def test_relative_goals_and_the_original_say_nothing() -> None:
    assert not said("model=qwen3_8b", "method=rtn", "hw=h100")
    assert not said("model=qwen3_8b", "method=bf16", "hw=h100", "gate=target")
    assert not said("model=qwen3_8b", "method=rtn", "hw=h100", "gate=target", "stages=[quantize]")
