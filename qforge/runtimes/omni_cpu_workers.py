"""The workers of vLLM-Omni's stages on a CPU: its own runners, on vLLM's runner and worker for CPUs."""

from __future__ import annotations

from typing import Any

from vllm.v1.worker.cpu_worker import CPUWorker  # isort: skip  first: it loads libraries that torch must find loaded
import torch
from vllm.v1.worker.cpu_model_runner import CPUModelRunner, _torch_cuda_wrapper
from vllm_omni.worker.gpu_ar_model_runner import GPUARModelRunner
from vllm_omni.worker.gpu_generation_model_runner import GPUGenerationModelRunner
from vllm_omni.worker.mixins import OmniWorkerMixin


class _Stream:
    """In place of a CUDA stream for copies: on a CPU a copy is done when it returns."""

    device = torch.device("cpu")

    def wait_stream(self, stream: Any) -> None:
        """Nothing to wait for."""

    def synchronize(self) -> None:
        """Nothing to wait for."""


class _OnCpu:
    """What vLLM-Omni's runners ask of CUDA beyond what vLLM's CPU runner answers."""

    compilation_config: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with _torch_cuda_wrapper():  # vLLM's own, which covers its runner alone
            super().__init__(*args, **kwargs)

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """As the runner does, which needs a number of graphs to capture: none."""
        if self.compilation_config.max_cudagraph_capture_size is None:
            self.compilation_config.max_cudagraph_capture_size = 0
        super().load_model(*args, **kwargs)  # type: ignore[misc]

    def _get_or_create_omni_payload_copy_stream(self) -> _Stream:
        return _Stream()


class CpuArRunner(_OnCpu, GPUARModelRunner, CPUModelRunner):  # type: ignore[misc, unused-ignore]
    """Of the thinker and the talker."""


class CpuGenerationRunner(_OnCpu, GPUGenerationModelRunner, CPUModelRunner):  # type: ignore[misc, unused-ignore]
    """Of the stage that turns codes into sound."""


class _Worker(OmniWorkerMixin, CPUWorker):  # type: ignore[misc, unused-ignore]
    model_runner_cls: type[Any]

    def init_device(self) -> None:
        """As vLLM's worker does, then with vLLM-Omni's runner in place of vLLM's."""
        super().init_device()
        self.use_v2_model_runner = False
        self.model_runner = self.model_runner_cls(self.vllm_config, torch.device("cpu"))


class CpuArWorker(_Worker):
    model_runner_cls = CpuArRunner


class CpuGenerationWorker(_Worker):
    model_runner_cls = CpuGenerationRunner
