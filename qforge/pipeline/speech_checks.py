"""What can be refused of speech from the job alone: questions, stages and options that do not go together."""

from __future__ import annotations

import re

from qforge.config.job import Job
from qforge.config.places import given_path
from qforge.config.speech import EVERY, STAGES

# Of a stage's entry in the deploy file what qforge sets: the key to use instead, or why there is none
OWN = {
    "stage_id": "the stages have their numbers; leave it out",
    "devices": "use runtime.speech.devices",
    "tensor_parallel_size": "use runtime.speech.devices",
    "max_model_len": "use runtime.speech.context and runtime.speech.seconds",
    "input_connectors": "qforge connects the stages; leave it out",
    "trust_remote_code": "use model.trust_remote_code",
    "quantization": "vLLM-Omni reads it from the checkpoint; leave it out",
}

SCORED = {"serve", "evaluate", "bench", "judge"}
NO_FILE = (
    "qforge writes vLLM-Omni's deploy file from its plan, and takes none; give options of a stage as "
    "runtime.speech.stages.thinker, talker, code2wav, or every for all"
)


def check(job: Job) -> None:
    """Raises ValueError: what is wrong, the key, the fix."""
    settings, asked = job.runtime.speech, job.eval.speech
    if settings is None:
        if "speak" in job.stages and not SCORED & set(job.stages):  # nothing else is asked of the runtime
            raise ValueError(
                f"stages={job.stages} runtime={job.runtime.name}: this runtime does not speak; use runtime=vllm_omni (on a CPU "
                "runtime=vllm_omni_cpu)"
            )
        return
    if job.method.online and job.speaks:
        raise ValueError(
            f"runtime={job.runtime.name} method={job.method.name}: vLLM-Omni is given checkpoints alone; use a method that "
            "makes one (method=fp8), or leave runtime out"
        )
    for name, options in settings.stages.items():
        if name not in (EVERY, *STAGES):
            raise ValueError(
                f"runtime.speech.stages.{name}: no such stage; use {', '.join(STAGES)}, or {EVERY} for all"
            )
        if own := next((option for option in options if option.replace("-", "_") in OWN), None):
            raise ValueError(f"runtime.speech.stages.{name}.{own}: {OWN[own.replace('-', '_')]}")
    for option in ("deploy_config", "stage_overrides", "stage_configs_path"):
        if option in {key.replace("-", "_") for key in job.runtime.args}:
            raise ValueError(f"runtime.args.{option}: {NO_FILE}")
    if not given_path(asked.questions).is_file():
        raise ValueError(f"eval.speech.questions={asked.questions}: no such file; give a file with a question per line")
    if asked.recognizer is not None and not re.match(r"https?://[^/]", asked.recognizer):
        raise ValueError(
            f"eval.speech.recognizer={asked.recognizer}: is not an address of an OpenAI-compatible API; use http://HOST/v1 or "
            "https://HOST/v1"
        )
    if asked.tokens >= settings.context:
        raise ValueError(
            f"eval.speech.tokens={asked.tokens}: question and answer must fit into runtime.speech.context={settings.context}; "
            "use fewer, or a longer context"
        )
