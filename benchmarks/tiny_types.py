"""transformers' types of causal language models, and the numbers that make each of them tiny."""

from __future__ import annotations

from typing import Any

TYPES = [
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "qwen2_moe",
    "qwen3_moe",
    "qwen3_next",
    "qwen3_5_text",
    "qwen3_5_moe_text",
    "gemma",
    "gemma2",
    "gemma3_text",
    "phi3",
    "phimoe",
    "mixtral",
    "deepseek_v2",
    "deepseek_v3",
    "deepseek_v32",
    "deepseek_v4",
    "gpt_oss",
    "glm",
    "glm4",
    "glm4_moe",
    "glm4_moe_lite",
    "glm_moe_dsa",
    "cohere",
    "cohere2",
    "olmo",
    "olmo2",
    "olmo3",
    "olmoe",
    "granite",
    "granitemoe",
    "granitemoehybrid",
    "nemotron_h",
    "exaone4",
    "exaone_moe",
    "ernie4_5",
    "ernie4_5_moe",
    "minimax_m2",
    "seed_oss",
    "stablelm",
    "gpt2",
    "gptj",
    "bloom",
    "llama4_text",
    "aria_text",
    "apertus",
    "helium",
    "hy_v3",
    "afmoe",
    "bitnet",
    "solar_open",
    "youtu",
    "gpt_neox",
    "nemotron",
    "starcoder2",
    "smollm3",
    "phi",
    "opt",
    "falcon",
    "hunyuan_v1_dense",
    "hunyuan_v1_moe",
    "dots1",
    "lfm2",
    "jamba",
    "bamba",
    "falcon_h1",
    "mamba2",
    "falcon_mamba",
    "arcee",
    "flex_olmo",
    "lfm2_moe",
    "granitemoehybrid_dense",
    "nemotron_h_dense",
    "zamba2",
    "olmo_hybrid",
    "kimi_linear",
    "minimax",
    "mimo_v2_flash",
    "minicpm3",
    "gemma3n_text",
    "gemma4_text",
    "vaultgemma",
    "ministral3",
    "cwm",
    "granitemoeshared",
    "jetmoe",
    "mpt",
    "gpt_bigcode",
    "codegen",
    "persimmon",
    "xglm",
    "nanochat",
    "diffllama",
    "doge",
    "recurrent_gemma",
    "rwkv",
    "modernbert-decoder",
]
SERVED = [  # hybrids, Mamba, shared experts, indexers, and names of matrices that few types share
    "qwen3_next", "qwen3_5_text", "bamba", "falcon_h1", "lfm2", "lfm2_moe", "mamba2", "jamba", "nemotron_h",
    "nemotron_h_dense", "granitemoehybrid", "granitemoehybrid_dense", "zamba2",
    "qwen2_moe", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe", "glm_moe_dsa", "dots1", "ernie4_5_moe",
    "exaone4", "cohere2", "gemma3_text", "glm4", "olmo2", "gpt2", "gptj", "gpt_neox", "opt", "phi", "falcon",
    "starcoder2", "stablelm", "seed_oss", "apertus", "hunyuan_v1_dense", "smollm3",
]  # fmt: skip
VOCABULARY = 512
PROMPTS = [list(range(3, 35)), list(range(35, 67))]  # which are no text: the models are random
SERVING = "served"  # rtn with the experts in bf16, as vLLM's CPU build can serve it without AMX
CALIBRATION = {"sequences": 2, "length": 32}  # of random tokens, for the methods that calibrate
SMALL = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "moe_intermediate_size", "shared_expert_intermediate_size"), 256),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_hidden_size", "ffn_dim"), 512),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "linear_num_value_heads"), 4),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_experts_per_tok", "moe_topk", "linear_num_key_heads"), 2),
    **dict.fromkeys(("head_dim", "v_head_dim", "linear_key_head_dim", "linear_value_head_dim"), 64),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "sliding_window"), 128),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim"), 32),
    **dict.fromkeys(("state_size", "ssm_state_size", "mamba_d_state"), 16),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "num_heads", "n_mamba_heads"), 32),
    **dict.fromkeys(("mamba_head_dim", "mamba_d_head", "mamba_headdim"), 16),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace", "mamba_n_groups", "n_groups"), 1),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 8192),
    **dict.fromkeys(("index_n_heads",), 4), **dict.fromkeys(("index_topk", "moe_shared_expert_intermediate_size"), 256),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    "hidden_size_per_layer_input": 32, "num_kv_shared_layers": 0,
    "mamba_d_ssm": 512, "num_nextn_predict_layers": 0, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
UNSET = ("pad_token_id", "num_key_value_heads", "n_routed_experts", "head_dim", "n_group", "topk_group", "n_shared_experts",
         "num_experts_per_tok")  # fmt: skip  # that some leave out

ODD = {"mamba_n_heads": 8, "mamba_d_head": 64}  # in_proj has outputs that no kernel takes, as in the published models
LATENT = {
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "head_dim": 64,
}  # the sizes that kernels of latent attention are made for
NOAUX = {"topk_method": "noaux_tc", "scoring_func": "sigmoid"}
# Where SMALL is not enough: sizes that must agree, a layer of each kind, and what published config.json files say besides
OWN = {
    "mamba2": {"num_heads": 32, "head_dim": 16},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_dim": 256, "conv_dim": 256, "block_auto_adjust_ff_dim": False},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1, "conv_dim": 256, "block_dim": 256},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "bamba": {"attn_layer_indices": [1]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"], "shared_intermediate_size": 256},
    "granitemoehybrid_dense": {
        **ODD, "layer_types": ["mamba", "attention"], "shared_intermediate_size": 512, "num_local_experts": 0,
    },
    "falcon_h1": ODD,
    "zamba2": {"attention_head_dim": 128, "hybrid_layer_ids": [1]},
    "deepseek_v2": LATENT, "glm4_moe": {"head_dim": 64}, "falcon": {"ffn_hidden_size": 1024},
    "nemotron_h_dense": {"layer_types": ["linear_attention", "mlp", "full_attention"]},
    "deepseek_v3": {**NOAUX, **LATENT}, "deepseek_v32": {**NOAUX, **LATENT}, "glm_moe_dsa": {**NOAUX, **LATENT},
}  # fmt: skip
SAME = {"nemotron_h_dense": "nemotron_h", "granitemoehybrid_dense": "granitemoehybrid"}  # a second model of a type


def small(kind: str) -> Any:
    """The type's own configuration with small numbers, one layer of each of its kinds."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    cls = CONFIG_MAPPING[SAME.get(kind, kind)]
    own = cls()
    own.allow_global_per_layer_attribute_access = True  # Gemma 4's heads differ by layer: the commonest number
    keys = [key for key in SMALL if hasattr(own, key) and not isinstance(getattr(cls, key, None), property)]
    numbers = {k: SMALL[k] for k in keys if getattr(own, k) is not None or k in UNSET}
    if "kv_lora_rank" in numbers:  # latent attention: heads of one size, all with keys of their own
        numbers |= {"num_key_value_heads": 4, **({"head_dim": 32} if "head_dim" in numbers else {})}
    for key in ("layer_types", "layers_block_type"):
        kinds = list(dict.fromkeys(getattr(own, key, None) or ()))
        stored = cls.attribute_map.get(key, key)
        if kinds and not isinstance(getattr(cls, stored, None), property):
            count = max(2, len(kinds))
            numbers |= {"num_hidden_layers": count, key: (kinds * count)[:count]}
            break
    return cls(**{**numbers, **OWN.get(kind, {})})
