"""What to expect of a checkpoint where it will be served. Estimates: nothing here was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qforge.config.job import Job
from qforge.models.checkpoint import Tensor
from qforge.models.modules import Module
from qforge.plan import experts, memory, roofline
from qforge.plan.memory import Config, Memory
from qforge.plan.roofline import Speed, Weights
from qforge.plan.share import Share
from qforge.plan.support_matrix import How

Tensors = Mapping[str, Tensor]
ARITHMETIC = {
    "fp8": "fp8",
    "int8": "int8",
    "nvfp4_w4a4": "fp4",
}  # of native kernels, unless their row says; every other one computes in bf16


@dataclass(frozen=True)
class Estimates:
    """Memory and speed of serving, of bf16 beside it, and the memory of quantizing."""

    memory: Memory
    speed: Speed | None  # none where the hardware's numbers are not known, or where it is emulated
    bf16_speed: Speed | None
    arithmetic: float | None  # operations/s of what the kernel computes in, over bf16's
    quantizing_gib: float | None  # besides the libraries themselves; none where no model is in memory


def estimate(
    job: Job, config: Config, modules: Sequence[Module], before: Tensors, after: Tensors, shares: Sequence[Share]
) -> Estimates:
    """`before` and `after`: the tensors of the bf16 checkpoint and of what will be in memory; `config`: of the language model.

    Of several formats the fastest arithmetic counts for all: a bound.
    """
    where = memory.deployment(job)
    emulated = any(share.serving.how in (How.emulated, How.simulated) for share in shares)
    rates, in_memory = job.hw.tflops, job.makes_checkpoint and (not job.method.streams or job.kv.calibrated)
    arithmetic = max(map(_arithmetic, shares), key=lambda name: rates.get(name, 0))
    weights, bf16_weights = _weights(modules, config, after), _weights(modules, config, before)
    sizes = [sum(t.nbytes for t in tensors.values()) for tensors in (before, after)]
    dropped = tuple({f"{m.kind}." for m in modules if m.served is None})  # vLLM leaves them on the disk
    drafts = {m.tensor for m in modules if m.kind == "draft"}
    held = (before if emulated else after).items()
    loaded = sum(loaded_bytes(t) for name, t in held if not name.startswith(dropped) and name not in drafts)
    last = max((m.block for m in modules if m.linear and m.block is not None), default=None)
    block = [inputs for m in modules if m.linear and m.block == last for _, _, inputs in m.matrices]
    return Estimates(
        memory=memory.memory(config, loaded, where),
        speed=None if emulated else roofline.speed(config, weights, arithmetic, where),
        bf16_speed=roofline.speed(config, bf16_weights, "bf16", where),
        arithmetic=rates[arithmetic] / rates["bf16"] if {arithmetic, "bf16"} <= rates.keys() and not emulated else None,
        quantizing_gib=memory.quantizing_bytes(job, config, block, *sizes) / 2**30 if in_memory else None,
    )


def _arithmetic(share: Share) -> str:
    """What its kernel computes in."""
    serving = share.serving
    return serving.arithmetic or (ARITHMETIC.get(share.format.scheme, "bf16") if serving.how is How.native else "bf16")


def loaded_bytes(tensor: Tensor) -> int:
    """Bytes in the server's memory: of matrices in 32 bits half, since models run in 16."""
    return 2 * tensor.count if tensor.dtype == "F32" and len(tensor.shape) > 1 else tensor.nbytes


def _weights(modules: Sequence[Module], config: Config, tensors: Tensors) -> Weights:
    """The language model's matrices as a forward pass meets them. A tied embedding is read as the head."""
    tied = not any(m.kind == "head" for m in modules)  # else the embedding is looked up, not multiplied
    read = [m for m in modules if m.linear or m.kind in ("router", "head") or (tied and m.kind == "embedding")]
    kinds = {name: m.kind for m in read for name in (m.name, *(matrix for matrix, _, _ in m.matrices))}
    size = {True: 0, False: 0}
    for name, tensor in tensors.items():
        if kind := kinds.get(name) or kinds.get(name.rpartition(".")[0]):
            size[kind == "expert"] += tensor.nbytes
    count = {True: 0, False: 0}
    for module in read:
        count[module.kind == "expert"] += module.parameters
    head = sum(m.parameters for m in read if m.kind in ("head", "embedding"))
    of = experts.number(config)
    chosen = int(config.get("num_experts_per_tok") or 0) / of if of else 0.0
    return Weights(size[False], size[True], count[False], count[True], head, chosen)
