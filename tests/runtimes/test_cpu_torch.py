"""PyPI's torchvision beside a CPU build of torch: imported in the environment for models with towers, and in no other."""

from __future__ import annotations

from qforge.envs import install, managed


def test_only_the_environment_that_has_it_looks_there_first() -> None:
    assert install.environ("vllm_cpu_multimodal")["PYTHONPATH"].endswith("qforge/runtimes/cpu_site")
    assert install.environ("vllm_cpu") == install.environ("quant") == {}
    assert managed.pins("vllm_cpu_multimodal")["torchvision"] == "0.28.0"
    both = [managed.pins(name) for name in ("vllm_cpu", "vllm_cpu_multimodal")]
    assert both[0].items() <= both[1].items(), "what text models get is the same"
