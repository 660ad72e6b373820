"""The memory that serving and quantizing take: estimates, from shapes and from vLLM's own options and defaults."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from qforge.config.job import Hardware, Job, Vendor
from qforge.plan import experts

UTILIZATION = (
    0.92  # of a device's memory, that vLLM takes unless gpu_memory_utilization says otherwise (config/cache.py)
)
SCRATCH = 82 * 2**20  # on a GPU: what timing a kernel clears its cache with, and cuBLAS's workspace
KV_BYTES = {"auto": 2.0, "bfloat16": 2.0, "float16": 2.0, "fp8": 1.0, "fp8_e4m3": 1.0, "fp8_e5m2": 1.0}

Config = Mapping[
    str, Any
]  # of the language model: for a multimodal model the part of its config.json that describes it


@dataclass(frozen=True)
class Deployment:
    """How vLLM will run: what its options and its defaults say."""

    hw: Hardware
    device_gib: float
    devices: int  # tensor parallelism
    utilization: float
    context: int  # max_model_len
    concurrency: int
    kv_dtype: str
    kv_limit_gib: float | None  # where the KV cache has a size of its own
    batch_tokens: int
    batch_sequences: int

    @property
    def kv_bytes(self) -> float:
        return KV_BYTES.get(self.kv_dtype, 2.0)


def deployment(job: Job) -> Deployment:
    """The job's server. Concurrency is the largest that the job would measure."""
    args, hw = job.engine_args, job.hw
    device = hw.memory_gib or psutil.virtual_memory().total / 2**30
    tokens, sequences = _batch(hw, device)
    space = job.runtime.environ.get("VLLM_CPU_KVCACHE_SPACE") if hw.vendor is Vendor.cpu else None
    given = args.get("kv_cache_memory_bytes")  # instead of a part of the device's memory (v1/worker/gpu_worker.py:649)
    fixed = given if isinstance(given, int) and hw.vendor is not Vendor.cpu else None
    limit = float(space) if space else fixed / 2**30 if fixed else None
    return Deployment(
        hw=hw, device_gib=device, devices=1 if hw.vendor is Vendor.cpu else int(args.get("tensor_parallel_size", 1)),
        utilization=1.0 if fixed else float(args.get("gpu_memory_utilization", UTILIZATION)),
        context=int(args.get("max_model_len", job.eval.context)), concurrency=max(job.bench.concurrency),
        kv_dtype=str(args.get("kv_cache_dtype", "auto")), kv_limit_gib=limit,
        batch_tokens=int(args.get("max_num_batched_tokens", tokens)),
        batch_sequences=int(args.get("max_num_seqs", sequences)),
    )  # fmt: skip


def _batch(hw: Hardware, device_gib: float) -> tuple[int, int]:
    """vLLM's own max_num_batched_tokens and max_num_seqs for its server on this device (engine/arg_utils.py:2923-2984)."""
    if hw.vendor is Vendor.cpu:
        return 2048, 128
    if device_gib >= 160:
        return 16384, 1024
    return (8192, 1024) if device_gib >= 70 and "a100" not in hw.name else (2048, 256)


@dataclass(frozen=True)
class Cache:
    """The KV cache of some layers: values per token and layer, and how many tokens a layer keeps (none: all of them)."""

    layers: int
    values: int
    window: int | None
    heads: int  # over which tensor parallelism can spread it; 1: every device keeps the whole

    def tokens(self, context: int) -> int:
        """Tokens kept of `context`."""
        return min(context, self.window) if self.window else context

    def bytes(self, context: int, value_bytes: float, devices: int) -> float:
        """Bytes on one device for one sequence of `context` tokens."""
        return self.layers * self.values * self.tokens(context) * value_bytes / min(devices, self.heads)


def caches(config: Config) -> list[Cache]:
    """The KV cache by kind of layer: full, sliding window, or compressed (DeepSeek's MLA)."""
    layers, heads = _attending(config), config.get("num_attention_heads")
    if not heads:
        return []
    if "kv_lora_rank" in config:  # one compressed vector for all heads (arXiv 2405.04434, section 2.1)
        return [Cache(layers, config["kv_lora_rank"] + config["qk_rope_head_dim"], None, 1)]
    kv_heads = config.get("num_key_value_heads") or heads
    values = 2 * kv_heads * head_width(config)
    sliding = min(_sliding(config), layers)
    by_kind = [
        Cache(layers - sliding, values, None, kv_heads),
        Cache(sliding, values, config.get("sliding_window"), kv_heads),
    ]
    return [cache for cache in by_kind if cache.layers]


def _attending(config: Config) -> int:
    """Layers with a KV cache: of a hybrid those that attend. A state (Mamba, linear attention) does not grow with the text."""
    types = config.get("layer_types")
    if not types or len(types) != config["num_hidden_layers"]:
        return int(config["num_hidden_layers"])
    return sum("attention" in kind and "linear" not in kind for kind in types)


def head_width(config: Config) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _sliding(config: Config) -> int:
    """How many layers see only a window of the text."""
    if not config.get("sliding_window") or config.get("use_sliding_window") is False:
        return 0
    layers = int(config["num_hidden_layers"])
    if "layer_types" in config:
        return sum(kind == "sliding_attention" for kind in config["layer_types"])
    pattern = config.get("sliding_window_pattern") or config.get("_sliding_window_pattern")
    if pattern:  # Gemma 3: every sixth layer sees everything
        return layers - layers // int(pattern)
    return layers


@dataclass(frozen=True)
class Memory:
    """GiB on each device, for `concurrency` sequences of `context` tokens."""

    devices: int
    context: int
    concurrency: int
    kv_dtype: str
    budget: float  # what vLLM may take
    weights: float
    activations: float
    kv_cache: float
    largest_context: int  # tokens that `concurrency` sequences can have; 0: not even the weights fit
    largest_concurrency: int  # sequences of `context` tokens that can run at once

    @property
    def fits(self) -> bool:
        """Whether the weights and all of the sequences fit."""
        return self.largest_concurrency >= self.concurrency


def memory(config: Config, weight_bytes: int, where: Deployment) -> Memory:
    """The memory that serving takes."""
    layers = caches(config)

    def cache(context: int) -> float:
        return sum(layer.bytes(context, where.kv_bytes, where.devices) for layer in layers)

    budget = where.device_gib * 2**30 * where.utilization
    activations = _activations(config, where)
    room = budget - weight_bytes / where.devices - activations
    if where.kv_limit_gib is not None:
        room = min(room, where.kv_limit_gib * 2**30)
    limit = int(config.get("max_position_embeddings") or where.context)
    fitting = bisect_right(range(limit + 1), room / where.concurrency, key=cache) - 1 if room > 0 else 0
    return Memory(
        devices=where.devices, context=where.context, concurrency=where.concurrency, kv_dtype=where.kv_dtype,
        budget=budget / 2**30, weights=weight_bytes / where.devices / 2**30, activations=activations / 2**30,
        kv_cache=where.concurrency * cache(where.context) / 2**30, largest_context=fitting,
        largest_concurrency=_sequences(room, cache(where.context), where.batch_sequences),
    )  # fmt: skip


def _sequences(room: float, each: float, most: int) -> int:
    """How many sequences run at once: without a KV cache as many as a batch holds, if the weights fit."""
    return min(max(int(room / each), 0), most) if each else most * (room > 0)


def _activations(config: Config, where: Deployment) -> float:
    """Bytes at the widest moment of vLLM's profile run, which is what it sets aside.

    What is allocated then was recorded in vLLM 0.26 for dense models (results/notes-h100.md) and read for mixtures: its older
    model runner samples them (logits in 16 and 32 bits, probabilities, noise) while the workspaces of the experts stay
    (v1/worker/gpu_model_runner.py, fused_moe/experts/triton_moe.py:181).
    """
    hidden, vocabulary = int(config["hidden_size"]), int(config["vocab_size"])
    count, chosen = experts.number(config), int(config.get("num_experts_per_tok") or 0)
    width = int((count and config.get("moe_intermediate_size")) or config.get("intermediate_size") or 0) / where.devices
    state = 2.0 * where.batch_tokens * hidden
    compiling = 2.0 * vocabulary * hidden / where.devices + 2 * state  # timing a kernel on a copy of the embedding
    if count:
        workspaces = 2.0 * where.batch_tokens * chosen * (max(width, hidden) + max(2 * width, hidden))
        running = workspaces + 14.0 * where.batch_sequences * vocabulary
    else:
        running = max(3 * state + 2.0 * where.batch_tokens * 3 * width, 2.0 * where.batch_sequences * vocabulary)
    return max(compiling, running + (0 if where.hw.vendor is Vendor.cpu else SCRATCH))


def quantizing_bytes(job: Job, config: Config, block: Sequence[int], bf16_bytes: int, packed_bytes: int) -> float:
    """Memory of the quantizer, besides the libraries themselves: model, packed copy, calibration, Hessians of a block.

    `block`: inputs of each matrix of one transformer block. GPTQ keeps a float32 matrix [inputs, inputs] for each of them;
    every calibrated method keeps the activations of all sequences before and after a block.
    """
    hessians = 4.0 * sum(width * width for width in block) if "GPTQModifier" in job.method.args else 0.0
    tokens = job.calib.sequences * job.calib.length if job.reads_text else 0
    return bf16_bytes + packed_bytes + hessians + 2 * 2.0 * tokens * int(config["hidden_size"])
