"""What vLLM's CPU build has no kernel for, in any format: bf16 is not served either (ran: 0.32, results/architectures.md)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qforge.config.job import Engine, Job, Vendor
from qforge.models.modules import Module
from qforge.plan.memory import Config
from qforge.plan.towers import SERVING

LATENT = 576  # kv_lora_rank + qk_rope_head_dim (v1/attention/backends/mla/cpu_mla.py:61)


def refuse(job: Job, tree: Sequence[Module], text: Config) -> None:
    """Raises ValueError where vLLM on a CPU would fail while it loads the model."""
    if job.runtime.engine is not Engine.vllm or job.hw.vendor is not Vendor.cpu or not SERVING & set(job.stages):
        return
    if fault := next(_missing(tree, text), None):
        raise ValueError(
            f"hw={job.hw.name} model={job.model.name}: vLLM's CPU build has no kernel for {fault}; use hw=... of a GPU, "
            "runtime=transformers, or stages=[quantize,inspect]"
        )


def _missing(tree: Sequence[Module], text: Config) -> Iterator[str]:
    if indexer := next((m for m in tree if m.kind == "indexer"), None):
        yield f"attention to the tokens that an indexer chooses ({indexer.name})"
    latent, rotated = text.get("kv_lora_rank"), text.get("qk_rope_head_dim")
    if latent and rotated and latent + rotated != LATENT:
        yield f"latent attention of kv_lora_rank={latent} and qk_rope_head_dim={rotated}, only for 512 and 64"
    if mixer := next((m for m in tree if m.kind == "state_space"), None):
        yield f"the mixers of Mamba 1 ({mixer.name})"
