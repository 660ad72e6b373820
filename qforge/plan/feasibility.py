"""Whether a plan can work at all: group size, kernel, shapes, memory. Every refusal names the key and the fix."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from qforge.config.job import Engine, Job, Unservable
from qforge.models.core import Core
from qforge.models.formats import Format
from qforge.models.modules import Module
from qforge.plan import support_matrix
from qforge.plan.memory import Config
from qforge.plan.support_matrix import How, Matrix, Serving

TP_SIZES = (1, 2, 4, 8, 16)
SCORING = {"serve", "evaluate", "bench", "judge"}  # stages that ask the engine which scores text


def group_size(job: Job, layout: Format) -> int | None:
    """The group size of the plan; none for formats without groups."""
    if not layout.group_sizes:  # bf16, or one scale per channel
        if job.group_size is not None:
            raise ValueError(
                f"group_size={job.group_size} method={job.method.name}: {layout.scheme} has no groups; leave "
                "group_size out, or use method=rtn, gptq or awq"
            )
        return None
    group = job.group_size if job.group_size is not None else job.method.group_size
    if group in layout.group_sizes or (_measurable(job, layout) and group and group > 0):
        return group
    sizes = " or ".join(map(str, layout.group_sizes))
    others = "" if layout.scheme == "int4" else ", or method=rtn, gptq or awq for other sizes"
    name = layout.scheme if layout.scheme == job.method.format else f"{layout.scheme} as {job.method.format}"
    reason = f"{name} exists at group {sizes} only"
    if layout.scheme.startswith("nvfp4"):
        reason = "NVFP4 exists at group 16 only (one FP8 scale per 16 weights is the format; no kernel reads another)"
    raise ValueError(
        f"group_size={group} method={job.method.name}: {reason}; use group_size={sizes}{others}{_all_the_same(layout)}"
    )


def _measurable(job: Job, layout: Format) -> bool:
    return job.unservable is Unservable.measure and job.method.function is not None and layout.unpacks


def _all_the_same(layout: Format) -> str:
    return ", or unservable=measure to measure its quality without serving it" if layout.unpacks else ""


def serving(
    job: Job, kind: str, text: Config, layout: Format, group: int | None, quantized: Sequence[Module], vllm: str
) -> Serving:
    """How the checkpoint will be served. Raises ValueError where nothing serves it, unless its quality is wanted anyway.

    `kind`: the model_type; `text`: the numbers of its language model.
    """
    moe = any(m.kind == "expert" for m in quantized)
    how_served = support_matrix.serving(layout.scheme, job.method.format, group, job.hw, job.runtime, moe, vllm)
    if layout.group_sizes and group not in layout.group_sizes:
        how_served = Serving(
            How.refused, "", f"no kernel reads {layout.scheme} at group {group}", "read: qforge/models/formats.py"
        )
    if defects := [fault for engine, version in _engines(job, vllm)
                   if (fault := support_matrix.defect(engine, kind, job.method.format, version))]:  # fmt: skip
        how_served = defects[0]
    if how_served.how is not How.refused:
        return replace(how_served, beside=support_matrix.beside(how_served.kernel, _shares(job, text, quantized), vllm))
    if _measurable(job, layout):
        return Serving(
            How.simulated, "", f"{how_served.reason}; unservable=measure: the weights are quantized and unpacked to bf16, so "
            "that their quality can be measured. Nothing serves them packed: no speed, no memory", how_served.evidence,
        )  # fmt: skip
    raise ValueError(
        f"method={job.method.name} hw={job.hw.name}: {how_served.reason}; use {how_served.fix}{_all_the_same(layout)}"
    )


def _engines(job: Job, vllm: str) -> Iterator[tuple[str, str]]:
    """The engines that load the checkpoint, each with its version: what only speaks is never loaded by the one that scores."""
    if job.speaks:
        yield support_matrix.VLLM_OMNI, support_matrix.OMNI
    if job.runtime.engine is Engine.vllm and not (job.speaks and (job.serve.keep or not SCORING & set(job.stages))):
        yield support_matrix.VLLM, vllm


def tensor_parallel(
    job: Job, config: Config, quantized: Sequence[Module], group: int | None, serving: Serving, vllm: str
) -> list[int]:
    """The legal sizes: no head is cut, and every kernel can hold its share of every matrix.

    Raises ValueError where the size that the job asks for is not among them.
    """
    requested = _devices(job)
    kernels = {False: serving.kernel, True: serving.experts_kernel}
    shapes = {matrix(m): m for m in quantized}  # few, however many matrices there are
    legal: list[int] = []
    for size in sorted({*TP_SIZES, requested}):
        fault, grouped = _undivided(config, shapes.values(), size), False
        if fault is None and (
            bad := support_matrix.first_unservable(shapes, job.method.format, group, kernels, size, vllm)
        ):
            fault, grouped = f"{shapes[bad[0]].name} has {bad[1]}", group is not None
        if fault is None:
            legal.append(size)
        elif size == requested and (job.runtime.engine is Engine.vllm or size == 1):  # transformers knows no other size
            raise ValueError(_illegal(job, size, fault, legal, grouped))
    return legal


def refuse_undivided(job: Job, config: Config, quantized: Sequence[Module]) -> None:
    """Refuse a number of devices over which no format of these matrices could be divided."""
    requested = _devices(job)
    if job.runtime.engine is Engine.vllm and (fault := _undivided(config, quantized, requested)):
        legal = [size for size in TP_SIZES if size < requested and _undivided(config, quantized, size) is None]
        raise ValueError(_illegal(job, requested, fault, legal, grouped=False))


def _undivided(config: Config, quantized: Iterable[Module], size: int) -> str | None:
    """Why the model cannot be divided, whatever its format; none if it can."""
    cut = next((m for m in quantized if matrix(m).row_parallel and m.in_features % size), None)
    named = f"{cut.name} has {cut.in_features} inputs, which {size} devices do not divide" if cut else None
    return _cut_heads(config, size) or named


def _cut_heads(config: Config, size: int) -> str | None:
    """Query heads are divided; KV heads are divided or copied whole (models/llama.py:148). MLA's one vector is copied."""
    heads = int(config.get("num_attention_heads") or 0)  # none: there is no attention
    kv_heads = int(config.get("num_key_value_heads") or heads)
    if heads % size:
        return f"{heads} attention heads are not divisible by {size} devices"
    if heads and "kv_lora_rank" not in config and kv_heads % size and size % kv_heads:
        return f"{kv_heads} KV heads can be neither divided over nor replicated on {size} devices"
    return None


def _illegal(job: Job, size: int, fault: str, smaller: list[int], grouped: bool) -> str:
    """The message. `grouped`: whether another group size may mend it."""
    where = f"method={job.method.name} hw={job.hw.name}"
    if size > 1:
        fix = f"runtime.args.tensor_parallel_size={smaller[-1]}" if smaller else "another method"
        other = " or another group_size" if grouped else ""
        return f"runtime.args.tensor_parallel_size={size} {where}: {fault}; use {fix}{other}"
    return (
        f"{where}: {fault}; use another {'group_size or ' if grouped else ''}method, leave the layer in bf16 with a rule of "
        "your own (see conf/exempt/), or use hw=... of a GPU"
    )


def _devices(job: Job) -> int:
    return int(job.engine_args.get("tensor_parallel_size", 1))


def _shares(job: Job, text: Config, quantized: Sequence[Module]) -> Iterator[tuple[int, int]]:
    """(inputs, outputs) on one device of the layers outside of experts as vLLM computes them: q, k and v are one."""
    tp = _devices(job)
    heads = int(text.get("num_key_value_heads") or text.get("num_attention_heads") or tp)
    parts = {"k_proj": min(tp, heads), "v_proj": min(tp, heads), "q_a_proj": 1, "kv_a_proj_with_mqa": 1}
    layers: dict[str, list[Module]] = {}
    for module in quantized:
        if module.kind != "expert":
            layers.setdefault(str(module.fused), []).append(module)
    for members in layers.values():
        if matrix(members[0]).row_parallel:
            yield members[0].in_features // tp, members[0].out_features
        else:
            yield members[0].in_features, sum(m.out_features // parts.get(m.leaf, tp) for m in members)


def matrix(module: Module) -> Matrix:
    """What the support matrix asks of a module."""
    row_parallel = module.leaf in ("o_proj", "down_proj", "w2")  # whose inputs are what the layer before has split
    return Matrix(module.out_features, module.in_features, row_parallel, module.kind == "expert")


def refuse_groups(job: Job, layout: Format, group: int | None, quantized: Sequence[Module]) -> None:
    """Refuse a group size that does not divide the inputs of every matrix."""
    if not group or group <= 0:
        return
    bad = [m for m in quantized if m.in_features % group]
    if bad:
        fits = [g for g in layout.group_sizes if g > 0 and not any(m.in_features % g for m in quantized)]
        fits = fits or [g for g in layout.group_sizes if g == -1]
        other = f"for {job.model.name} use group_size={' or '.join(map(str, fits))}" if fits else "use another method"
        raise ValueError(
            f"group_size={group}: {bad[0].name} has {bad[0].in_features} inputs, which {group} does not divide "
            f"({len(bad)} of {len(quantized)} matrices); {other}, or exempt those layers"
        )


def refuse_unread(job: Job, quantized: Sequence[Module]) -> None:
    """Refuse to score through transformers what it reads no packed form of, and leaves at random (ran: 5.17): what it builds as
    Conv1D (GPT-2), experts in one tensor of a class that has no way from single ones (GPT-OSS, Llama 4), and a thinker, which
    is opened under other names than its checkpoint has (Qwen3-Omni)."""
    if job.runtime.engine is not Engine.transformers or not job.method.function or "evaluate" not in job.stages:
        return
    for module in quantized:
        what = ""
        if module.transposed and module.stack == 1:
            what = "is a Conv1D in transformers, which reads no packed one"
        elif module.name.startswith("thinker."):
            what = "is a thinker's, of which transformers reads nothing packed"
        elif module.stack > 1 and (module.transposed or module.own_class or ".experts." not in module.name):
            what = "holds the experts of its layer, which come apart when they are packed; transformers looks for them in one"
        if what:
            raise ValueError(
                f"runtime={job.runtime.name} method={job.method.name}: {module.name} {what}; use a runtime of vLLM "
                "(leave runtime out), or method=bf16"
            )


def refuse_kept_stacks(job: Job, modules: Sequence[Module], kept: Collection[str]) -> None:
    """Experts that lie in one tensor come apart under names that the rules do not know."""
    stacked = [m.name for m in modules if m.stack > 1 and m.linear and m.name in kept]
    if stacked and job.method.function:
        raise ValueError(
            f"exempt: {stacked[0]} holds all experts of its layer in one tensor, which {job.method.name} splits; use "
            "rules that leave experts to be quantized"
        )


def refuse_stacks(job: Job, quantized: Sequence[Module], core: Core | None) -> None:
    """Experts in one tensor, which a library cannot split, and taking out a text core does not."""
    stacked = [m.name for m in quantized if m.stack > 1]
    split = job.method.unstacks or job.method.streams or (core and core.splits)
    if stacked and job.method.function and not split:
        raise ValueError(
            f"method={job.method.name}: {stacked[0]} holds all experts of its layer in one tensor, which this method "
            "cannot split; use method=gptq, or rtn, or a checkpoint with one matrix per expert"
        )
