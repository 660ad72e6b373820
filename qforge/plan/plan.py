"""What will happen to every module, how big it gets, how it will be served and how fast: known before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qforge.config.job import Job
from qforge.config.method import BF16
from qforge.models import metadata, modules
from qforge.models.checkpoint import Tensor
from qforge.models.core import Core
from qforge.models.formats import FORMATS, MIXED
from qforge.models.modules import Module
from qforge.models.quantized_source import Packing
from qforge.models.structure import pattern
from qforge.plan import (
    architecture_notes,
    cores,
    cpu_kernels,
    experts,
    feasibility,
    kv_cache,
    libraries,
    misfits,
    mix,
    notes,
    online,
    packed,
    room,
    towers,
)
from qforge.plan.estimate import Estimates, estimate, loaded_bytes
from qforge.plan.exemptions import Hits, exempted
from qforge.plan.packed import Part
from qforge.plan.share import Share, shares, together
from qforge.plan.speech import Deployed, deployed
from qforge.plan.support_matrix import NEWEST, How, Serving

SHOWN = 6  # examples per rule in plan.json
EXPERT = ("gate_proj", "up_proj", "down_proj")


@dataclass
class Plan:
    """The whole plan; `tensors` is what the artifact must hold, tensor by tensor."""

    model: str
    method: str
    layout: str
    group_size: int | None
    source: str  # where the shapes were read
    quantized: list[str]
    shares: list[Share]  # of it, by format: several in a mix
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
        return {
            **fields, "published": published, "rules": rules, "exempt": self.exempt, "names": self.names,
            "shares": self.formats,
        }  # fmt: skip

    def identity(self) -> dict[str, Any]:
        """What decides the artifact: two jobs with equal identity share it."""
        return {
            "layout": self.layout, "group_size": self.group_size, "quantized": self.quantized, "simulated": self.simulated,
            "kv_scales": self.kv_scales, **({"mix": self.given} if self.mixed else {}),
        }  # fmt: skip

    @property
    def mixed(self) -> bool:
        """Whether parts of the model have formats of their own."""
        return self.layout == MIXED

    @property
    def given(self) -> dict[str, str]:
        """Of a mix every quantized module -> the method whose format it has, as method.formats names it."""
        return {module.name: share.method for share in self.shares for module in share.modules}

    @property
    def formats(self) -> list[dict[str, Any]]:
        """The shares for people: each with how it is served, and its bits per weight, scales included."""
        return [
            {"method": share.method, "layout": share.layout, "group_size": share.group_size, "serving": share.serving,
             "matrices": len(share.modules), "bits_per_weight": packed.bits([share])}
            for share in self.shares
        ]  # fmt: skip

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
        given = self.given if self.mixed else None
        kept = [
            m for m in self.modules
            if (m.kept and m.kind != "embedding") or m.name in self.exempt or (given and m.linear and m.name not in given)
        ]  # fmt: skip
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
    architecture_notes.refuse_unbuilt(job, model)
    towers.refuse(job, tree)
    cpu_kernels.refuse(job, tree, model.text)
    online.refuse_dense(job, tree)
    core = cores.needed(job, tree, model.config, model.structure)
    libraries.refuse_architecture(job, model.config, tree, model.tensors, core)
    layout, packs = FORMATS[job.method.format], job.method.function is not None
    tied = not any(m.kind == "head" for m in tree)
    rules = exempted(tree, job.exempt, tied) if packs else {}
    kept = {name for hits in rules.values() for name in hits.modules}
    published = None if packs or job.method.format == "bf16" else model.packing  # the source, as it is served
    stored = published.matrices if published else ()
    given = mix.assigned(job.method.formats, tree)
    quantized = [m for m in tree if (m.linear and m.name not in kept if packs else m.tensor in stored)]
    if layout.scheme == MIXED:
        quantized = [m for m in quantized if given.get(m.name, BF16) != BF16]
    if packs and not quantized:
        if layout.scheme == MIXED:
            raise ValueError("method.formats: every matrix stays in bf16; use method=bf16, or give one another format")
        raise ValueError("exempt: every linear layer is exempted, so nothing would be quantized; use fewer rules")
    feasibility.refuse_kept_stacks(job, tree, kept)
    kind, text = str(model.config.get("model_type")), model.text
    feasibility.refuse_stacks(job, quantized, core)
    feasibility.refuse_unread(job, quantized)
    planned, left = shares(job, given, kind, text, quantized, vllm, fits=published is not None)
    tree = misfits.left_alone(tree, left)
    quantized = [m for m in quantized if m.name not in left]
    at_load = online.shares(job, tree, planned, vllm)
    serving = together(planned)
    kv_cache.refuse(job, model.config, text, serving, layout)
    made = dict(model.stored) if published else packed.packed(model.tensors, planned)
    made |= kv_cache.scales(job, text, tree, layout)
    parallel = sorted(set.intersection(*(set(share.tensor_parallel) for share in planned)))
    parameters, size = sum(t.count for t in model.tensors.values()), sum(t.nbytes for t in made.values())
    experts.refuse_few(job, text, quantized)
    whole = packed.unpacked(model.tensors, planned) if serving.how is How.simulated else made
    plan = Plan(
        model=job.model.name,
        method=job.method.name,
        layout=job.method.format,
        group_size=planned[0].group_size if quantized and layout.scheme != MIXED else None,
        source=model.origin,
        quantized=[m.name for m in quantized],
        shares=planned if quantized else [],
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
        quantized_bits_per_weight=packed.bits(planned),
        parts=packed.parts(tree, quantized, model.tensors, made),
        estimates=estimate(job, text, tree, model.tensors, online.loaded(job, tree, made), at_load),
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
    room.refuse_memory(job, text, plan.estimates.memory, plan.tensor_parallel)
    if fault := room.too_long(job, text, plan.estimates.memory):
        plan.notes.append(f"serve would be refused: {fault}")
    return plan
