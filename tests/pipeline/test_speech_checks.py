"""What is refused of speech before anything is planned: the user's own deploy file, options that are qforge's, no file."""

from __future__ import annotations

import pytest
from support.jobs import job

from qforge.pipeline.checks import check

OMNI = ("model=qwen3_omni_30b", "hw=h200", "method=rtn", "runtime=vllm_omni")
STAGES = "+runtime.speech.stages"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+runtime.args.deploy_config=mine.yaml"], r"runtime.args.deploy_config: qforge writes .* takes none; give options .* "
         r"as runtime.speech.stages.thinker"),
        ([f"{STAGES}.voice.max_num_seqs=1"], "speech.stages.voice: no such stage; use thinker, talker, code2wav, or every"),
        ([f"{STAGES}.talker.devices=1"], "runtime.speech.stages.talker.devices: use runtime.speech.devices"),
        ([f"{STAGES}.every.max-model-len=9"], "runtime.speech.stages.every.max-model-len: use runtime.speech.context and"),
        (["eval.speech.questions=/none.txt"], "eval.speech.questions=/none.txt: no such file; give a file with a"),
        (["eval.speech.recognizer=host/v1"], "eval.speech.recognizer=host/v1: is not an address .* use http://HOST/v1 or"),
        (["method=online_fp8"], "runtime=vllm_omni method=online_fp8: vLLM-Omni is given checkpoints alone; use a method that"),
        (["eval.speech.tokens=4096"], "eval.speech.tokens=4096: question and answer must fit into runtime.speech.context=4096"),
        (["runtime=vllm", "stages=[quantize,inspect,speak]"], "this runtime does not speak; use runtime=vllm_omni"),
        (["hw=cpu"], "runtime=vllm_omni is for nvidia, hw=cpu is cpu; .*runtime=vllm_cpu, vllm_omni_cpu"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_key_and_the_fix(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        check(job(*OMNI, *overrides))
    assert "\n" not in str(refusal.value)


def test_a_runtime_that_does_not_speak_takes_the_stage_for_granted() -> None:
    """`speak` is one of the stages that every job has."""
    made = job("model=qwen3_8b", "hw=h200", "method=rtn")
    assert "speak" in made.stages
    check(made)
    check(job(*OMNI))
