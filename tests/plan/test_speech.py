"""A model that speaks, deployed: where its stages run, what they take, what the file says, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.command import ROOT
from support.jobs import job

from qforge.config.speech import STAGES
from qforge.models.checkpoint import Tensor
from qforge.plan import plan, speech, support_matrix
from qforge.plan.memory import UTILIZATION
from qforge.plan.speech import Deployed

OMNI = ("model=qwen3_omni_30b", "hw=h200", "runtime=vllm_omni")


def deployed(*overrides: str) -> Deployed:
    made = plan.make(job(*OMNI, *overrides), None).speech
    assert made
    return made


def entries(made: Deployed) -> dict[str, dict[str, Any]]:
    return dict(zip(STAGES, made.file["stages"], strict=True))


def test_one_device_is_shared_in_proportion_to_what_each_stage_needs() -> None:
    made = deployed("method=rtn")
    assert {stage.devices for stage in made.stages.values()} == {(0,)}
    assert sum(stage.utilization for stage in made.stages.values()) == pytest.approx(UTILIZATION)
    shares = {name: stage.utilization / stage.need for name, stage in made.stages.items()}
    assert max(shares.values()) == pytest.approx(min(shares.values()))
    assert made.stages["talker"].weights == pytest.approx(6.2, rel=0.01)  # 6.65 GB in bf16
    assert made.stages["code2wav"].kv_cache == 0


def test_on_two_devices_the_thinker_has_one_by_itself() -> None:
    made = deployed("method=rtn", "runtime.speech.devices=2")
    assert [entry["devices"] for entry in entries(made).values()] == ["0", "1", "1"]
    assert made.stages["thinker"].utilization == pytest.approx(UTILIZATION)
    three = entries(deployed("method=rtn", "runtime.speech.devices=3"))
    assert (three["thinker"]["devices"], three["thinker"]["tensor_parallel_size"]) == ("0,1", 2)
    assert three["talker"]["devices"] == three["code2wav"]["devices"] == "2"


def test_the_talker_holds_the_text_and_its_codes_and_code2wav_all_codebooks() -> None:
    """80 ms a code (1920 samples at 24 kHz), 16 codebooks."""
    made = deployed("method=bf16", "runtime.speech.context=1000", "runtime.speech.seconds=8")
    assert made.samples_per_code == 1920
    assert [stage.context for stage in made.stages.values()] == [1000, 1100, 1600]
    assert entries(made)["talker"]["default_sampling_params"]["max_tokens"] == 100


def test_a_quantized_thinker_chooses_its_kernels_itself() -> None:
    """vLLM-Omni 0.30 asks for Triton's experts by default, which NVFP4 does not have."""
    for method, backend in (("bf16", "triton"), ("rtn", "auto"), ("nvfp4_llmc", "auto")):
        stages = entries(deployed(f"method={method}"))
        assert (stages["thinker"]["moe_backend"], stages["talker"]["moe_backend"]) == (backend, "triton")
        assert "moe_backend" not in stages["code2wav"]


def test_options_of_a_stage_come_last() -> None:
    made = entries(
        deployed("+runtime.speech.stages.every.enforce_eager=true", "+runtime.speech.stages.talker.max_num_seqs=9")
    )
    assert [entry["enforce_eager"] for entry in made.values()] == [True] * 3
    assert [entry["max_num_seqs"] for entry in made.values()] == [4, 9, 4]


def test_without_the_stage_nothing_is_deployed() -> None:
    assert plan.make(job(*OMNI, "stages=[quantize,inspect]"), None).speech is None
    assert plan.make(job("model=qwen3_omni_30b", "hw=h200"), None).speech is None


SPEAK = "stages=[quantize,inspect,speak,report]"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=qwen3_8b"], "qwen3_8b is a qwen3, and qforge knows the speech of qwen3_omni_moe; leave runtime out"),
        (["runtime.speech.context=70000"], "the thinker of qwen3_omni_30b would need 70000 tokens and has 65536; use "
         "runtime.speech.context=65536 or less"),
        (["runtime.speech.context=65000"], r"the talker .* need 65750 tokens and has 65536; use \S+context=64786 or less"),
        (["runtime.speech.seconds=6000"], "the talker .* has 65536; use a smaller runtime.speech.seconds"),
        (["hw=l40s", SPEAK], r"thinker 6.*, talker .*, and vLLM may take 4\S+; use more runtime.speech.devices"),
        (["hw=l40s", "method=rtn", "runtime.speech.context=60000"], r"use runtime.speech.context=\d+ or less"),
        (["runtime.speech.devices=4"], "cannot be split over 3; use runtime.speech.devices=1 or 2 or 3 or 5"),
    ],
)  # fmt: skip
def test_what_does_not_work_is_refused_with_a_way_out(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        deployed("method=bf16", *overrides)
    assert "\n" not in str(refusal.value)


def test_a_model_without_a_talker_does_not_speak(tmp_path: Path) -> None:
    config = json.loads((ROOT / "data/architectures/qwen3_omni_30b.json").read_text())
    file = tmp_path / "captioner.json"
    file.write_text(json.dumps({**config, "enable_audio_output": False}))
    with pytest.raises(ValueError, match=r"has no talker .* it answers in text; leave runtime out"):
        deployed("method=bf16", f"model.architecture={file}")


@pytest.mark.parametrize("model", ["qwen3_omni_30b_captioner", "qwen3_omni_30b_thinking"])
def test_speech_asked_of_the_captioner_is_refused(model: str) -> None:
    with pytest.raises(ValueError, match=rf"runtime=vllm_omni: {model} has no talker .*; leave runtime out"):
        deployed("method=bf16", f"model={model}")


def test_a_thinker_by_itself_cannot_speak() -> None:
    made = job(*OMNI, "method=rtn", "artifact=/thinker")
    config = json.loads((ROOT / "data/architectures/qwen3_omni_30b.json").read_text())
    held = {"thinker.lm_head.weight": Tensor("BF16", (152064, 2048))}
    with pytest.raises(
        ValueError, match=r"artifact=/thinker: it holds no tensor of talker and code2wav, .*; give a"
    ) as refusal:
        speech.deployed(made, config, held, [], [1])
    assert "\n" not in str(refusal.value)


def test_what_one_engine_alone_cannot_load() -> None:
    """ModelOpt's NVFP4 speaks where nobody scores it; vLLM-Omni before 0.28 loads a quantized router as zeros."""
    with pytest.raises(
        ValueError, match=r"head without its name.*runtime=vllm_omni stages=\[quantize,inspect,speak,report\]"
    ):
        deployed("method=nvfp4")
    assert deployed("method=nvfp4", "stages=[quantize,inspect,speak,report]")
    omni = support_matrix.VLLM_OMNI
    for layout, version, refused in (("int4", "0.26.0", True), ("int4", "0.30.0", False), ("bf16", "0.26.0", False)):
        assert bool(support_matrix.defect(omni, "qwen3_omni_moe", layout, version)) is refused
    assert support_matrix.defect(omni, "qwen3_moe", "int4", "0.26.0") is None
