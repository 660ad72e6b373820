"""llm-compressor: RTN, GPTQ, AWQ, NVFP4, FP8. The method's `args` are its recipe: modifiers under their own names."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import yaml
from compressed_tensors.distributed import init_dist
from compressed_tensors.offload import load_offloaded_model
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modeling.moe.linearize import linearize_moe
from llmcompressor.modifiers.utils.hooks import HooksMixin
from llmcompressor.pipelines.cache import IntermediatesCache
from torch import distributed
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from qforge.config.job import Job
from qforge.methods.routing import Routing

FILE = "1GB"  # of the checkpoint: several are hashed and inspected at the same time, a core hashes 0.9 a second


def quantize(job: Job, source: Path, out: Path, exempt: list[str], sequences: list[list[int]] | None) -> dict[str, Any]:
    """Quantize `source` into a compressed-tensors checkpoint in `out`; returns the recipe as it was run.

    The last modifier of the recipe is the one that packs; it gets the exempted modules as its `ignore`. It shows every token
    to every expert of a mixture (its `moe_calibrate_all_experts`). Started by torchrun, with a process for each of
    `calib.devices`, it works on its share: the library adds up what they have seen.
    """
    rank, several = 0, sequences is not None and job.calib.devices > 1
    if sequences is not None and several:
        init_dist()
        rank = distributed.get_rank()
        sequences = sequences[rank :: job.calib.devices]
    if not torch.accelerator.is_available():
        # AWQ pins its cache for copies to a GPU; torch 2.13 refuses that where there is none
        IntermediatesCache.pin_memory = lambda *args, **kwargs: None
    modifiers = {name: dict(args or {}) for name, args in job.method.args.items()}
    packing = list(modifiers)[-1]
    if job.kv.calibrated:
        modifiers[packing]["kv_cache_scheme"] = job.kv.scheme
    recipe = {"qforge_stage": {"qforge_modifiers": modifiers}}
    with load_offloaded_model() if several else nullcontext():  # one copy of the weights, for all processes
        model = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=torch.bfloat16,
            trust_remote_code=job.model.trust_remote_code,
            device_map="auto_offload" if several else None,
        )
    modifiers[packing]["ignore"] = [*exempt, *(name for name in heads(model) if name not in exempt)]
    dataset = shown(sequences) if sequences is not None else {}
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=job.model.trust_remote_code)
    linearize_moe(model)  # experts become modules, as they will by oneshot, which finds them so
    hooks = HooksMixin()  # its hooks rest while a block passes on what it has learnt, and in AWQ's searches
    routing = Routing(model, exempt, lambda module, hook: hooks.register_hook(module, hook, "forward_pre"))
    vectors = {name: value.detach().clone() for name, value in model.named_parameters() if value.ndim == 1}
    oneshot(model=model, processor=tokenizer, recipe=yaml.safe_dump(recipe, sort_keys=False), **dataset)
    if not job.method.rescales:
        # Gemma's norms are w + 1: llm-compressor adds the 1 and takes it off again, in bf16, which rounds w
        for name, value in model.named_parameters():
            if name in vectors:
                value.data.copy_(vectors[name])
    model.save_pretrained(out, save_compressed=True, max_shard_size=FILE)
    if several:
        distributed.destroy_process_group()
    if rank:
        sys.exit()  # the first process alone leaves a result
    return {**recipe, "experts": routing.counts()}


def heads(model: PreTrainedModel) -> list[str]:
    """The module that makes the logits, which stays in bf16: tied to the embedding it is in no file, and not always lm_head."""
    head = model.get_output_embeddings()
    return [name for name, module in model.named_modules() if module is head]


def shown(sequences: list[list[int]]) -> dict[str, Any]:
    """The arguments of `oneshot` that show a model these token ids, each once and in this order."""
    ones = [[1] * len(sequence) for sequence in sequences]
    return {
        "dataset": Dataset.from_dict({"input_ids": sequences, "attention_mask": ones}),
        "num_calibration_samples": len(sequences),
        "max_seq_length": max(map(len, sequences)),
        "shuffle_calibration_samples": False,
    }
