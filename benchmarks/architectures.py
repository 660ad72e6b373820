"""What becomes of transformers' causal language models: planned, quantized by streams, inspected, and read back.

    .venv/bin/python benchmarks/architectures.py FOLDER [--types llama gpt_oss ...] [--methods rtn nvfp4_llmc]

makes a tiny random checkpoint of each type in FOLDER (two layers or one of each kind, as transformers itself saves it), asks
transformers for its structure, and per method plans, quantizes and inspects. What was quantized is unpacked and put together
again as the source lies; the last column is the cosine of its logits and the source's, both through transformers in float32.
Random weights of this size lose more than a model does: a cosine far below its neighbours' is the finding. Needs the `quant`
environment; writes a Markdown table to outputs/architectures.md.
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from qforge.config.job import Job
from qforge.envs.request import Request
from qforge.json_files import read_json, write_json
from qforge.models import checkpoint, modules, structure

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
]
SMALL = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "moe_intermediate_size", "shared_expert_intermediate_size"), 256),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_hidden_size", "ffn_dim", "vocab_size"), 512),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "linear_num_value_heads"), 4),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_experts_per_tok", "moe_topk", "linear_num_key_heads"), 2),
    **dict.fromkeys(("head_dim", "v_head_dim", "linear_key_head_dim", "linear_value_head_dim"), 64),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "sliding_window"), 128),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim"), 32),
    **dict.fromkeys(("state_size", "ssm_state_size", "mamba_d_state"), 16),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "num_heads"), 8),
    **dict.fromkeys(("mamba_head_dim", "mamba_d_head"), 64),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace", "mamba_n_groups", "n_groups"), 1),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 8192),
    **dict.fromkeys(("index_n_heads",), 4), **dict.fromkeys(("index_topk", "moe_shared_expert_intermediate_size"), 256),
    "mamba_d_ssm": 512, "num_nextn_predict_layers": 0, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
UNSET = ("pad_token_id", "num_key_value_heads", "n_routed_experts", "head_dim", "n_group", "topk_group", "n_shared_experts",
         "num_experts_per_tok")  # fmt: skip  # that some leave out
LARGEST = 60e6  # parameters: a type whose configuration these numbers do not shrink is left out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--types", nargs="+", default=TYPES)
    parser.add_argument("--methods", nargs="+", default=["rtn", "nvfp4_llmc"])
    parser.add_argument("--step", choices=[step.__name__ for step in STEPS], help="what this script runs in `quant`")
    options = parser.parse_args()
    if options.step:
        return next(step for step in STEPS if step.__name__ == options.step)(options)
    in_quant(make, options)
    for kind in options.types:
        for method in options.methods if (options.folder / kind / "config.json").exists() else ():
            plan_one(options.folder, kind, method)
    in_quant(quantize, options)
    for state in states(options):
        inspect_one(state)
    in_quant(compare, options)
    table = "\n".join(rows(options))
    (ROOT / "outputs").mkdir(exist_ok=True)
    (ROOT / "outputs" / "architectures.md").write_text(table + "\n")
    print(table)


def in_quant(step: Any, options: argparse.Namespace) -> None:
    """Run a step in the quantizer's environment, one process for all types."""
    lists = ["--types", *options.types, "--methods", *options.methods]
    command = [ROOT / ".venvs/quant/bin/python", __file__, options.folder, *lists, "--step", step.__name__]
    subprocess.run(list(map(str, command)), check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def states(options: argparse.Namespace) -> list[Path]:
    """The folder of each type and method, where what has happened so far is written."""
    pairs = [options.folder / "made" / kind / method for kind in options.types for method in options.methods]
    return [pair for pair in pairs if pair.is_dir()]


def note(state: Path, **facts: Any) -> None:
    known = read_json(state / "state.json") if (state / "state.json").exists() else {}
    write_json(state / "state.json", {**known, **facts})


# -- steps


def make(options: argparse.Namespace) -> None:
    """A tiny checkpoint of each type, and its structure."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM

    from qforge.stages.structure import structure as ask

    transformers.logging.set_verbosity_error()
    for kind in options.types:
        folder = options.folder / kind
        folder.mkdir(parents=True, exist_ok=True)
        try:
            config = small(kind)
            with torch.device("meta"):
                size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
            if size > LARGEST:
                raise ValueError(f"{size / 1e6:.0f} M parameters")
            torch.manual_seed(0)
            AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
            names = {name: len(t.shape) for name, t in checkpoint.headers(folder).items()}
            write_json(options.folder / f"{kind}.names.json", names)
            inputs = {"model": str(folder), "names": str(options.folder / f"{kind}.names.json")}
            write_json(options.folder / f"{kind}.structure.json", ask(Request(Job(), "", inputs)))
        except Exception as error:  # what a type's own configuration says is part of the table
            (options.folder / f"{kind}.skipped").write_text(
                f"{type(error).__name__}: {str(error).splitlines()[0][:90]}"
            )
        gc.collect()


def small(kind: str) -> Any:
    """The type's own configuration with small numbers, one layer of each of its kinds."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    cls = CONFIG_MAPPING[kind]
    own = cls()
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
    return cls(**numbers)


def plan_one(folder: Path, kind: str, method: str) -> None:
    """The plan and the request of a type and method."""
    from qforge.config.compose import compose
    from qforge.config.places import CONF
    from qforge.models import metadata
    from qforge.plan import plan

    source, state = folder / kind, folder / "made" / kind / method
    state.mkdir(parents=True, exist_ok=True)
    group = ["group_size=32"] if method in ("rtn", "gptq") else []
    job = compose(CONF, "model=local", f"model.name={kind}", f"model.path={source}", "exempt=none", f"method={method}",
                  "hw=h100", "runtime=vllm", "stages=[quantize,inspect]", *group)  # fmt: skip
    try:
        if metadata.unclear(job.model, source):
            job = replace(job, model=replace(job.model, structure=str(folder / f"{kind}.structure.json")))
        planned = plan.make(job, source)
    except Exception as error:
        return note(state, plan=verdict(error))
    note(state, plan="works", structure=bool(job.model.structure), notes=planned.notes,
         quantized=len(planned.quantized), of=sum(m.kind != "embedding" for m in planned.modules))  # fmt: skip
    Request(job, str(state), {"source": str(source)}, exempt=planned.ignore).write(state / "request.json")


def verdict(error: Exception) -> str:
    word = "refused" if isinstance(error, ValueError) else f"fails: {type(error).__name__}"
    return f"{word}: {str(error).splitlines()[0][:150]}"


def quantize(options: argparse.Namespace) -> None:
    from qforge.methods import streaming

    for state in states(options):
        if (state / "request.json").exists():
            request = _request(state)
            try:
                streaming.quantize(
                    request.job, Path(request.inputs["source"]), state / "artifact", request.exempt, None
                )
                note(state, quantize="works")
            except Exception as error:
                note(state, quantize=verdict(error))


def inspect_one(state: Path) -> None:
    from qforge.inspect.inspect import inspect
    from qforge.plan import plan

    if read_json(state / "state.json").get("quantize") != "works":
        return
    request = _request(state)
    source = Path(request.inputs["source"])
    found = inspect(state / "artifact", plan.make(request.job, source), source)
    note(state, inspect="works" if not found.faults else f"fails: {found.faults[0][:150]}")


def compare(options: argparse.Namespace) -> None:
    """The logits of what was quantized, unpacked and laid out as the source, beside the source's."""
    import torch
    import transformers

    from qforge.methods.unpack import unpack

    transformers.logging.set_verbosity_error()
    for state in states(options):
        if read_json(state / "state.json").get("inspect") != "works":
            continue
        source = Path(_request(state).inputs["source"])
        try:
            unpack(state / "artifact", state / "plain")
            restack(_request(state), source, state / "plain")
            tokens = torch.arange(3, 67).reshape(2, 32)
            ours, own = (_logits(folder, tokens) for folder in (state / "plain", source))
            note(state, cosine=float(torch.cosine_similarity(ours, own, -1).mean()))
        except Exception as error:
            note(state, cosine=f"{type(error).__name__}: {str(error).splitlines()[0][:100]}")
        gc.collect()


def _logits(folder: Path, tokens: Any) -> Any:
    import torch
    import transformers

    named = getattr(transformers, read_json(folder / "config.json")["architectures"][0])
    model = named.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model.eval()(tokens, use_cache=False).logits.float()


def restack(request: Request, source: Path, plain: Path) -> None:
    """The matrices that lie otherwise in the source, put together again."""
    import torch
    from safetensors.torch import load_file, save_file

    (file,) = plain.glob("*.safetensors")
    tensors, stored = load_file(file), checkpoint.headers(source)
    built = structure.read(Path(request.job.model.structure)) if request.job.model.structure else None
    for module in modules.from_tensors(stored, read_json(source / "config.json"), built):
        if module.stack > 1 and module.linear:
            for suffix, name in (("weight", module.tensor), ("bias", f"{module.tensor}_bias")):
                parts = [tensors.pop(f"{part}.{suffix}", None) for part, _, _ in module.matrices]
                if parts[0] is not None:
                    tensors[name] = _stacked(parts, module)
        elif module.transposed and module.linear:
            tensors[module.tensor] = tensors[module.tensor].T.contiguous()
    if wrong := [name for name, t in tensors.items() if t.shape != torch.Size(stored[name].shape)]:
        raise ValueError(f"{wrong[0]} has another shape than the source's")
    save_file(tensors, file, {"format": "pt"})


def _stacked(parts: list[Any], module: modules.Module) -> Any:
    import torch

    count = len(module.leaves)
    experts = [torch.stack(parts[i : i + count], 1 if module.alternate else 0) for i in range(0, len(parts), count)]
    whole = torch.stack([expert.flatten(0, 1) for expert in experts])
    return (whole.transpose(1, 2) if module.transposed and whole.ndim == 3 else whole).contiguous()


def _request(state: Path) -> Request:
    from pydantic import TypeAdapter

    return TypeAdapter(Request).validate_json((state / "request.json").read_text())


def rows(options: argparse.Namespace) -> list[str]:
    """The table, a row for each type."""
    head = ["type", "known by", *(f"{method}: {what}" for method in options.methods for what in ("result", "cosine"))]
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    working = 0
    for kind in options.types:
        if (file := options.folder / f"{kind}.skipped").exists():
            lines.append(f"{kind} | not made: {file.read_text()}" + " | " * (len(head) - 2))
            continue
        cells: list[str] = []
        for method in options.methods:
            state = read_json(options.folder / "made" / kind / method / "state.json")
            steps = [state.get(step, "") for step in ("plan", "quantize", "inspect")]
            bad = next((step for step in steps if step and step != "works"), None)
            cosine = state.get("cosine", "")
            cells += [
                bad or f"works ({state['quantized']} of {state['of']})",
                f"{cosine:.3f}" if isinstance(cosine, float) else cosine,
            ]
        working += all(cell.startswith("works") for cell in cells[::2])
        lines.append(" | ".join([kind, "transformers" if state.get("structure") else "names", *cells]))
    return [*lines, "", f"{working} of {len(options.types)} work by all of {', '.join(options.methods)}."]


STEPS = (make, quantize, compare)

if __name__ == "__main__":
    main()
