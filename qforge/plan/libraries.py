"""What a quantizer's library cannot do to an architecture. Every refusal names the key and the fix."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from qforge.config.job import Job
from qforge.models.core import Core
from qforge.models.modules import Module
from qforge.models.packed_kinds import PLAIN
from qforge.plan.memory import Config

# Experts that transformers names otherwise than checkpoints and vLLM do (ran: llm-compressor 0.14 on Mixtral, MiniMax-M2 and
# Phi-3.5-MoE; ModelOpt 0.47, which exports MiniMax-M2's right and Mixtral's wrong)
RENAMED = ("w1", "w2", "w3")
# What AWQ of llm-compressor 0.14 scales together where it has no entry for the class (its awq/mappings.py: default_mappings)
AWQ_DEFAULT = (
    "input_layernorm",
    "post_attention_layernorm",
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
)
AWQ_CLASSES = (  # which have an entry with other names (the same file)
    "AfmoeForCausalLM", "BloomForCausalLM", "CohereForCausalLM", "Cohere2ForCausalLM", "Cohere2VisionForConditionalGeneration",
    "Exaone4ForCausalLM", "Gemma2ForCausalLM", "OlmoForCausalLM", "Olmo3ForCausalLM", "Phi3ForCausalLM", "Phi3VForCausalLM",
)  # fmt: skip
LESS_ONE = ("gemma3", "gemma3_text")  # store a norm's weight less one


def refuse_architecture(
    job: Job, config: Config, modules: Sequence[Module], tensors: Collection[str], core: Core | None = None
) -> None:
    """An archived library knows the architectures of its time, and would fail, or leave a checkpoint that looks fine. So may
    a living one with a mixture of experts. `core`: what a library gets of a multimodal model."""
    supported, kind = job.method.model_types, str(config.get("model_type"))
    if kind in LESS_ONE and job.method.rescales:
        raise ValueError(
            f"method={job.method.name} model={job.model.name}: it folds scales into norms, and a {kind} stores norm weights "
            "minus one: near -1 bf16 has too little precision; use method=gptq"
        )
    if supported and kind not in supported:
        raise ValueError(
            f"method={job.method.name} model={job.model.name}: its library supports {', '.join(supported)} only, and this is a "
            f"{kind}; use method={job.method.instead or 'gptq'}"
        )
    if supported and "rope_parameters" in config and "rope_theta" not in config:
        raise ValueError(
            f"method={job.method.name} model={job.model.name}: config.json has rope_parameters, which its library's "
            "transformers 4 does not read: it would calibrate another model; add rope_theta (and rope_scaling) to it, or "
            f"use method={job.method.instead or 'gptq'}"
        )
    _refuse_dtypes(job, modules)
    kind = core.kind if core and core.kind else kind
    experts, function = [m for m in modules if m.kind == "expert"], job.method.function or ""
    if "llmcompressor" in function and not (core and core.splits):  # a core's experts are the causal model's
        _refuse_own_classes(job, modules)
        if job.method.rescales and not experts and core is None:
            _refuse_unmapped(job, config, tensors)
    if not experts:
        return
    renames = "llmcompressor" in function or (kind == "mixtral" and function and not job.method.streams)
    if renames and any(m.leaf in RENAMED for m in experts):
        raise ValueError(
            f"method={job.method.name} model={job.model.name}: its library loads {kind} with transformers and exports "
            f"transformers' names of the experts, not experts.N.{RENAMED[0]}, which vLLM needs; use method=rtn, fp8 or "
            "nvfp4_llmc, which keep the names"
        )
    mixtures = job.method.mixtures
    if mixtures is not None and kind not in mixtures:
        raise ValueError(
            f"method={job.method.name} model={job.model.name}: {kind} is a mixture of experts, and its library was run only on "
            f"{', '.join(mixtures) or 'none'}; use method=gptq, or rtn, which needs no calibration"
        )


def _refuse_dtypes(job: Job, modules: Sequence[Module]) -> None:
    """Streams round what is in 16 or 32 bits, and nothing else; libraries load whatever it is in bf16."""
    odd = next((m for m in modules if m.linear and m.dtype not in PLAIN), None)
    if odd and job.method.streams:
        raise ValueError(
            f"method={job.method.name} model={job.model.name}: {odd.tensor} is {odd.dtype}; give a model in bf16, fp16 or fp32"
        )


def _refuse_own_classes(job: Job, modules: Sequence[Module]) -> None:
    """What llm-compressor 0.14 does to them (ran): Conv1D it does not quantize (GPT-2), a subclass of Linear it saves unpacked
    (Falcon), experts in a class of their own it leaves whole (Aria) or fails at without the multimodal model (Llama 4)."""
    own = next((m for m in modules if m.own_class and m.linear), None)
    if own:
        raise ValueError(
            f"method={job.method.name} model={job.model.name}: its library packs torch's own Linear and the experts of "
            f"transformers' common interface, and {own.name} is a {own.own_class}; use method=rtn, fp8 or nvfp4_llmc, which "
            "read tensors, not classes"
        )


def _refuse_unmapped(job: Job, config: Config, tensors: Collection[str]) -> None:
    """AWQ without mappings for a class fails after the model is loaded (ran: OLMo 2, which has no input_layernorm; GLM-4, whose
    gate and up are one matrix), or scales by a norm that is not the one before."""
    name = next(iter(config.get("architectures") or []), "")
    leaves = {tensor.removesuffix(".weight").rpartition(".")[2] for tensor in tensors}
    missing = [leaf for leaf in AWQ_DEFAULT if leaf not in leaves]
    if missing and name not in AWQ_CLASSES:
        raise ValueError(
            f"method={job.method.name} model={job.model.name}: its library has no mapping for {name or 'this class'}, and its "
            f"default asks for {missing[0]}, which this model does not have; use method=gptq or rtn"
        )
