"""A model whose type has no file here, from its tensors to an inspected checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
from support.command import Cli

from qforge.models.checkpoint import Tensor, headers
from qforge.models.shards import Shard

HIDDEN, WIDTH, EXPERTS = 64, 64, 4
CONFIG = {
    "architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next", "hidden_size": HIDDEN, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 128,
    "num_experts": EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": WIDTH, "shared_expert_intermediate_size": WIDTH,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"], "tie_word_embeddings": False, "dtype": "bfloat16",
}  # fmt: skip


def qwen3_next(folder: Path) -> Path:
    """Linear attention, then full attention; a layer of multi-token prediction; F32 where the published ones may have it."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (128, HIDDEN), "model.norm.weight": (HIDDEN,), "lm_head.weight": (128, HIDDEN),
        "mtp.fc.weight": (HIDDEN, 2 * HIDDEN), "mtp.layers.0.self_attn.q_proj.weight": (HIDDEN, HIDDEN),
    }  # fmt: skip
    for number in range(2):
        at = f"model.layers.{number}."
        shapes |= {f"{at}{norm}_layernorm.weight": (HIDDEN,) for norm in ("input", "post_attention")}
        shapes |= {f"{at}mlp.gate.weight": (EXPERTS, HIDDEN), f"{at}mlp.shared_expert_gate.weight": (1, HIDDEN)}
        for expert in (*(f"experts.{n}" for n in range(EXPERTS)), "shared_expert"):
            shapes |= {f"{at}mlp.{expert}.{leaf}_proj.weight": (WIDTH, HIDDEN) for leaf in ("gate", "up")}
            shapes[f"{at}mlp.{expert}.down_proj.weight"] = (HIDDEN, WIDTH)
    mixer, heads = "model.layers.0.linear_attn.", "model.layers.1.self_attn."
    shapes |= {f"{mixer}in_proj_qkvz.weight": (192, HIDDEN), f"{mixer}in_proj_ba.weight": (8, HIDDEN)}
    shapes |= {f"{mixer}conv1d.weight": (128, 1, 4), f"{mixer}A_log": (4,), f"{mixer}dt_bias": (4,)}
    shapes |= {f"{mixer}norm.weight": (16,), f"{mixer}out_proj.weight": (HIDDEN, HIDDEN)}
    shapes |= {f"{heads}q_proj.weight": (128, HIDDEN), f"{heads}o_proj.weight": (HIDDEN, HIDDEN)}
    shapes |= {f"{heads}{leaf}_proj.weight": (32, HIDDEN) for leaf in "kv"}
    shapes |= {f"{heads}{leaf}_norm.weight": (16,) for leaf in "qk"}
    tensors = {n: Tensor("F32" if n.endswith(("A_log", "dt_bias")) else "BF16", shape) for n, shape in shapes.items()}
    folder.mkdir()
    shard, random = Shard(folder / "model.safetensors", tensors), np.random.default_rng(0)
    shard.open()
    for name, tensor in tensors.items():
        values = random.normal(0, 0.05, tensor.shape).astype(np.float32)
        bits = values if tensor.dtype == "F32" else values.astype(ml_dtypes.bfloat16)
        shard.put(name, memoryview(bits.reshape(-1).view(np.uint8)))
    shard.close()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def test_a_hybrid_is_planned_quantized_and_inspected(cli: Cli, tmp_path: Path) -> None:
    source = qwen3_next(tmp_path / "source")
    given = (
        "model=local",
        "model.name=hybrid",
        f"model.path={source}",
        "method=rtn",
        "group_size=64",
        "exempt=none",
        "hw=h100",
    )
    done = cli.succeed(*given, "stages=[quantize,inspect]")
    planned = done.json("plan")
    assert {kind: (part["modules"], part["quantized"]) for kind, part in planned["parts"].items() if part["modules"]} == {
        "attention": (4, 4), "convolution": (1, 0), "draft": (2, 0), "embedding": (1, 0), "expert": (24, 24), "gate": (1, 0),
        "head": (1, 0), "mixer": (2, 2), "router": (4, 0), "shared_expert": (6, 6),
    }  # fmt: skip
    notes = "\n".join(planned["notes"])
    assert "model_type=qwen3_next was not tested here: its structure is the one that transformers" in notes
    assert "2 matrices of multi-token prediction stay in bf16, for speculative decoding: mtp.fc" in notes
    artifact = done.folder / "artifact"
    ours, theirs = headers(artifact), headers(source)
    for name in ("model.layers.0.linear_attn.A_log", "mtp.fc.weight", "model.layers.0.linear_attn.conv1d.weight"):
        assert ours[name].dtype == theirs[name].dtype
        assert (ours[name].read() == theirs[name].read()).all()
    ignored = json.loads((artifact / "config.json").read_text())["quantization_config"]["ignore"]
    assert {"mtp.fc", "mtp.layers.0.self_attn.q_proj", "model.layers.0.linear_attn.in_proj_ba"} <= set(ignored)
    again = cli.succeed(*given, "plan_only=true")
    assert "structure" in again.output
    assert "reused" in again.output or "store" in again.output
