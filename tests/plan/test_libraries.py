"""What a library cannot do to an architecture is refused by the plan, not by the library an hour later."""

from __future__ import annotations

import pytest
from support.jobs import job

from qforge.models.metadata import Source
from qforge.models.modules import Module
from qforge.models.structure import Structure
from qforge.plan.architecture_notes import refuse_unbuilt
from qforge.plan.libraries import refuse_architecture

ATTENTION = [f"model.layers.0.self_attn.{leaf}.weight" for leaf in ("q_proj", "k_proj", "v_proj", "o_proj")]
GATED = [f"model.layers.0.mlp.{leaf}.weight" for leaf in ("gate_proj", "up_proj", "down_proj")]
NORMS = [f"model.layers.0.{leaf}.weight" for leaf in ("input_layernorm", "post_attention_layernorm")]
OLMO2 = [*ATTENTION, *GATED, NORMS[1], "model.layers.0.post_feedforward_layernorm.weight"]
GLM4 = [*ATTENTION, *NORMS, "model.layers.0.mlp.gate_up_proj.weight", GATED[2]]


@pytest.mark.parametrize(
    ("name", "tensors", "lacks"),
    [("Olmo2ForCausalLM", OLMO2, "input_layernorm"), ("Glm4ForCausalLM", GLM4, "gate_proj")],
)
def test_awq_is_refused_where_it_does_not_know_what_to_scale_together(
    name: str, tensors: list[str], lacks: str
) -> None:
    config = {"model_type": "x", "architectures": [name]}
    with pytest.raises(ValueError, match=f"no mapping for {name}, .* asks for {lacks}, .*; use method=gptq or rtn"):
        refuse_architecture(job("method=awq"), config, [], tensors)
    refuse_architecture(job("method=gptq"), config, [], tensors)


@pytest.mark.parametrize(
    ("name", "tensors"),
    [("Olmo3ForCausalLM", OLMO2), ("LlamaForCausalLM", [*ATTENTION, *GATED, *NORMS]), ("Phi3ForCausalLM", [])],
)
def test_awq_is_let_at_what_it_has_a_mapping_for(name: str, tensors: list[str]) -> None:
    refuse_architecture(job("method=awq"), {"model_type": "x", "architectures": [name]}, [], tensors)


def test_a_matrix_that_streams_do_not_read_is_refused() -> None:
    odd = Module("a.up_proj", "mlp", 8, 8, "F64", tensor="a.up_proj.weight")
    with pytest.raises(ValueError, match=r"a\.up_proj\.weight is F64; give a model in bf16, fp16 or fp32"):
        refuse_architecture(job("method=rtn"), {"model_type": "x"}, [odd], [])
    refuse_architecture(job("method=gptq"), {"model_type": "x"}, [odd], [])  # its library loads it in bf16


def test_a_class_that_cannot_be_built_is_refused_where_a_library_loads_it() -> None:
    source = Source({}, {"model_type": "x"}, "x", structure=Structure("transformers 5.17.0", None, "no model type `x`"))
    words = "its library loads the model's class, and transformers 5.17.0 cannot build it: no model type `x`; use method=rtn"
    with pytest.raises(ValueError, match=words):
        refuse_unbuilt(job("method=gptq"), source)
    refuse_unbuilt(job("method=rtn"), source)  # a stream reads tensors
