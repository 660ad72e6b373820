"""What choices of equal bytes are worth: by sensitivity, the boundary blocks, and ModelOpt's AutoQuantize, side by side.

    .venvs/quant/bin/python benchmarks/sensitivity.py RUN [--gib 0.0097] [--store .store] [--windows 4]

RUN is the folder of a finished experiment=sensitivity. Each choice of matrices is left in bf16 while all others are rounded
as the run's method rounds them, and KL to bf16 is measured on windows of every text of evaluation that the choice has not
seen: from its start. AutoQuantize (gradient scores, an integer program) gets the same windows to score by as sensitivity had,
and the same bytes. Prints a table, writes RUN/choices.json, which results/sensitivity/ keeps.
"""

from __future__ import annotations

import argparse
import sys
from copy import deepcopy
from pathlib import Path
from statistics import fmean
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import modelopt.torch.quantization as mtq
import torch
from pydantic import TypeAdapter
from transformers import AutoModelForCausalLM, AutoTokenizer

from qforge.config.places import given_path
from qforge.envs.request import Request
from qforge.evaluation.perplexity import windows
from qforge.json_files import (
    read_json,
    to_json,
)
from qforge.models.checkpoint import headers
from qforge.models.formats import FORMATS
from qforge.models.modules import Module, from_tensors
from qforge.models.parts import Part
from qforge.plan.sensitivity import Loss, choose
from qforge.stages.sensitivity import Subject

CONFIGS = {  # and the bits per weight that AutoQuantize counts
    "int4": ("INT4_BLOCKWISE_WEIGHT_ONLY_CFG", 4.0),
    "nvfp4": ("W4A16_NVFP4_CFG", 4.5),
    "nvfp4_modelopt": ("W4A16_NVFP4_CFG", 4.5),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--gib", type=float, default=0.0097)
    parser.add_argument("--store", type=Path, default=ROOT / ".store")
    parser.add_argument("--windows", type=int, default=4)
    options = parser.parse_args()
    found = read_json(options.run / "sensitivity.json")
    stored = options.store / "sensitivity" / found["key"] / "request.json"
    request = TypeAdapter(Request).validate_json(stored.read_text())
    source = Path(request.inputs["source"])
    matrices = _matrices(request, source)
    subject = Subject(request.job, source, matrices)
    seen, budget = subject.windows, int(options.gib * 2**30)
    choices: dict[str, Any] = {"nothing": [], **_by_sensitivity(found, budget), "boundary": _boundary(matrices)}
    try:
        choices["AutoQuantize"] = _by_autoquantize(request, source, matrices, seen, budget)
    except (AssertionError, RuntimeError) as error:  # which of its kernels a CPU lacks is what we ask
        print(f"AutoQuantize does not run here: {type(error).__name__}: {error}")
    subject.put(subject.rounded(matrices))
    rows = [_row(request, subject, name, matrices, chosen) for name, chosen in choices.items()]
    for text, settings in request.job.eval.texts.items():
        tokenizer = AutoTokenizer.from_pretrained(source)
        cut = windows(given_path(settings.path).read_text(), tokenizer, [256], options.windows)
        with subject.holding(subject.stored(matrices)):
            subject.read(cut)
        for row in rows:
            row[text] = _kl(subject, matrices, choices[row["left in bf16"]])
    row = read_json(options.run / "row.json")
    kept = {key: row[key] for key in ("model", "method", "group_size", "date", "machine", "qforge")}
    kept |= {key: found[key] for key in ("unit", "text", "tokens", "versions")}
    made = {
        **kept,
        "hw": row["conditions"]["hw"],
        "windows": options.windows,
        "choices": rows,
        "parts": found["parts"][:8],
    }
    (options.run / "choices.json").write_text(to_json(made))
    print(*rows[0], sep=" | ")
    for row in rows:
        print(*(f"{value:.4f}" if isinstance(value, float) else value for value in row.values()), sep=" | ")


def _matrices(request: Request, source: Path) -> list[Module]:
    tree = from_tensors(headers(source), read_json(source / "config.json"))
    return [m for m in tree if m.linear and m.name not in request.exempt]


def _by_sensitivity(found: dict[str, Any], budget: int) -> dict[str, list[str]]:
    losses = [Loss(**{**part, "exempted": False}) for part in found["parts"]]
    saved = choose(losses, budget)
    alone = choose([Loss(**{**part, "saved": part["alone"], "exempted": False}) for part in found["parts"]], budget)
    chosen = {"by what it saves": saved, "by its loss alone": alone}
    return {name: [n for loss in some if loss.exempted for n in loss.patterns] for name, some in chosen.items()}


def _boundary(matrices: list[Module]) -> list[str]:
    last = max(m.block for m in matrices if m.block is not None)
    return [m.name for m in matrices if m.block in (0, last)]


def _by_autoquantize(
    request: Request, source: Path, matrices: list[Module], seen: list[list[int]], budget: int
) -> list[str]:
    """What ModelOpt leaves in bf16 where it may choose between that and the run's format."""
    total = sum(m.parameters for m in matrices)
    part = Part("", "", 0, matrices)
    extra = part.extra_bytes(FORMATS[request.job.method.format], request.job.group_size)
    name, bits = CONFIGS[request.job.method.format]
    config = deepcopy(getattr(mtq, name))
    for entry in config["quant_cfg"]:
        if "block_sizes" in (entry.get("cfg") or {}):
            entry["cfg"]["block_sizes"][-1] = request.job.group_size
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    head = model.get_output_embeddings().weight.numel()  # it counts it, though it may not quantize it
    spared = total * budget / extra  # weights that the bytes leave in bf16, whatever it counts for those that it packs
    effective = (bits * (total - spared) + 16 * (spared + head)) / (total + head)
    batches = [torch.tensor([window]) for window in seen]
    _, state = mtq.auto_quantize(
        model,
        constraints={"effective_bits": effective},
        quantization_formats=[config],
        data_loader=batches,
        forward_step=lambda model, batch: model(batch, labels=batch),
        loss_func=lambda output, batch: output.loss,
        disabled_layers=["*lm_head*"],
        num_calib_steps=len(batches),
        num_score_steps=len(batches),
    )
    names, kept = {m.name for m in matrices}, []
    for name, recipe in state["best"]["recipe"].items():
        if "NONE" in str(recipe).upper():
            group = state["candidate_stats"][name]["module_names"]
            kept += [module for module in group if module in names]
    print(f"AutoQuantize: {sum(m.parameters for m in matrices if m.name in kept) / total:.3f} of the weights in bf16")
    return kept


def _row(request: Request, subject: Subject, name: str, matrices: list[Module], chosen: list[str]) -> dict[str, Any]:
    part = Part(name, "", 0, [m for m in matrices if m.name in chosen])
    extra = part.extra_bytes(FORMATS[request.job.method.format], request.job.group_size)
    return {
        "left in bf16": name,
        "matrices": len(part.modules),
        "MB": extra / 1e6,
        "seen": _kl(subject, matrices, chosen),
    }


def _kl(subject: Subject, matrices: list[Module], chosen: list[str]) -> float:
    with subject.holding(subject.stored([m for m in matrices if m.name in chosen])):
        return fmean(subject.divergence("with a choice quantized"))


if __name__ == "__main__":
    main()
