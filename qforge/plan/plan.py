"""What will happen to every module, how big it gets, how it will be served and how fast: known before anything is loaded."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qforge.config.job import Job
from qforge.models import metadata, modules
from qforge.models.checkpoint import Tensor
from qforge.models.core import Core
from qforge.models.formats import FORMATS, Format
from qforge.models.modules import Module
from qforge.models.quantized_source import Packing
from qforge.models.structure import pattern
from qforge.plan import architecture_notes, cores, experts, feasibility, kv_cache, libraries, misfits, notes, towers
from qforge.plan.estimate import Estimates, estimate, loaded_bytes
from qforge.plan.exemptions import Hits, exempted
from qforge.plan.speech import Deployed, deployed
from qforge.plan.support_matrix import NEWEST, How, Serving

SHOWN = 6  # examples per rule in plan.json
REST = "norms and biases"
EXPERT = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Part:
    """What becomes of the modules of one kind. Norms and biases are a kind of their own."""

    modules: int
    quantized: int
    bf16_bytes: int
    bytes: int


@dataclass
class Plan:
    """The whole plan; `tensors` is what the artifact must hold, tensor by tensor."""

    model: str
    method: str
    layout: str
    group_size: int | None
    source: str  # where the shapes were read
    quantized: list[str]
    rules: dict[str, Hits]
    untouched: dict[str, str]  # module -> why no method here quantizes it
    notes: list[str]
    serving: Serving
    tensor_parallel: list[int]
    parameters: int
    bf16_bytes: int
    bytes: int  # of the packed checkpoint; of a simulated one, as it would be if it could be packed
    bits_per_weight: float  # of the whole checkpoint
    quantized_bits_per_weight: float | None  # of what is packed, scales included
    parts: dict[str, Part]
    estimates: Estimates
    rescales: bool  # blocks' other tensors may differ from the source (see Method)
    signed_scales: bool
    kv_scales: str | None  # of the KV cache in the checkpoint: one per tensor or attn_head; none: none are made
    core: Core | None  # what a library quantizes alone, of a multimodal model
    speech: Deployed | None  # the stages of a model that is to speak
    source_bytes: int  # of the model as it is published
    packing: Packing | None = field(repr=False)  # how that is packed; none for a plain model
    tensors: dict[str, Tensor] = field(repr=False)
    modules: list[Module] = field(repr=False)

    def summary(self) -> dict[str, Any]:
        """plan.json: everything but the tensor lists, which follow from it."""
        rules = {n: {**vars(h), "modules": h.modules[:SHOWN], "count": len(h.modules)} for n, h in self.rules.items()}
        published = self.packing.summary if self.packing else "plain"
        fields = {key: value for key, value in vars(self).items() if key not in ("tensors", "modules", "packing")}
        return {**fields, "published": published, "rules": rules, "exempt": self.exempt, "names": self.names}

    def identity(self) -> dict[str, Any]:
        """What decides the artifact: two jobs with equal identity share it."""
        return {
            "layout": self.layout, "group_size": self.group_size, "quantized": self.quantized, "simulated": self.simulated,
            "kv_scales": self.kv_scales,
        }  # fmt: skip

    @property
    def names(self) -> dict[str, dict[str, Any]]:
        """A module's name in the checkpoint -> as exported, and in vLLM; numbers as N, so that each is there once."""
        named = {}
        for module in self.modules:
            exported = sorted({pattern(name) for name, _, _ in module.matrices})
            vllm = pattern(module.fused) if module.fused else "not loaded"
            named[pattern(module.name)] = {"exported": exported, "vllm": vllm}
        return named

    @property
    def emulated(self) -> bool:
        """Whether packed weights are unpacked at load: right numbers, neither the format's speed nor its memory."""
        return self.serving.how is How.emulated

    @property
    def simulated(self) -> bool:
        """Whether the checkpoint holds quantized weights in bf16, because nothing could serve them packed."""
        return self.serving.how is How.simulated

    @property
    def exempt(self) -> dict[str, str]:
        """Module that the method would have quantized -> the rule that leaves it in bf16."""
        return {module: rule for rule, hits in self.rules.items() for module in hits.changes}

    @property
    def kept(self) -> list[str]:
        """Tensors that nothing is done to."""
        treated = set(self.quantized)
        packed = {name for m in self.modules if m.name in treated for name, _, _ in m.matrices}
        parts = [(name, *name.rpartition(".")) for name in self.tensors if ".weight." not in name]
        return [name for name, module, _, leaf in parts if module not in packed or leaf == "bias"]

    @property
    def ignore(self) -> list[str]:
        """Modules that the library must leave alone. The head is named even where it is tied and has no tensor."""
        kept = [m for m in self.modules if (m.kept and m.kind != "embedding") or m.name in self.exempt]
        experts = {
            f"{m.name.partition('.experts.')[0]}.experts" for m in kept if ".experts." in m.name and m.stack_kept
        }
        first = {f"{name}.0.{leaf}" for name in experts for leaf in EXPERT}  # vLLM looks for the first expert's names
        return sorted({"lm_head", *first, *(name for m in kept for name in m.names)})


def make(job: Job, model_folder: Path | None, vllm: str = NEWEST) -> Plan:
    """Plan the job for the model in `model_folder`, or from what can be known of it while it is not here.

    `vllm`: the version that will serve it, which decides the kernel.
    Raises ValueError for what cannot work: one message with what is wrong, the key and the fix.
    """
    model = metadata.read(job.model, model_folder)
    tree = modules.from_tensors(model.tensors, model.config, model.structure)
    architecture_notes.refuse_nothing(job, model, tree)
    towers.refuse(job, tree)
    core = cores.needed(job, tree, model.config, model.structure)
    libraries.refuse_architecture(job, model.config, tree, model.tensors, core)
    layout, packs = FORMATS[job.method.format], job.method.function is not None
    group = feasibility.group_size(job, layout)
    tied = not any(m.kind == "head" for m in tree)
    rules = exempted(tree, job.exempt, tied) if packs else {}
    kept = {name for hits in rules.values() for name in hits.modules}
    published = None if packs or job.method.format == "bf16" else model.packing  # the source, as it is served
    stored = published.matrices if published else ()
    quantized = [m for m in tree if (m.linear and m.name not in kept if packs else m.tensor in stored)]
    if packs and not quantized:
        raise ValueError("exempt: every linear layer is exempted, so nothing would be quantized; use fewer rules")
    feasibility.refuse_kept_stacks(job, tree, kept)
    kind, text = str(model.config.get("model_type")), model.text
    feasibility.refuse_stacks(job, quantized, core)
    serving = feasibility.serving(job, kind, text, layout, group, quantized, vllm)
    if left := {} if published else misfits.found(kind, job.method.format, group, quantized, serving, vllm):
        tree = misfits.left_alone(tree, left)
        quantized = [m for m in quantized if m.name not in left]
        serving = feasibility.serving(job, kind, text, layout, group, quantized, vllm)
    feasibility.refuse_groups(job, layout, group, quantized)
    kv_cache.refuse(job, text, serving, layout)
    packed = dict(model.stored) if published else _packed(model.tensors, quantized, layout, group)
    packed |= kv_cache.scales(job, text, tree, layout)
    parallel = feasibility.tensor_parallel(job, text, quantized, group, serving, vllm)
    parameters, size = sum(t.count for t in model.tensors.values()), sum(t.nbytes for t in packed.values())
    experts.refuse_few(job, text, quantized)
    whole = _packed(model.tensors, quantized, FORMATS["bf16"], None) if serving.how is How.simulated else packed
    plan = Plan(
        model=job.model.name,
        method=job.method.name,
        layout=job.method.format,
        group_size=group if quantized else None,
        source=model.origin,
        quantized=[m.name for m in quantized],
        rules=rules,
        untouched={m.name: f"{m.kind}: {m.kept}" for m in tree if m.kept},
        notes=[
            *model.notes,
            *notes.published(job, model),
            *architecture_notes.notes(job, model, tree),
            *misfits.notes(left),
            *notes.notes(job, rules, tree, tied, core),
        ],
        serving=serving,
        tensor_parallel=parallel,
        parameters=parameters,
        bf16_bytes=sum(loaded_bytes(t) for t in model.tensors.values()),
        bytes=size,
        bits_per_weight=8 * size / parameters,
        quantized_bits_per_weight=_packed_bits(quantized, layout, group),
        parts=_parts(tree, quantized, model.tensors, packed),
        estimates=estimate(job, text, tree, model.tensors, packed, serving, layout.scheme),
        rescales=job.method.rescales,
        signed_scales=job.method.signed_scales,
        kv_scales=job.kv.strategy if not job.artifact else None,
        core=core,
        speech=deployed(job, model.config, whole, [m.name for m in quantized], parallel),
        source_bytes=sum(t.nbytes for t in (model.stored or model.tensors).values()),
        packing=model.packing,
        tensors=whole,
        modules=tree,
    )
    feasibility.refuse_memory(job, text, plan.estimates.memory, plan.tensor_parallel)
    if fault := feasibility.too_long(job, text, plan.estimates.memory):
        plan.notes.append(f"serve would be refused: {fault}")
    return plan


def _packed(
    tensors: Mapping[str, Tensor], quantized: list[Module], layout: Format, group: int | None
) -> dict[str, Tensor]:
    packed = dict(tensors)
    for module in quantized:
        del packed[module.tensor]
        bias = packed.pop(f"{module.tensor}_bias", None) if module.stack > 1 else None
        for name, rows, columns in module.matrices:
            for suffix, tensor in _matrix(layout, rows, columns, group or 0).items():
                packed[f"{name}.{suffix}"] = tensor
            if bias:
                packed[f"{name}.bias"] = Tensor(bias.dtype, (rows,))
    return packed


@functools.cache  # the matrices of a model have a few dozen shapes
def _matrix(layout: Format, rows: int, columns: int, group: int) -> dict[str, Tensor]:
    return layout.packed(rows, columns, group)


def _parts(
    tree: Sequence[Module], quantized: list[Module], tensors: Mapping[str, Tensor], packed: Mapping[str, Tensor]
) -> dict[str, Part]:
    kinds = {m.name: m.kind for m in tree}
    kinds |= {name: m.kind for m in quantized if m.stack > 1 for name, _, _ in m.matrices}
    bf16, after = Counter[str](), Counter[str]()
    for counted, held in ((bf16, tensors), (after, packed)):
        for name, tensor in held.items():
            module = name.partition(".weight.")[0]  # x.weight.absmax is of x, as x.weight is
            kind = kinds.get(module) or kinds.get(module.rpartition(".")[0], REST)
            counted[kind] += tensor.nbytes
    total, treated = Counter(m.kind for m in tree), Counter(m.kind for m in quantized)
    return {kind: Part(total[kind], treated[kind], bf16[kind], after[kind]) for kind in bf16}


def _packed_bits(quantized: list[Module], layout: Format, group: int | None) -> float | None:
    if not quantized:
        return None
    shapes = Counter((rows, columns) for module in quantized for _, rows, columns in module.matrices)
    sizes = {shape: sum(t.nbytes for t in _matrix(layout, *shape, group or 0).values()) for shape in shapes}
    return 8 * sum(n * sizes[shape] for shape, n in shapes.items()) / sum(m.parameters for m in quantized)
