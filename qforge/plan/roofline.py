"""A bound on the speed of serving: a roofline (Williams et al. 2009, doi 10.1145/1498765.1498785).

Nothing is faster than its bytes over the memory's bandwidth or its operations over the arithmetic's rate; kernels, launches
and communication only take from that. So these are no predictions: on an H200 at 64 streams, INT4 may be 1.7 times as fast as
bf16 by this bound and was measured at 0.95 times (vLLM 0.33, Qwen3-8B's shape).
"""

from __future__ import annotations

from dataclasses import dataclass

from qforge.plan.memory import Config, Deployment, caches, head_width

PROMPT = 2000  # tokens of the prompts whose speed is bounded


@dataclass(frozen=True)
class Weights:
    """The matrices of a forward pass: bytes to read and parameters to multiply with."""

    shared_bytes: int  # of every matrix that each token passes through
    expert_bytes: int
    shared_parameters: int
    expert_parameters: int
    head_parameters: int  # of the shared ones: a prompt needs the head for its last token only
    chosen: float  # the part of a layer's experts that one token visits; 0 without experts

    def read(self, tokens: int) -> float:
        """Bytes read for a batch of `tokens`, each of which draws its experts by itself."""
        return self.shared_bytes + self.expert_bytes * (1 - (1 - self.chosen) ** tokens)

    @property
    def operations(self) -> float:
        """Per token: a multiplication and an addition for each parameter it meets."""
        return 2 * (self.shared_parameters + self.expert_parameters * self.chosen)


@dataclass(frozen=True)
class Speed:
    """Tokens/s that cannot be exceeded."""

    decode_1: float  # one stream
    decode_64: float  # 64 streams together
    prefill: float  # prompts of PROMPT tokens


def speed(config: Config, weights: Weights, arithmetic: str, where: Deployment) -> Speed | None:
    """The bound for a kernel that computes in `arithmetic`: bf16, fp8, fp4, int8. None where hw has no numbers for it."""
    rate = where.hw.tflops.get(arithmetic)
    if where.hw.bandwidth_gbs is None or rate is None:
        return None
    bandwidth, operations = where.devices * where.hw.bandwidth_gbs * 1e9, where.devices * rate * 1e12
    layers = caches(config)
    kv = sum(layer.bytes(where.context // 2, where.kv_bytes, 1) for layer in layers)  # half grown, on average

    def decode(streams: int) -> float:
        read = (weights.read(streams) + streams * kv) / bandwidth
        return streams / max(read, streams * weights.operations / operations)

    width = int(config["num_attention_heads"]) * head_width(config) if layers else 0
    attention = sum(4 * layer.layers * width * layer.tokens(PROMPT) / 2 for layer in layers)  # QK and PV, causal
    computed = (weights.operations - 2 * weights.head_parameters + attention) / operations
    read = weights.read(where.batch_tokens) / where.batch_tokens / bandwidth  # once for all tokens of a batch
    return Speed(decode(1), decode(64), 1 / max(read, computed))
