"""A model that vLLM's CPU build cannot compute in any format is refused by the plan; a GPU and transformers are not."""

from __future__ import annotations

import pytest
from support.jobs import job

from qforge.models.modules import Module
from qforge.plan.cpu_kernels import refuse

PLAIN = Module("model.layers.0.self_attn.q_proj", "attention", 8, 8)
INDEXER = Module("model.layers.0.self_attn.indexer.wq_b", "indexer", 8, 8)
MAMBA = Module("backbone.layers.0.mixer.in_proj", "state_space", 8, 8)
DEEPSEEK = {"kv_lora_rank": 512, "qk_rope_head_dim": 64}
ODD = {"kv_lora_rank": 128, "qk_rope_head_dim": 32}


@pytest.mark.parametrize(
    ("module", "text", "words"),
    [
        (
            INDEXER,
            DEEPSEEK,
            r"attention to the tokens that an indexer chooses \(model\.layers\.0\.self_attn\.indexer\.wq_b\)",
        ),
        (PLAIN, ODD, "latent attention of kv_lora_rank=128 and qk_rope_head_dim=32, only for 512 and 64"),
        (MAMBA, {}, r"the mixers of Mamba 1 \(backbone\.layers\.0\.mixer\.in_proj\)"),
    ],
)
def test_what_has_no_kernel_is_refused(module: Module, text: dict[str, int], words: str) -> None:
    with pytest.raises(
        ValueError, match=rf"hw=cpu .*vLLM's CPU build has no kernel for {words}; use hw=\.\.\. of a GPU, "
    ):
        refuse(job("hw=cpu"), [PLAIN, module], text)
    for elsewhere in (("hw=h100",), ("hw=cpu", "runtime=transformers"), ("hw=cpu", "stages=[quantize,inspect]")):
        refuse(job(*elsewhere), [PLAIN, module], text)


def test_what_has_one_is_not() -> None:
    refuse(job("hw=cpu"), [PLAIN], {})
    refuse(job("hw=cpu"), [PLAIN], DEEPSEEK)
