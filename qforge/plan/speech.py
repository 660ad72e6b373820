"""A model that speaks, deployed: where each of vLLM-Omni's stages runs, what it takes there, and the file that tells it so."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, prod
from typing import Any

from qforge.config.job import Job, Vendor
from qforge.config.speech import CODE2WAV, EVERY, RATE, STAGES, TALKER, THINKER, Speech
from qforge.models.checkpoint import Tensor
from qforge.plan import memory
from qforge.plan.estimate import loaded_bytes
from qforge.plan.memory import Config

SPEAKING = (
    "qwen3_omni_moe",
)  # model types whose stages these are (vllm_omni/model_executor/models/qwen3_omni/pipeline.py)


@dataclass(frozen=True)
class Stage:
    """One stage on its devices, in GiB on each of them."""

    devices: tuple[int, ...]
    context: int  # tokens of one sequence: text, codes after text, codes
    weights: float
    activations: float
    kv_cache: float  # of all sequences
    utilization: float  # of each device's memory, that it may take

    @property
    def need(self) -> float:
        """What it takes at least, in GiB on each of its devices."""
        return self.weights + self.activations + self.kv_cache


@dataclass(frozen=True)
class Deployed:
    """The three stages by name, and the file that deploys them."""

    model_type: str
    stages: dict[str, Stage]
    samples_per_code: int  # of sound, of one step of the talker
    file: dict[str, Any]


def samples_per_code(config: Config) -> int:
    """What code2wav makes of one step of the talker, whose codes it reads together: 1920 samples."""
    wave = config["code2wav_config"]
    return int(prod(wave["upsample_rates"]) * prod(wave["upsampling_ratios"]))


def deployed(
    job: Job, config: Config, tensors: Mapping[str, Tensor], quantized: Sequence[str], tensor_parallel: Sequence[int]
) -> Deployed | None:
    """The stages of the job's model; none where the job asks for no speech.

    `tensors` and `quantized`: of the checkpoint that will be served; `tensor_parallel`: sizes that its thinker can have.
    Raises ValueError for a model that does not speak, and for what the devices cannot hold.
    """
    settings = job.runtime.speech
    if settings is None or not job.speaks:
        return None
    _refuse_silent(job, config, tensors)
    _refuse_long(job, settings, config)
    _refuse_devices(settings, tensor_parallel)
    stages = _stages(job, settings, config, tensors)
    return Deployed(
        str(config["model_type"]),
        stages,
        samples_per_code(config),
        _file(job, settings, config, stages, bool(quantized)),
    )


def _refuse_silent(job: Job, config: Config, tensors: Mapping[str, Tensor]) -> None:
    where, kind = f"runtime={job.runtime.name}", config.get("model_type")
    if kind not in SPEAKING:
        raise ValueError(
            f"{where}: {job.model.name} is a {kind}, and qforge knows the speech of {', '.join(SPEAKING)}; leave runtime out"
        )
    if not config.get("enable_audio_output", True):
        raise ValueError(
            f"{where}: {job.model.name} has no talker (enable_audio_output: false in its config.json), it answers in text; "
            "leave runtime out"
        )
    missing = [part for part in (TALKER, CODE2WAV) if not any(name.startswith(f"{part}.") for name in tensors)]
    if missing:
        raise ValueError(
            f"{where} artifact={job.artifact}: it holds no tensor of {' and '.join(missing)}, so it is a thinker alone, which "
            "cannot speak; give a checkpoint of the whole model, or leave runtime out"
        )


def _refuse_long(job: Job, settings: Speech, config: Config) -> None:
    """The talker reads the thinker's text, and its own codes after it."""
    contexts = _contexts(settings, config)
    for name, limit in ((THINKER, _text(config)), (TALKER, config["talker_config"]["text_config"])):
        most = int(limit.get("max_position_embeddings") or contexts[name])
        if contexts[name] > most:
            fewer = most if name == THINKER else most - _codes(settings, config)
            fix = f"runtime.speech.context={fewer}" if fewer > 0 else "a smaller runtime.speech.seconds"
            raise ValueError(
                f"runtime.speech.context={settings.context} runtime.speech.seconds={settings.seconds}: the {name} of "
                f"{job.model.name} would need {contexts[name]} tokens and has {most}; use {fix} or less"
            )


def _refuse_devices(settings: Speech, tensor_parallel: Sequence[int]) -> None:
    if settings.devices > 1 and settings.devices - 1 not in tensor_parallel:
        sizes = " or ".join(str(size + 1) for size in tensor_parallel)
        raise ValueError(
            f"runtime.speech.devices={settings.devices}: the last is the talker's, and the thinker cannot be split over "
            f"{settings.devices - 1}; use runtime.speech.devices=1 or {sizes}"
        )


def _text(config: Config) -> Config:
    text: Config = config["thinker_config"]["text_config"]
    return text


def _codes(settings: Speech, config: Config) -> int:
    """Steps of the talker for the longest answer."""
    return ceil(settings.seconds * RATE / samples_per_code(config))


def _contexts(settings: Speech, config: Config) -> dict[str, int]:
    codes = _codes(settings, config)
    together = int(config["code2wav_config"]["num_quantizers"])
    return {THINKER: settings.context, TALKER: settings.context + codes, CODE2WAV: codes * together}


def _stages(job: Job, settings: Speech, config: Config, tensors: Mapping[str, Tensor]) -> dict[str, Stage]:
    """Raises ValueError where they do not fit on the devices."""
    where = memory.deployment(job)
    budget = where.device_gib * where.utilization
    many = settings.devices > 1
    devices: dict[str, tuple[int, ...]] = dict.fromkeys(STAGES, (settings.devices - 1,))
    devices[THINKER] = tuple(range(settings.devices - 1)) if many else (0,)

    def needs(context: int) -> dict[str, Stage]:
        contexts = _contexts(replace(settings, context=context), config)
        return {name: _stage(name, config, tensors, settings, where, devices[name], contexts[name]) for name in STAGES}

    def over(context: int) -> bool:
        return any(total > budget for total in _totals(needs(context)).values())

    if over(settings.context):
        longest = bisect_right(range(1, settings.context), False, key=over)
        if longest:
            fix = f"runtime.speech.context={longest} or less"
        else:
            fix = "more runtime.speech.devices, a larger hw, or a smaller runtime.speech.seconds"
        parts = ", ".join(f"{name} {stage.need:.1f}" for name, stage in needs(settings.context).items())
        raise ValueError(
            f"runtime.speech.context={settings.context} hw={job.hw.name}: the stages take {parts} GiB on each of their "
            f"devices, and vLLM may take {budget:.1f}; use {fix}"
        )
    stages = needs(settings.context)
    totals = _totals(stages)
    # on a GPU each takes its part of what is free, since vLLM fills what it is given; a CPU's memory is not for it alone
    full = {device: budget if job.hw.vendor is not Vendor.cpu else total for device, total in totals.items()}
    given = {name: stage.need / totals[stage.devices[0]] * full[stage.devices[0]] for name, stage in stages.items()}
    return {name: replace(stage, utilization=given[name] / where.device_gib) for name, stage in stages.items()}


def _totals(stages: Mapping[str, Stage]) -> dict[int, float]:
    """What the stages take together, by device."""
    used = {device for stage in stages.values() for device in stage.devices}
    return {device: sum(stage.need for stage in stages.values() if device in stage.devices) for device in used}


def _stage(
    name: str, config: Config, tensors: Mapping[str, Tensor], settings: Speech, where: memory.Deployment,
    devices: tuple[int, ...], context: int,
) -> Stage:  # fmt: skip
    weights = sum(loaded_bytes(tensor) for tensor_name, tensor in tensors.items() if tensor_name.startswith(f"{name}."))
    own = replace(
        where, devices=len(devices), context=context, concurrency=settings.sequences, batch_tokens=context,
        batch_sequences=settings.sequences, kv_limit_gib=None,
    )  # fmt: skip
    if name == CODE2WAV:  # keeps no keys and values between its steps
        return Stage(devices, context, weights / 2**30, _sound_bytes(config, context) / 2**30, 0.0, 0.0)
    text = _text(config) if name == THINKER else config["talker_config"]["text_config"]
    estimate = memory.memory(text, weights, own)
    return Stage(devices, context, estimate.weights, estimate.activations, estimate.kv_cache, 0.0)


def _sound_bytes(config: Config, context: int) -> float:
    """Bytes at the widest moment of code2wav's profile run: its widest layer, what goes in and what comes out. Estimated from
    shapes (transformers, modeling_qwen3_omni_moe.py, Code2Wav): a block halves the channels and multiplies the length."""
    wave = config["code2wav_config"]
    length = context / int(wave["num_quantizers"]) * prod(wave["upsampling_ratios"])
    channels, widest = float(wave["decoder_dim"]), 0.0
    for rate in wave["upsample_rates"]:
        length, channels = length * rate, channels / 2
        widest = max(widest, length * channels)
    return 3 * 2.0 * widest


def _file(job: Job, settings: Speech, config: Config, stages: Mapping[str, Stage], quantized: bool) -> dict[str, Any]:
    """vLLM-Omni's deploy file. What is not of the plan is as in its own one (0.30, vllm_omni/deploy/qwen3_omni_moe.yaml)."""
    codes = _codes(settings, config)
    sampling = {
        THINKER: {
            "temperature": 0.0,
            "max_tokens": ceil(settings.context / 2),
        },  # unless a request says; the rest is its own
        # without a seed some draws of the talker derail into fluent nonsense, says that file
        TALKER: {"seed": 42, "temperature": 0.9, "top_k": 50, "max_tokens": codes, "repetition_penalty": 1.05},
        CODE2WAV: {"temperature": 0.0, "max_tokens": stages[CODE2WAV].context, "repetition_penalty": 1.1},
    }
    entries = []
    for number, name in enumerate(STAGES):
        entry = {"stage_id": number, **_options(job, settings, stages[name]), "default_sampling_params": sampling[name]}
        entry |= {"input_connectors": {f"from_stage_{number - 1}": "shared_memory"}} if number else {}
        entry |= _kernels(job, name, quantized)
        entries.append({**entry, **settings.stages.get(EVERY, {}), **settings.stages.get(name, {})})
    chunks = {"initial_codec_chunk_frames": 4, "codec_chunk_frames": 25, "codec_left_context_frames": 25}
    connector = {"name": "SharedMemoryConnector", "extra": chunks}
    return {"async_chunk": True, "connectors": {"shared_memory": connector}, "stages": entries}


def _options(job: Job, settings: Speech, stage: Stage) -> dict[str, Any]:
    options = {
        "devices": ",".join(map(str, stage.devices)), "tensor_parallel_size": len(stage.devices),
        "gpu_memory_utilization": max(round(stage.utilization, 4), 0.01), "max_model_len": stage.context,
        "max_num_batched_tokens": stage.context, "max_num_seqs": settings.sequences, "enable_prefix_caching": False,
        "trust_remote_code": job.model.trust_remote_code,
    }  # fmt: skip
    if job.hw.vendor is Vendor.cpu:  # where vLLM measures nothing
        options["kv_cache_memory_bytes"] = max(ceil(stage.kv_cache * 2**30), 2**26)
    return options


def _kernels(job: Job, name: str, quantized: bool) -> dict[str, Any]:
    """What decides the kernels. By default vLLM-Omni 0.30 asks for Triton's experts, for the sound of bf16, which NVFP4 has not
    (engine/stage_init_utils.py:782) and which leave INT4 without Marlin."""
    if name == CODE2WAV:
        return {"enable_chunked_prefill": False, "async_scheduling": False}
    kernels: dict[str, Any] = {"moe_backend": "auto" if name == THINKER and quantized else "triton"}
    if name == THINKER and job.hw.vendor is Vendor.nvidia:  # a fused rotary embedding changed the sound (the same file)
        kernels["compilation_config"] = {"custom_ops": ["+rotary_embedding"]}
    return kernels
