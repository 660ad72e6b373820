"""The scales of an FP8 KV cache: whether the checkpoint holds what its config.json announces, and whether they can be right.

vLLM takes 1.0 without a word for a layer that has none, and of too many heads the first.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from qforge.config.kv_cache import HEAD
from qforge.inspect.report import Report
from qforge.models import quantization_config
from qforge.models.checkpoint import Stored
from qforge.plan import kv_cache
from qforge.plan.plan import Plan

KV = re.compile(r"(?:\.k_proj|\.v_proj)?\.(k|v)_scale$")  # as ModelOpt and as compressed-tensors name them


def check(tensors: dict[str, Stored], config: dict[str, Any], plan: Plan, report: Report) -> None:
    """Add what is wrong to the report. Scales of somebody else's checkpoint are in no plan: they leave the tensors."""
    announced = quantization_config.kv_strategy(config)
    if not announced:
        if plan.kv_scales:
            report.faults.append(
                "config.json: says nothing of the KV cache (kv_cache_scheme): vLLM would not read its scales"
            )
        return
    of_cache = {name: tensor for name, tensor in tensors.items() if KV.search(name)}
    report.checked["scales of the KV cache"] = len(of_cache)
    if not of_cache:
        report.faults.append(
            "config.json: says that the KV cache has scales (kv_cache_scheme), but the checkpoint has none"
        )
        return
    wrong = list(faults(of_cache, kv_cache.layers(plan.modules), _heads(config) if announced == HEAD else 1))
    report.add("scales of the KV cache", wrong, "the cache would hold garbage")
    for name in of_cache.keys() - plan.tensors.keys() if not plan.kv_scales else ():
        del tensors[name]


def _heads(config: dict[str, Any]) -> int | None:
    """KV heads of the language model; none where config.json does not say it at the usual place."""
    text = config.get("text_config") or config
    return text.get("num_key_value_heads") or text.get("num_attention_heads")


def faults(tensors: Mapping[str, Stored], layers: Collection[str], count: int | None) -> Iterator[str]:
    """Scales that cannot be right: positive numbers, `count` of them (none: any number) for the keys and for the values of each
    layer of attention (`layers`)."""
    pairs: dict[str, set[str]] = {}
    for name, stored in tensors.items():
        values = stored.read().reshape(-1).astype("float32")
        if count and len(values) != count:
            yield f"{name} ({len(values)} of them, {count} announced)"
        elif not all(0 < float(value) < float("inf") for value in values):
            yield f"{name} ({', '.join(f'{value:g}' for value in values[:4])})"
        match = KV.search(name)
        assert match
        pairs.setdefault(name[: match.start()], set()).add(match[1])
    yield from (f"{layer} (of {' and '.join(kinds)} only)" for layer, kinds in pairs.items() if kinds != {"k", "v"})
    yield from (f"{layer} (none)" for layer in layers if layer not in pairs)
