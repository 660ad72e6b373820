"""Is the checkpoint what the plan says? Every tensor: its name, dtype, shape and bytes, its scales, the ignore list.

Runs before anything is served, without torch, reading each file once through a memory map.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from qforge.inspect import (
    equality,
    finite,
    grid,
    ignore_list,
    kv_scales,
    layouts,
    omni_list,
    rows,
    scales,
    targets,
    weights,
)
from qforge.inspect.report import Report
from qforge.models import checkpoint, quantization_config
from qforge.models.checkpoint import Stored, Tensor
from qforge.models.formats import FORMATS
from qforge.models.modules import Module, block_of
from qforge.plan.plan import Plan
from qforge.plan.share import Share

FLOATS = ("BF16", "F16", "F32")
THREADS = min(8, len(os.sched_getaffinity(0)))  # each holds one matrix in float32


def inspect(artifact: Path, plan: Plan, source: Path) -> Report:
    """Compare the checkpoint in `artifact` with the plan and with the model in `source`, as it is published."""
    tensors = checkpoint.headers(artifact)
    config = quantization_config.read(artifact)
    report = Report(bytes=sum(t.nbytes for t in tensors.values()), planned_bytes=plan.bytes)
    ours = plan.packing and artifact.samefile(source)  # as it is published, and as the plan found it
    if reason := targets.several(config, plan) or (None if ours else layouts.incomparable(config)):
        report.faults.append(reason)
        return report
    tensors = layouts.without_order(tensors, config, plan.modules)
    if config.get("tie_word_embeddings") and "lm_head.weight" not in plan.tensors:
        tensors.pop("lm_head.weight", None)
    kv_scales.check(tensors, config, plan, report)
    if plan.simulated:
        _names_and_shapes(tensors, plan, report)
        _untouched(tensors, plan, _plain(source, plan), report)
        _on_a_grid(tensors, plan, report)
        return report
    if not _packed_at_all(tensors, plan, report):
        return report
    _names_and_shapes(tensors, plan, report)
    original = _plain(source, plan)
    _untouched(tensors, plan, original, report)
    _scales(tensors, plan, original, report)
    _weights(tensors, plan, original, plan.rescales or layouts.inputs_apart(config), report)
    _config(config, plan, report)
    return report


def _plain(source: Path, plan: Plan) -> dict[str, Stored]:
    """The source's tensors, but those that are packed there: of these the artifact has what they were unpacked to."""
    stored = checkpoint.headers(source)
    plain = plan.packing.plain(stored) if plan.packing else stored
    return {name: tensor for name, tensor in plain.items() if isinstance(tensor, Stored)}


def _packed_at_all(tensors: Mapping[str, Stored], plan: Plan, report: Report) -> bool:
    """The case this tool began with: a 66 GB "FP4" checkpoint that says it is quantized and holds plain weights."""
    plain = [m for m in plan.quantized if (t := tensors.get(f"{m}.weight")) is not None and t.dtype in FLOATS]
    report.checked["modules that should be packed"] = len(plan.quantized)
    report.add(
        f"not packed ({len(plain)} of {len(plan.quantized)} modules that should be)",
        plain,
        f"their weights are stored in 16 or 32 bits ({report.bytes / 1e9:.2f} GB on disk, {plan.bytes / 1e9:.2f} planned). "
        "vLLM does not pack at load: it would refuse these tensors, and transformers would use the full memory. The "
        "quantizer has saved its simulation instead of exporting; quantize again with qforge, or export packed weights "
        "(ModelOpt: export_hf_checkpoint; llm-compressor: save_pretrained(save_compressed=True))",
    )
    return not plain


def _on_a_grid(tensors: Mapping[str, Stored], plan: Plan, report: Report) -> None:
    """Weights that were quantized and unpacked must be the format's (see grid.py)."""
    found = 0
    for share in plan.shares:
        most = 2 ** int(share.format.bits)
        loose = grid.loose(tensors, [m.name for m in share.modules], share.group_size, most)
        found += len(loose)
        report.add("not quantized", loose, f"more than {most} values in a group: these are not the format's weights")
    report.checked["matrices whose weights lie on the format's grid"] = len(plan.quantized) - found


def _names_and_shapes(tensors: Mapping[str, Stored], plan: Plan, report: Report) -> None:
    report.checked["tensors"] = len(plan.tensors)
    report.add("missing", sorted(plan.tensors.keys() - tensors.keys()), "planned, but not in the checkpoint")
    report.add("unexpected", sorted(tensors.keys() - plan.tensors.keys()), "in the checkpoint, but not planned")
    unlike = [n for n in plan.tensors.keys() & tensors.keys() if not _alike(tensors[n], plan.tensors[n])]
    differences = [
        f"{n} is {tensors[n].dtype}{list(tensors[n].shape)}, "
        f"planned {plan.tensors[n].dtype}{list(plan.tensors[n].shape)}"
        for n in sorted(unlike)
    ]
    report.add("dtype or shape", differences, "another format or group size than planned")


def _alike(stored: Stored, planned: Tensor) -> bool:
    """Equal in shape and dtype; a number may be in other bits than the source's, if it is the same (see _untouched)."""
    floats = stored.dtype in FLOATS and planned.dtype in FLOATS
    return stored.shape == planned.shape and (stored.dtype == planned.dtype or floats)


def _untouched(tensors: Mapping[str, Stored], plan: Plan, source: Mapping[str, Stored], report: Report) -> None:
    """What is not quantized must be the source's, bit for bit, and finite.

    A method that folds scales into its neighbours (AWQ) may change what shares a block with a quantized matrix.
    """
    kept = sorted(plan.tensors.keys() & tensors.keys() & source.keys() - {f"{m}.weight" for m in plan.quantized})
    if plan.rescales:
        blocks = {block_of(module) for module in plan.quantized}
        kept = [name for name in kept if block_of(name) not in blocks]
    changed = [name for name in kept if not equality.same(tensors[name], source[name])]
    rounded = [n for n in changed if tensors[n].dtype != source[n].dtype and equality.rounded(tensors[n], source[n])]
    halves = [name for name in rounded if (source[name].dtype, tensors[name].dtype) == ("BF16", "F16")]
    rounded = sorted(set(rounded) - set(halves))  # below 6e-5 float16 is coarser than bfloat16, by 3e-8 at most
    report.checked["tensors equal to the source, bit for bit"] = len(kept) - len(changed)
    if halves:
        report.checked["tensors equal to the source once it is rounded to float16"] = len(halves)
    report.add(
        "rounded", rounded, "not quantized, but less precise than the source: a router would choose other experts"
    )
    report.add(
        "changed", sorted(set(changed) - {*rounded, *halves}), "not quantized, but their values differ from the source"
    )
    kinds = {n: tensors[n].dtype for n in plan.tensors.keys() & tensors.keys()}
    floats = sorted(
        n for n, kind in kinds.items() if kind in FLOATS or (n.endswith(".weight") and kind in finite.FIRST_BAD)
    )
    broken = finite.broken((name, tensors[name]) for name in floats)
    report.checked["floating-point tensors that are finite"] = len(floats) - len(broken)
    report.add("not finite", broken, "NaN or infinity: the output would be garbage")


def _scales(tensors: Mapping[str, Stored], plan: Plan, source: Mapping[str, Stored], report: Report) -> None:
    """Scales must be finite, positive, and give back weights as large as the source's (see scales.py)."""

    def faults(quantized: tuple[Share, Module, str]) -> list[str]:
        share, module, name = quantized
        # the experts of a stack are not cut out of it: only their scales are looked at; nor is a matrix turned
        original = source.get(module.tensor) if module.stack == 1 and not module.transposed else None
        values = scales.of(name, tensors)
        if plan.signed_scales:
            values = {suffix: abs(signed) for suffix, signed in values.items()}
        problems = scales.faults(values, original, share.format.largest, plan.rescales)
        return [f"{name}.{suffix} ({fault})" for suffix, fault in problems.items()]

    with ThreadPoolExecutor(THREADS) as pool:  # numpy lets go of the interpreter while it computes
        wrong = [fault for problems in pool.map(faults, _quantized(plan)) for fault in problems]
    report.checked["matrices whose scales were checked"] = sum(1 for _ in _quantized(plan))
    report.add("scales", wrong, "the output would be garbage")
    packed = set(plan.quantized)
    split = scales.unshared((m for m in plan.modules if m.name in packed), tensors)
    report.add(
        "global scales that differ within a fused matrix", split, "vLLM uses one of them for all parts of the matrix"
    )


def _weights(
    tensors: Mapping[str, Stored], plan: Plan, source: Mapping[str, Stored], only_signs: bool, report: Report
) -> None:
    """Packed weights must be the source's (see weights.py), where these are at hand and lie in the same order."""

    def fault(quantized: tuple[Share, str, Stored]) -> str | None:
        share, name, original = quantized
        parts = rows.of(name, tensors)
        whole = all(f"{name}.{s}" in plan.tensors and _alike(t, plan.tensors[f"{name}.{s}"]) for s, t in parts.items())
        wrong = weights.fault(share.layout, parts, original, share.group_size, only_signs) if parts and whole else None
        return f"{name} ({wrong})" if wrong else None

    at_hand = [
        (share, name, source[module.tensor])
        for share, module, name in _quantized(plan)
        if module.tensor in source and module.stack == 1 and not module.transposed
    ]
    with ThreadPoolExecutor(THREADS) as pool:
        wrong = list(filter(None, pool.map(fault, at_hand)))
    report.checked["matrices of which rows were compared with the source"] = len(at_hand)
    report.add("not the source's weights", wrong, "packed words or scales are zero, damaged or another matrix's")


def _quantized(plan: Plan) -> Iterator[tuple[Share, Module, str]]:
    """Every module that is quantized, with the name of each of its matrices in the artifact."""
    for share in plan.shares:
        for module in share.modules:
            yield from ((share, module, name) for name, _, _ in module.matrices)


def _config(config: dict[str, Any], plan: Plan, report: Report) -> None:
    """The quantization config must be the one vLLM reads, and its ignore list must say what the tensors say."""
    quantization = quantization_config.announced(config)
    packed_by = FORMATS[plan.layout].quant_method
    method = packed_by or (quantization.get("quant_method") if quantization_config.has_kv_scales(config) else None)
    if quantization.get("quant_method") != method:
        report.faults.append(
            f"config.json: quant_method is {quantization.get('quant_method')!r}, {method!r} was planned: vLLM would load "
            "it as something else"
        )
        return
    if packed_by is None:
        return
    linear, packed = [m for m in plan.modules if m.linear], set(plan.quantized)
    try:
        plain = ignore_list.left_plain(quantization, linear, config, packed)
        plain |= targets.untargeted(config, linear)
        omni = list(omni_list.misread(quantization, plan.modules, config, packed))
    except ValueError as split:
        report.faults.append(f"config.json: the ignore list {split}: vLLM would refuse it")
        return
    report.checked["linear modules against the ignore list, as vLLM reads it"] = len(linear)
    report.add("ignored but packed", sorted(plain & packed), "vLLM would look for plain weights")
    wanting = {m.name for m in linear if m.served} - packed - plain
    report.add("in bf16 but not ignored", sorted(wanting), "vLLM would look for packed weights")
    if plan.mixed:
        wrong = targets.faults(config, linear, plan)
        report.checked["matrices whose format config.json gives"] = len(packed) - len(wrong)
        report.add("config_groups", wrong, "vLLM would read these matrices in another format, or in none")
    for engine, count, wrong in omni:
        report.checked[f"modules of thinker and talker that {engine} builds by the list"] = count - len(wrong)
        report.add(f"misread by {engine}", wrong, "it would build them in another form than their tensors have")
    if method == "modelopt" and not any(fnmatch("lm_head", str(entry)) for entry in quantization.get("ignore", [])):
        report.faults.append("config.json: lm_head is not in the ignore list: vLLM would expect a packed head")
