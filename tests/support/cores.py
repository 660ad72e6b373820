"""In the quantizer's environment: tiny multimodal models of random weights, their text cores out and back, as JSON.

Arguments: folder, then what to do: `make TYPE TEXT_CONFIG`, `out_and_back TYPE ...` (the last of them also with another rotary
base than the whole model's), or `open ARTIFACT CORE`, which prints the largest difference of their logits.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from qforge.config.job import Job
from qforge.config.model import Model
from qforge.envs.request import Refused, Request
from qforge.json_files import read_json, write_json
from qforge.methods.core import put_back
from qforge.models import structure
from qforge.models.architectures import FAMILIES
from qforge.models.checkpoint import Stored, headers
from qforge.models.modules import from_tensors
from qforge.plan import cores
from qforge.stages import core
from qforge.stages.structure import structure as ask

TEXT = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16, "vocab_size": 256, "max_position_embeddings": 512, "tie_word_embeddings": False, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 2, 2]}}
HALF = {**ROPE["rope_parameters"], "mrope_section": [2, 1, 1], "partial_rotary_factor": 0.5}
SEES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32,
        "patch_size": 16}  # fmt: skip
QWEN_SEES = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "deepstack_visual_indexes": [0],
             "fullatt_block_indexes": [1], "num_position_embeddings": 16, "out_hidden_size": 64}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
LAYERS = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 16}
QWEN = {"vision_config": QWEN_SEES, "tie_word_embeddings": False}
OMNI_TEXT = {**TEXT, **EXPERTS, **ROPE, "norm_topk_prob": True}
SPEAKS = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 2,
          "num_key_value_heads": 1, "head_dim": 32, "vocab_size": 256}  # fmt: skip
HEARS = {"num_mel_bins": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 64, "d_model": 32,
         "downsample_hidden_size": 16, "output_dim": 64}  # fmt: skip
OMNI = {
    "thinker_config": {"text_config": OMNI_TEXT, "audio_config": HEARS, "vision_config": QWEN_SEES},
    "talker_config": {
        "text_config": {**SPEAKS, **EXPERTS, **ROPE, "shared_expert_intermediate_size": 64}, "thinker_hidden_size": 64,
        "code_predictor_config": {**SPEAKS, "num_code_groups": 4}, "num_code_groups": 4, "spatial_merge_size": 2,
    },
    "code2wav_config": {"codebook_size": 32, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
                        "num_attention_heads": 2, "num_key_value_heads": 2, "num_quantizers": 4, "decoder_dim": 32},
}  # fmt: skip
TYPES = {
    "qwen3_omni_moe": OMNI,
    "qwen2_5_vl": {"text_config": {**TEXT, **ROPE}, **QWEN},
    "qwen3_vl": {"text_config": {**TEXT, **ROPE}, **QWEN},
    "qwen3_vl_moe": {"text_config": {**TEXT, **ROPE, **EXPERTS}, **QWEN},
    "mistral3": {"text_config": {**TEXT, "model_type": "mistral"}, "vision_config": {**SEES, "model_type": "pixtral"}},
    "gemma3": {"text_config": {**TEXT, **LAYERS, "tie_word_embeddings": True}, "vision_config": SEES},
    "glm4v": {
        "text_config": {**TEXT, "rope_parameters": HALF},
        "vision_config": {**QWEN_SEES, "image_size": 56},
    },
}  # fmt: skip


def make(kind: str, folder: Path, **text: object) -> Path:
    """A checkpoint as transformers saves it; `text`: what is said otherwise of its text part."""
    torch.manual_seed(0)
    changed = TYPES[kind] | ({"text_config": TYPES[kind]["text_config"] | text} if text else {})
    model = AutoModelForMultimodalLM.from_config(CONFIG_MAPPING[kind](**changed), dtype=torch.bfloat16)
    for parameter in model.parameters():  # norms of ones and biases of zeros would hide what is mixed up
        parameter.data.add_(torch.randn_like(parameter) / 20)
    model.save_pretrained(folder)
    return folder


def out_and_back(folder: Path, kind: str) -> dict[str, object]:
    """What transformers says of the core, whether the core says what the whole model says, and what differs when it is back."""
    folder.mkdir(exist_ok=True)
    source, out, again = make(kind, folder / kind), folder / f"{kind}-out", folder / f"{kind}-again"
    write_json(folder / "names.json", {name: list(tensor.shape) for name, tensor in headers(source).items()})
    write_json(
        asked := folder / f"{kind}.json",
        ask(Request(Job(), "", {"model": str(source), "names": str(folder / "names.json")})),
    )
    built = None if kind in FAMILIES else structure.read(asked)  # as a run does
    tree = from_tensors(headers(source), read_json(source / "config.json"), built)
    job = replace(Job(), model=Model(name=kind, structure=str(asked) if built else None))
    job.method.function = "a library"
    part = cores.needed(job, tree, read_json(source / "config.json"), built)
    out.mkdir()
    try:
        taken = core.core(Request(job, str(out), {"source": str(source)}, core=part))
    except Refused as refusal:
        return {"refused": str(refusal)}
    put_back(part, out / "model", source, again, [], list(headers(source)))
    before, after = headers(source), headers(again)
    whole = {name for name in after if name in before and raw(after[name]) == raw(before[name])}
    return {
        **taken,
        "at": part.at,
        "lost": sorted(before.keys() - whole),
        "apart": sorted(after.keys() - whole),
    }


def otherwise(config: PreTrainedConfig) -> PreTrainedConfig:
    config.rope_parameters = {"rope_type": "default", "rope_theta": 100.0}
    return config


def raw(tensor: Stored) -> tuple[object, ...]:
    with tensor.file.open("rb") as file:
        file.seek(tensor.offset)
        return tensor.dtype, tensor.shape, file.read(tensor.nbytes)


def logits(loads: type, folder: str) -> torch.Tensor:
    model = loads.from_pretrained(folder, dtype=torch.bfloat16).eval()
    with torch.inference_mode():
        return model(input_ids=torch.arange(3, 67).reshape(2, 32), use_cache=False).logits.float()


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    folder, what, *names = sys.argv[1:]
    if what == "make":
        make(names[0], Path(folder), **json.loads(names[1]))
    elif what == "open":
        whole, own = logits(AutoModelForImageTextToText, names[0]), logits(AutoModelForCausalLM, names[1])
        print(json.dumps(float((whole - own).abs().max())))
    else:
        found = {kind: out_and_back(Path(folder), kind) for kind in names}
        right = core.causal.config
        core.causal.config = lambda model: otherwise(right(model))
        print(json.dumps({**found, "otherwise": out_and_back(Path(folder, "otherwise"), names[-1])}))
