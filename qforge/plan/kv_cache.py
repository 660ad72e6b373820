"""The KV cache of a plan: whether the server reads it so, the scales that the checkpoint will hold, and what it costs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qforge.config.job import Engine, Job
from qforge.config.kv_cache import GIVEN, HEAD, PLAIN, KvCache
from qforge.models.checkpoint import Tensor
from qforge.models.formats import CT, Format
from qforge.models.modules import Module
from qforge.plan import attention, support_matrix
from qforge.plan.memory import KV_BYTES, Config, head_width
from qforge.plan.support_matrix import How, Serving

MODELOPT = "modelopt"
MEASURED = (
    "a scale per layer mended nothing of Qwen2.5-Coder-1.5B in bf16 (perplexity 14.2 to 27.8, and 28.1 without scales), one "
    "per head a part (17.1; vLLM 0.33, H200: results/notes-h200.md); kv.strategy=attn_head makes those, for Hopper alone"
)
LARGEST, LARGEST_FNUZ, FNUZ = 448, 240, "gfx942"  # of E4M3, and of its form there
E5M2 = "fp8_e5m2"
SCALED = ("fp8", "fp8_e4m3", E5M2)  # others find scales of their own, for each token; and a CPU has no others
# Where auto would mean the FP8 that a checkpoint asks for: it wins over that (0.32 attention.py:283). So on a CPU: its backend
# does not list it, but platforms/cpu.py:143 asks none, and the kernels give what they give for auto (ran: 0.32).
PLAIN_CACHE = "kv.dtype=bfloat16"
ATTENTION = ("k_proj", "qkv_proj")  # each layer with keys of its own has one of them
CPU_WIDTHS = (
    32  # a head's width must be a multiple, or an FP8 cache is refused (0.32 v1/attention/backends/cpu_attn.py:528)
)


@dataclass(frozen=True)
class Row:
    """One fact about FP8 caches; the fields are explained at the head of support_matrix.yaml."""

    platforms: list[str]
    reason: str
    evidence: str
    fix: str
    dtypes: list[str] = field(default_factory=list)  # it speaks of; empty: every FP8 one
    scales: list[str] = field(default_factory=list)  # strategies it speaks of; empty: every one, and none
    packers: list[str] = field(
        default_factory=list
    )  # quant_method of checkpoints it speaks of; empty: every one, and bf16
    attention: list[str] = field(default_factory=list)  # traits of attention.py it speaks of; empty: every model

    def fits(self, platform: str, kv: KvCache, packer: str | None, traits: Collection[str]) -> bool:
        """Whether it speaks of that cache there; `packer`: the checkpoint's quant_method; `traits`: the model's."""
        return (
            platform in self.platforms
            and (not self.dtypes or kv.dtype in self.dtypes)
            and (not self.scales or kv.strategy in self.scales)
            and (not self.packers or packer in self.packers)
            and (not self.attention or bool(set(self.attention) & set(traits)))
        )


def refuse(job: Job, config: Mapping[str, Any], text: Config, serving: Serving, layout: Format) -> None:
    """Raises ValueError for a cache that the server would refuse, or whose scales it would not read.

    `config`: the model's config.json; `text`: the numbers of the language model.
    """
    kv = job.kv
    if kv.plain and not kv.calibrated:
        if job.runtime.engine is Engine.vllm:
            attention.refuse_other_bits(job)
        return
    if kv.calibrated and kv.dtype not in SCALED:
        raise ValueError(
            f"kv={kv.name} kv.dtype={kv.dtype} kv.strategy={kv.strategy}: scales are of an FP8 cache (fp8 or fp8_e4m3); use "
            "kv=fp8_calibrated alone, or kv=auto without kv.strategy"
        )
    if job.runtime.engine is not Engine.vllm:
        raise ValueError(f"kv={kv.name} runtime={job.runtime.name}: only vLLM keeps its cache in FP8; use kv=auto")
    if support_matrix.platform(job.hw, job.runtime).startswith("cpu") and kv.dtype not in (*SCALED, *PLAIN):
        raise ValueError(
            f"kv={kv.name} kv.dtype={kv.dtype} hw={job.hw.name}: vLLM's attention for CPUs keeps its cache in 16 bits or in "
            "FP8; use kv=auto or kv=fp8"
        )
    if kv.dtype.startswith("fp8"):
        _refuse_platform(job, text, layout, attention.traits(job, config, text))
    attention.refuse_backend(job)
    if kv.calibrated and not job.artifact:
        _refuse_scales(job, text, serving, layout)


def _refuse_platform(job: Job, text: Config, layout: Format, traits: Collection[str]) -> None:
    platform = support_matrix.platform(job.hw, job.runtime)
    packer = layout.quant_method or (CT if job.kv.calibrated else None)
    given = job.kv.name == GIVEN
    asks = f"artifact={job.artifact}: its config.json asks for an FP8 cache; " if given else f"kv={job.kv.name} "
    named = f"{asks}hw={job.hw.name}: "
    rows = [Row(**row) for row in support_matrix.facts()["caches"]]
    if row := next((row for row in rows if row.fits(platform, job.kv, packer, traits)), None):
        raise ValueError(f"{named}{row.reason}; use {PLAIN_CACHE if given else row.fix}")
    if platform.startswith("cpu") and text.get("num_attention_heads") and head_width(text) % CPU_WIDTHS:
        raise ValueError(
            f"{named}on a CPU vLLM keeps heads of a multiple of {CPU_WIDTHS} values in FP8, and "
            f"those of {job.model.name} have {head_width(text)}; use {PLAIN_CACHE if given else 'kv=auto'}"
        )


def _refuse_scales(job: Job, text: Config, serving: Serving, layout: Format) -> None:
    named, method = f"kv={job.kv.name} method={job.method.name}", layout.quant_method
    if method not in (None, CT, MODELOPT):
        raise ValueError(
            f"{named}: vLLM reads no scales of the KV cache from the {method} format and would take 1.0; use kv=auto, or a "
            "method by llm-compressor (gptq, awq, rtn) or ModelOpt (nvfp4)"
        )
    if method == MODELOPT and job.kv.strategy == HEAD:
        raise ValueError(f"{named} kv.strategy={HEAD}: ModelOpt has one scale per layer; use kv.strategy=tensor")
    if serving.how is How.simulated:
        raise ValueError(f"{named}: what is simulated is stored as plain bf16, which has no scales; use kv=auto")
    if "kv_lora_rank" in text:
        raise ValueError(
            f"{named} model={job.model.name}: its cache holds one compressed vector for all heads (MLA), which no library here "
            "calibrates; use kv=auto"
        )


def layers(tree: Sequence[Module]) -> list[str]:
    """The layers of attention that keep keys and values of their own, by name."""
    return [m.name.rpartition(".")[0] for m in tree if m.kind == "attention" and m.leaf in ATTENTION]


def scales(job: Job, text: Config, tree: Sequence[Module], layout: Format) -> dict[str, Tensor]:
    """The tensors of the scales, as llm-compressor or ModelOpt name them and vLLM reads them (0.32
    model_loader/weight_utils.py:1599).

    Per layer one for keys and one for values: of shape () or (1,), or (KV heads, 1, 1) with one per head. None where no scales
    are asked for. Raises ValueError where no attention is known in the model.
    """
    if not job.kv.calibrated or job.artifact:
        return {}
    names = layers(tree)
    if not names:
        raise ValueError(f"kv={job.kv.name} model={job.model.name}: no attention layer is known in it; use kv=auto")
    if layout.quant_method == MODELOPT:
        return {f"{layer}.{part}_proj.{part}_scale": Tensor("F32", ()) for layer in names for part in "kv"}
    heads = int(text.get("num_key_value_heads") or text["num_attention_heads"])
    shape = (heads, 1, 1) if job.kv.strategy == HEAD else (1,)
    return {f"{layer}.{part}_scale": Tensor("BF16", shape) for layer in names for part in "kv"}


def notes(job: Job) -> list[str]:
    """What an FP8 cache costs, where that was measured."""
    if job.kv.plain or job.runtime.engine is not Engine.vllm:
        return []
    unknown = f"what kv.dtype={job.kv.dtype} takes is not known here: memory is planned for 16 bits a value"
    sizes = [] if job.kv.dtype in KV_BYTES else [unknown]
    if job.kv.calibrated or not job.kv.dtype.startswith("fp8"):
        said = f"kv={job.kv.name}: the verdict is against bf16 with a bf16 cache, so it has the cost of the cache"
        return [said, *sizes, *([MEASURED] if job.kv.calibrated and not job.artifact else [])]
    largest = LARGEST_FNUZ if support_matrix.platform(job.hw, job.runtime) == FNUZ else LARGEST
    cut = "digits are lost" if job.kv.dtype == E5M2 else f"keys beyond {largest} are cut off"
    return [
        f"kv.dtype={job.kv.dtype} without scales: {cut}. FP8 (E4M3) took Qwen2.5-Coder-1.5B in bf16 from perplexity 15.1 "
        "to 29.1, which short questions did not show (vLLM 0.26, H200: results/qwen2_5_coder_1_5b-bf16-kv_fp8-h200.json; by "
        "position: results/notes-h200.md). kv=fp8_calibrated measures scales; the verdict is against bf16 with a bf16 cache",
        *sizes,
    ]
