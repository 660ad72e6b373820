"""What becomes of multimodal models by the methods whose libraries build a model: the text core out, quantized, and back.

    .venv/bin/python benchmarks/multimodal.py FOLDER [--types gemma3 ...] [--methods gptq awq ...]

makes a tiny random checkpoint of each type in FOLDER, as transformers itself saves it, and per method plans, takes the text
core out, quantizes it, puts it back and inspects. `cosine` is that of the logits of what was made, unpacked, and the source's;
`apart` the largest difference between the logits of the artifact, opened by transformers as the whole model, and of the packed
core, opened as the causal model (only of what transformers reads: compressed-tensors, without experts). Calibrated on random
tokens. Needs the `quant` environment; writes a Markdown table to outputs/multimodal.md.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from architectures import inspect_one, note, request_of, restack

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from qforge.config.job import Job
from qforge.envs.request import Request
from qforge.json_files import read_json, write_json
from qforge.models import checkpoint

TEXT = {
    "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 64, "vocab_size": 1024, "max_position_embeddings": 8192, "tie_word_embeddings": False, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 192}
SEES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 64,
        "patch_size": 16}  # fmt: skip
QWEN_SEES = {
    "depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 4, "patch_size": 16, "spatial_merge_size": 2,
    "temporal_patch_size": 2, "num_position_embeddings": 64, "deepstack_visual_indexes": [0], "out_hidden_size": 256,
}  # fmt: skip
IDS = {"image_token_id": 1000, "video_token_id": 1001, "vision_start_token_id": 1002, "vision_end_token_id": 1003}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 64, "tie_word_embeddings": True}


def _rope(**more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [12, 10, 10], **more}}


MIXED = {"layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2, "linear_num_value_heads": 4,
         "linear_key_head_dim": 64, "linear_value_head_dim": 64,
         **_rope(mrope_section=[4, 2, 2], mrope_interleaved=True, partial_rotary_factor=0.25)}  # fmt: skip
QWEN = {"tie_word_embeddings": False, **IDS}
TYPES: dict[str, dict[str, Any]] = {
    "qwen2_vl": {
        "text_config": TEXT | _rope(), **QWEN,
        "vision_config": {"depth": 2, "embed_dim": 64, "hidden_size": 256, "num_heads": 4},
    },
    "qwen2_5_vl": {"text_config": TEXT | _rope(), "vision_config": {**QWEN_SEES, "fullatt_block_indexes": [1]}, **QWEN},
    "qwen3_vl": {"text_config": TEXT | _rope(mrope_interleaved=True), "vision_config": QWEN_SEES, **QWEN},
    "qwen3_vl_moe": {"text_config": TEXT | EXPERTS | _rope(mrope_interleaved=True), "vision_config": QWEN_SEES, **QWEN},
    "qwen3_5": {"text_config": TEXT | MIXED, "vision_config": QWEN_SEES, **QWEN},
    "qwen3_5_moe": {"text_config": TEXT | MIXED | EXPERTS | {"shared_expert_intermediate_size": 128},
                    "vision_config": QWEN_SEES, **QWEN},
    "mistral3": {"text_config": {**TEXT, "model_type": "mistral"}, "vision_config": {"model_type": "pixtral", **SEES},
                 "image_token_index": 10, "tie_word_embeddings": False},
    "gemma3": {"text_config": {**TEXT, **SLIDING, "query_pre_attn_scalar": 64}, "vision_config": SEES,
               "mm_tokens_per_image": 4, "image_token_index": 1000, "boi_token_index": 1001, "eoi_token_index": 1002},
    "llava": {"text_config": {**TEXT, "model_type": "llama"}, "vision_config": {"model_type": "clip_vision_model", **SEES},
              "image_token_index": 10},
    "internvl": {"text_config": {**TEXT, "model_type": "qwen2"}, "vision_config": {**SEES, "image_size": [28, 28]}},
    "idefics3": {"text_config": {**TEXT, "model_type": "llama"}, "vision_config": SEES},
    "paligemma": {"text_config": {**TEXT, **SLIDING, "model_type": "gemma2"},
                  "vision_config": {"model_type": "siglip_vision_model", **SEES}},
    "glm4v": {"text_config": TEXT, "vision_config": {**QWEN_SEES, "image_size": 56}},
}  # fmt: skip
METHODS = ["gptq", "awq", "nvfp4", "nvfp4_gptq", "nvfp4_hessian"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--types", nargs="+", default=list(TYPES), choices=list(TYPES))
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--step", choices=["make", "work", "compare"], help="what this script runs in `quant`")
    options = parser.parse_args()
    if options.step:
        return {"make": make, "work": work, "compare": compare}[options.step](options)
    in_quant("make", options)
    for kind in options.types:
        for method in options.methods:
            plan_one(options.folder, kind, method)
    in_quant("work", options)
    for state in states(options):
        inspect_one(state)
    in_quant("compare", options)
    table = "\n".join(rows(options))
    (ROOT / "outputs").mkdir(exist_ok=True)
    (ROOT / "outputs" / "multimodal.md").write_text(table + "\n")
    print(table)


def in_quant(step: str, options: argparse.Namespace) -> None:
    """Run a step in the quantizer's environment, one process for all types."""
    lists = ["--types", *options.types, "--methods", *options.methods]
    command = [ROOT / ".venvs/quant/bin/python", __file__, options.folder, *lists, "--step", step]
    subprocess.run(list(map(str, command)), check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def states(options: argparse.Namespace) -> list[Path]:
    """The folder of each type and method, where what has happened so far is written."""
    return [options.folder / "made" / kind / method for kind in options.types for method in options.methods]


def verdict(error: Exception) -> str:
    word = "refused" if isinstance(error, ValueError) else f"fails: {type(error).__name__}"
    return f"{word}: {str(error).splitlines()[0][:200]}"


# -- steps


def make(options: argparse.Namespace) -> None:
    """A tiny checkpoint of each type, its structure, and tokens to calibrate with."""
    import torch
    import transformers
    from transformers import AutoModelForImageTextToText
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from qforge.stages.structure import structure

    transformers.logging.set_verbosity_error()
    draw = random.Random(0)
    (options.folder / "tokens").mkdir(parents=True, exist_ok=True)
    write_json(
        options.folder / "tokens" / "sequences.json", [[draw.randrange(3, 990) for _ in range(64)] for _ in range(8)]
    )
    tokenizer = options.folder / "tokenizer"
    words(tokenizer)
    for kind in options.types:
        folder = options.folder / kind
        torch.manual_seed(0)
        config = CONFIG_MAPPING[kind](**TYPES[kind])
        AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
        shutil.copytree(tokenizer, folder, dirs_exist_ok=True)
        write_json(
            options.folder / f"{kind}.names.json", {n: list(t.shape) for n, t in checkpoint.headers(folder).items()}
        )
        inputs = {"model": str(folder), "names": str(options.folder / f"{kind}.names.json")}
        write_json(options.folder / f"{kind}.structure.json", structure(Request(Job(), "", inputs)))
        gc.collect()


def words(folder: Path) -> None:
    """A tokenizer, which some libraries want to see: a word for each number."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(WordLevel({str(number): number for number in range(1024)}, unk_token="0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


def plan_one(folder: Path, kind: str, method: str) -> None:
    """The plan and the requests of a type and method."""
    from qforge.config.compose import CONF, compose
    from qforge.models import metadata
    from qforge.plan import plan

    source, state = folder / kind, folder / "made" / kind / method
    state.mkdir(parents=True, exist_ok=True)
    group = ["group_size=32"] if method in ("gptq", "awq", "rtn") else []
    job = compose(CONF, "model=local", f"model.name={kind}", f"model.path={source}", "exempt=none", f"method={method}",
                  "hw=h100", "runtime=vllm", "stages=[quantize,inspect]", "calib.expert_floor=0", *group)  # fmt: skip
    try:
        if metadata.unclear(job.model, source):
            job = replace(job, model=replace(job.model, structure=str(folder / f"{kind}.structure.json")))
        made = plan.make(job, source)
    except ValueError as error:
        return note(state, plan=verdict(error))
    note(state, plan="works", core=made.core.kind if made.core else None, quantized=len(made.quantized))
    inputs = {
        "source": str(source),
        "calibration": str(folder / "tokens"),
        "core": str(folder / "made" / kind / "core/model"),
    }
    Request(job, str(state), inputs, exempt=made.ignore, kept=made.kept, core=made.core).write(state / "request.json")


def work(options: argparse.Namespace) -> None:
    """The core of each type, and what each method makes of it."""
    from qforge.stages.core import core
    from qforge.stages.quantize import quantize

    for state in states(options):
        if not (state / "request.json").exists():
            continue
        request, out = request_of(state), state.parent / "core"
        try:
            if not (out / "result.json").exists():
                shutil.rmtree(out, ignore_errors=True)  # of a refusal, which is the same again
                out.mkdir()
                write_json(out / "result.json", core(replace(request, out=str(out))))
            quantize(request)
            note(state, quantize="works")
        except Exception as error:  # what a library says is a cell of the table
            note(state, quantize=verdict(error))
        gc.collect()


def compare(options: argparse.Namespace) -> None:
    """The logits of what was made, beside the source's and the packed core's."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    for state in states(options):
        if read_json(state / "state.json").get("inspect") != "works":
            continue
        request = request_of(state)
        try:
            plain = unpacked(request, state)
            ours, own = (logits(folder, True) for folder in (plain, Path(request.inputs["source"])))
            note(state, cosine=float(torch.cosine_similarity(ours, own, -1).mean()))
            if request.job.method.format != "nvfp4_modelopt" and "moe" not in state.parent.name:
                whole, core = logits(state / "artifact", True), logits(packed_core(request, state), False)
                note(state, apart=float((whole - core).abs().max()))
        except Exception as error:
            note(state, cosine=f"{type(error).__name__}: {str(error).splitlines()[0][:100]}")
        gc.collect()


def logits(folder: Path, whole: bool) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    loads = AutoModelForImageTextToText if whole else AutoModelForCausalLM
    model = loads.from_pretrained(folder, dtype=torch.bfloat16)
    with torch.inference_mode():
        return model.eval()(input_ids=torch.arange(3, 67).reshape(2, 32), use_cache=False).logits.float()


def unpacked(request: Request, state: Path) -> Path:
    """What was made as a bf16 checkpoint that lies as the source does."""
    from qforge.methods.rewriting import unpack

    shutil.rmtree(state / "plain", ignore_errors=True)
    unpack(state / "artifact", state / "plain")
    restack(request, Path(request.inputs["source"]), state / "plain")
    return state / "plain"


def packed_core(request: Request, state: Path) -> Path:
    """The core of what was made, as the library packed it."""
    from qforge.models.core import renamed
    from qforge.models.shards import copy_all

    assert request.core
    out, core = state / "core", Path(request.inputs["core"])
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    wanted = {name.rpartition(".")[0] for name in checkpoint.headers(core)}
    tensors = {request.core.inside(name): t for name, t in checkpoint.headers(state / "artifact").items()}
    tensors = {name: t for name, t in tensors.items() if name and name.rpartition(".")[0] in wanted}
    copy_all(tensors, out)
    quantization = read_json(state / "artifact/config.json")["quantization_config"]
    own = renamed(quantization, request.core.all_inside(request.exempt))
    write_json(out / "config.json", {**read_json(core / "config.json"), "quantization_config": own})
    return out


def rows(options: argparse.Namespace) -> list[str]:
    """The table, a row for each type."""
    head = [
        "type",
        "its core",
        *(f"{method}{what}" for method in options.methods for what in ("", ": cosine", ": apart")),
    ]
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for kind in options.types:
        cells, core = [], ""
        for method in options.methods:
            state = read_json(options.folder / "made" / kind / method / "state.json")
            steps = [state.get(step, "") for step in ("plan", "quantize", "inspect")]
            bad = next((step for step in steps if step and step != "works"), None)
            cosine, apart = state.get("cosine", ""), state.get("apart", "")
            core = state.get("core") or core
            cells += [bad or f"works ({state['quantized']})", f"{cosine:.3f}" if isinstance(cosine, float) else cosine]
            cells += [f"{apart:.2g}" if isinstance(apart, float) else apart]
        lines.append(" | ".join([kind, core, *cells]))
    return lines


if __name__ == "__main__":
    main()
