"""The KV cache, as configured: in which dtype vLLM keeps keys and values, and whether the checkpoint brings their scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qforge.config.bounds import bounded, line

PLAIN = ("auto", "bfloat16", "float16")  # dtypes of 16 bits
TENSOR, HEAD = "tensor", "attn_head"  # as llm-compressor and vLLM call them
GIVEN = "of the artifact"  # the name of a cache whose scales a given checkpoint brings


@dataclass
class KvCache:
    name: str = line("auto")  # its file in conf/kv/
    dtype: str = line("auto")  # vLLM's own kv_cache_dtype; auto: the model's
    # of scales that the calibration text decides and the checkpoint holds: one per layer, or one per layer and head; none:
    # no scales, which vLLM takes as 1.0
    strategy: str | None = bounded(None, one_of=(TENSOR, HEAD))

    @property
    def calibrated(self) -> bool:
        """Whether the checkpoint brings scales."""
        return self.strategy is not None

    @property
    def scheme(self) -> dict[str, Any]:
        """What is calibrated, as llm-compressor takes it and config.json says it to vLLM. Its observer by default is a moving
        average, 99 parts in 100 the first sequence: what is larger later would be cut off (observers/min_max.py, 0.14)."""
        return {
            "num_bits": 8, "type": "float", "strategy": self.strategy, "symmetric": True, "dynamic": False,
            "observer": "static_minmax",
        }  # fmt: skip

    @property
    def plain(self) -> bool:
        """Whether keys and values are kept in 16 bits, as the model computes them."""
        return self.dtype in PLAIN
