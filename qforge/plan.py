"""What will happen to every module, how big it gets and whether it will be served: known before anything is loaded."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from qforge import architectures, checkpoint, compat, modules
from qforge.checkpoint import Tensor
from qforge.config import Engine, Job, Vendor, repository_path
from qforge.exempt import exempted
from qforge.formats import FORMATS, Format
from qforge.modules import Module

TP_SIZES = (1, 2, 4, 8)


@dataclass
class Plan:
    """The whole plan; `tensors` is what the artifact must hold, tensor by tensor."""

    model: str
    method: str
    layout: str
    group_size: int | None
    source: str  # where the shapes were read
    quantized: list[str]
    exempt: dict[str, str]  # module -> the rule that exempts it
    untouched: dict[str, str]  # module -> why no method here quantizes it
    notes: list[str]
    serving: compat.Serving
    tensor_parallel: list[int]
    parameters: int
    bf16_bytes: int
    bytes: int
    bits_per_weight: float  # of the whole checkpoint
    quantized_bits_per_weight: float | None  # of what is packed, scales included
    rescales: bool  # blocks' other tensors may differ from the source (see Method)
    tensors: dict[str, Tensor] = field(repr=False)
    modules: list[Module] = field(repr=False)

    def summary(self) -> dict[str, Any]:
        """plan.json: everything but the tensor list, which follows from it."""
        return {key: value for key, value in vars(self).items() if key not in ("tensors", "modules")}

    def identity(self) -> dict[str, Any]:
        """What decides the artifact: two jobs with equal identity share it."""
        return {"layout": self.layout, "group_size": self.group_size, "quantized": self.quantized}

    @property
    def emulated(self) -> bool:
        """Whether the numbers will be right and the speed and memory will not."""
        return self.serving.how is compat.How.emulated

    @property
    def ignore(self) -> list[str]:
        """Modules that the library must leave alone. The head is named even where it is tied and has no tensor."""
        linear = [name for name, why in self.untouched.items() if "embed" not in name]
        return sorted({"lm_head", *linear, *self.exempt})


def make(job: Job, model_folder: Path | None) -> Plan:
    """Plan the job for the model in `model_folder`, or from its architecture file while it is not here.

    Raises ValueError for what cannot work: one message with what is wrong, the key and the fix.
    """
    tensors, config, source = _tensors(job, model_folder)
    tree = modules.from_tensors(tensors, config)
    layout = FORMATS[job.method.format]
    group = _group_size(job, layout)
    tied = not any(m.kind == "head" for m in tree)
    exempt = exempted(tree, job.exempt, tied)
    packs = job.method.function is not None
    quantized = [m for m in tree if m.linear and m.name not in exempt] if packs else []
    if packs and not quantized:
        raise ValueError("exempt: every linear layer is exempted, so nothing would be quantized; exempt less")
    _refuse_shapes(job, quantized, layout, group)
    serving = compat.serving(layout.scheme, job.method.format, group, job.hw, job.runtime)
    if serving.how is compat.How.refused:
        raise ValueError(f"method={job.method.name} hw={job.hw.name}: {serving.reason}; use {serving.fix}")
    expected = _expected(tensors, quantized, layout, group)
    parameters, size = sum(t.count for t in tensors.values()), sum(t.nbytes for t in expected.values())
    linear = {m.name for m in tree if m.linear}
    plan = Plan(
        model=job.model.name,
        method=job.method.name,
        layout=job.method.format,
        group_size=group if packs else None,
        source=source,
        quantized=[m.name for m in quantized],
        exempt={name: rule for name, rule in exempt.items() if name in linear} if packs else {},
        untouched={m.name: f"{m.kind}: no method here quantizes it" for m in tree if not m.linear},
        notes=_notes(job, exempt, linear, tied) if packs else [],
        serving=serving,
        tensor_parallel=_tensor_parallel(config, quantized, group),
        parameters=parameters,
        bf16_bytes=sum(t.nbytes for t in tensors.values()),
        bytes=size,
        bits_per_weight=8 * size / parameters,
        quantized_bits_per_weight=_packed_bits(quantized, layout, group),
        rescales=job.method.rescales,
        tensors=expected,
        modules=tree,
    )
    _refuse_memory(job, plan)
    return plan


def _expected(
    tensors: dict[str, Tensor], quantized: list[Module], layout: Format, group: int | None
) -> dict[str, Tensor]:
    expected = dict(tensors)
    for module in quantized:
        del expected[module.tensor]
        biased = module.stack > 1 and expected.pop(f"{module.tensor}_bias", None) is not None
        for name, rows, columns in module.matrices:
            for suffix, tensor in _packed(layout, rows, columns, group or 0).items():
                expected[f"{name}.{suffix}"] = tensor
            if biased:
                expected[f"{name}.bias"] = Tensor("BF16", (rows,))
    return expected


@functools.cache  # the matrices of a model have a few dozen shapes
def _packed(layout: Format, rows: int, columns: int, group: int) -> dict[str, Tensor]:
    return layout.packed(rows, columns, group)


def _tensors(job: Job, folder: Path | None) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    if folder is not None:
        config = checkpoint.read_json(folder / "config.json")
        if "quantization_config" in config:
            raise ValueError(
                f"model.path={folder}: this checkpoint is quantized already; give the bf16 original as the model and "
                "this one as artifact=PATH"
            )
        # the quantizers load in bf16, whatever the file holds
        found = {
            name: Tensor("BF16" if tensor.dtype in ("F16", "F32") else tensor.dtype, tensor.shape)
            for name, tensor in checkpoint.headers(folder).items()
        }
        if config.get("tie_word_embeddings"):  # some savers write the shared matrix twice
            found.pop("lm_head.weight", None)
        return found, config, str(folder)
    if job.model.architecture is None:
        raise ValueError(
            f"model={job.model.name}: there is nothing to plan from; give model.path=FOLDER, or for a model that is "
            "fetched later model.architecture=CONFIG_JSON"
        )
    file = repository_path(job.model.architecture)
    config = checkpoint.read_json(file)
    return architectures.tensors(config), config, f"{job.model.architecture} (the model itself is not fetched yet)"


def _group_size(job: Job, layout: Format) -> int | None:
    if not layout.group_sizes:  # bf16, or one scale per channel
        if job.group_size is not None:
            raise ValueError(
                f"group_size={job.group_size} method={job.method.name}: {layout.scheme} has no groups; leave "
                "group_size out, or use method=rtn, gptq or awq"
            )
        return None
    group = job.group_size if job.group_size is not None else job.method.group_size
    if group not in layout.group_sizes:
        sizes = " or ".join(map(str, layout.group_sizes))
        reason = f"{layout.scheme} exists at group {sizes} only"
        if layout.scheme == "nvfp4":
            reason = (
                "NVFP4 exists at group 16 only (one FP8 scale per 16 weights is the format; no kernel reads another)"
            )
        raise ValueError(
            f"group_size={group} method={job.method.name}: {reason}; use group_size={layout.group_sizes[-1]}, "
            f"or method=rtn, gptq or awq for other sizes"
        )
    return group


def _refuse_shapes(job: Job, quantized: list[Module], layout: Format, group: int | None) -> None:
    if group and group > 0:
        bad = [m for m in quantized if m.in_features % group]
        if bad:
            fits = [g for g in layout.group_sizes if g > 0 and not any(m.in_features % g for m in quantized)]
            raise ValueError(
                f"group_size={group}: {bad[0].name} has {bad[0].in_features} inputs, which {group} does not divide "
                f"({len(bad)} of {len(quantized)} matrices); for {job.model.name} use group_size="
                f"{' or '.join(map(str, fits)) or '-1'}, or exempt those layers"
            )
    if layout.scheme == "int4" and job.hw.vendor is Vendor.cpu and job.runtime.engine is Engine.vllm:
        for m in quantized:
            if m.in_features % 32 or m.out_features % 32:  # vLLM, kernels/linear/mixed_precision/cpu.py
                raise ValueError(
                    f"method={job.method.name} hw=cpu: {m.name} is {m.out_features} x {m.in_features}, and the CPU's INT4 "
                    f"kernel needs multiples of 32; leave it in bf16 "
                    "with a rule of your own (see conf/exempt/), or use hw=... of a GPU"
                )


def _refuse_memory(job: Job, plan: Plan) -> None:
    memory = job.hw.memory_gib or psutil.virtual_memory().total / 2**30
    devices = int(job.runtime.args.get("tensor_parallel_size", 1))
    if plan.bytes > devices * memory * 2**30:
        raise ValueError(
            f"hw={job.hw.name}: the weights of {plan.model} with method={plan.method} take {plan.bytes / 2**30:.1f} GiB, "
            f"{devices} x {job.hw.name} have {devices * memory:.1f}; use more of them "
            "(+runtime.args.tensor_parallel_size), a larger hw or a smaller method"
        )


def _tensor_parallel(config: dict[str, Any], quantized: list[Module], group: int | None) -> list[int]:
    """Sizes at which no head and no group of a row-parallel layer is cut (vllm/distributed/utils.py:148)."""
    heads = architectures.language(config)["num_attention_heads"]
    rows = [m for m in quantized if m.leaf in ("o_proj", "down_proj", "w2")]
    unit = group if group and group > 0 else 1
    return [tp for tp in TP_SIZES if heads % tp == 0 and not any(m.in_features % (tp * unit) for m in rows)]


def _packed_bits(quantized: list[Module], layout: Format, group: int | None) -> float | None:
    if not quantized:
        return None
    shapes = Counter((rows, columns) for module in quantized for _, rows, columns in module.matrices)
    bits = {shape: 8 * sum(t.nbytes for t in _packed(layout, *shape, group or 0).values()) for shape in shapes}
    weights = sum(count * rows * columns for (rows, columns), count in shapes.items())
    return sum(count * bits[shape] for shape, count in shapes.items()) / weights


def _notes(job: Job, exempt: dict[str, str], linear: set[str], tied: bool) -> list[str]:
    notes = []
    effect = Counter(rule for name, rule in exempt.items() if name in linear)
    for rule in job.exempt:
        if not effect[rule]:
            notes.append(
                f"exempt.{rule} changes nothing: {job.method.name} never quantizes embeddings, heads or routers, or an "
                "earlier rule has these modules"
            )
    if tied:
        notes.append("the head is the embedding (tied weights), which stays in bf16")
    return notes
