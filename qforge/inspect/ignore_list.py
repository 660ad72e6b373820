"""What a checkpoint's config.json makes vLLM (for BitsAndBytes: transformers) leave in 16 bits, by its rules for each format.

A list that says otherwise than the tensors do is the commonest way to a model that does not load, or loads as garbage:
`model.layers.1*`, which ModelOpt's exporter writes for a whole block, is read as a substring and catches blocks 10-19 too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from fnmatch import fnmatch
from typing import Any

from qforge.models import vllm_names
from qforge.models.modules import Module

Name = Callable[[str], str | None]  # of an entry in the engine; none: the engine does not load what it is about
Matcher = Callable[[str, Sequence[str], Sequence[str]], bool]


def left_plain(
    quantization: dict[str, Any], modules: Sequence[Module], config: dict[str, Any], packed: Collection[str]
) -> set[str]:
    """The linear modules (by their names in the checkpoint) that vLLM builds unquantized.

    `packed`: those whose tensors are packed, which decides where a format has no list or the list is empty.

    Raises ValueError for a list that cannot be read, and where only a part of what vLLM computes as one matrix is listed,
    which vLLM refuses.
    """
    return plain_among(quantization, [m for m in modules if m.linear], vllm_names.mapped(config), packed)


def plain_among(
    quantization: dict[str, Any], modules: Sequence[Module], name: Name, packed: Collection[str]
) -> set[str]:
    """Those of `modules`, which the engine builds by what the list says, that it builds unquantized; `name`: how it reads an
    entry. Raises ValueError as left_plain does."""
    method = str(quantization.get("quant_method"))
    entries = _entries(quantization, method, name, [m.name for m in modules if m.name not in packed])
    matrices: dict[str, list[Module]] = {}
    for module in modules:
        if module.fused:
            matrices.setdefault(module.fused, []).append(module)
    plain: set[str] = set()
    for fused, members in matrices.items():
        shards = [m.served for m in members if m.served and m.served != fused]
        if MATCHERS[method](fused, shards, entries):
            plain |= {m.name for m in members}
    return plain


def _entries(
    quantization: Mapping[str, Any],
    method: str,
    name: Name,
    tensors: Sequence[str],
) -> list[str]:
    """The list, with vLLM's names: patterns that begin with re: stay as they are (compressed_tensors.py:142)."""
    keys = ("ignore", "modules_to_not_convert", "llm_int8_skip_modules")
    listed: Sequence[Any] = next((quantization[key] for key in keys if quantization.get(key)), [])
    rules = quantization.get("dynamic") or {}  # GPTQ's
    if not isinstance(listed, list) or not isinstance(rules, dict):
        raise ValueError(f"is {listed or rules!r:.60}, not a list of names")
    if method == "gptq":  # no list: the tensors (auto_gptq.py:273), and rules that begin with -:
        listed = [*tensors, *(f"re:{rule[2:]}" for rule in rules if rule.startswith("-:"))]
    elif method == "awq" and not listed:  # auto_awq.py:370
        listed = tensors
    entries = []
    for entry in listed:
        stem = str(entry)
        if method == "modelopt" and len(stem) >= 2 and stem[-1] == "*" and stem[-2] != ".":
            entries += [name(stem[:-1]), f"{name(stem[:-1])}.*"]  # modelopt.py:264, apply_vllm_mapper
        elif stem.startswith("re:"):
            entries.append(_expression(stem, stem[3:]))
        else:
            entries.append(name(stem))
    return [entry for entry in entries if entry is not None]


def _expression(entry: str, pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"has {entry}, which is not a regular expression ({error})") from None
    return entry


def modelopt(matrix: str, shards: Sequence[str], entries: Sequence[str]) -> bool:
    """Exact names or all shards, then substrings, then wildcards (quantization/modelopt.py:191)."""
    if shards and not matrix.endswith(".experts"):
        skipped = matrix in entries or _all_or_none(matrix, [shard in entries for shard in shards])
    elif "experts" in matrix:  # utils/quant_utils.py:684: one listed expert is enough for all
        skipped = any(matrix in entry for entry in entries if "experts" in entry)
    else:
        skipped = matrix in entries
    if skipped:
        return True
    stripped = matrix.removeprefix("language_model.")
    return any(
        (entry != matrix and (entry in matrix or entry in stripped)) or fnmatch(matrix, entry) for entry in entries
    )


def compressed_tensors(matrix: str, shards: Sequence[str], entries: Sequence[str]) -> bool:
    """The matrix itself, or all of its shards, by name or `re:` from the start (utils/config_utils.py:344).

    Experts are looked up by the names of their projections, which must agree (compressed_tensors_moe.py).
    """

    def listed(name: str) -> bool:
        return any(re.match(e[3:], name) is not None if e.startswith("re:") else e == name for e in entries)

    return listed(matrix) or (bool(shards) and _all_or_none(matrix, [listed(shard) for shard in shards]))


def gptq(matrix: str, shards: Sequence[str], entries: Sequence[str]) -> bool:
    """A rule that fits the matrix, or all of its shards by name (utils/gptq_utils.py:119)."""
    if any(entry.startswith("re:") and re.match(entry[3:], matrix) for entry in entries):
        return True
    return _all_or_none(matrix, [name in entries for name in shards or [matrix]])


def substring(matrix: str, shards: Sequence[str], entries: Sequence[str]) -> bool:
    """AWQ: any entry that is part of the name (auto_awq.py:294, quant_utils.py with match_mode="substring")."""

    def listed(name: str) -> bool:
        return any(entry in name for entry in entries)

    if matrix.endswith(".experts") or not shards:
        return listed(matrix)
    return listed(matrix) or _all_or_none(matrix, [listed(shard) for shard in shards])


def prefix_or_suffix(matrix: str, shards: Sequence[str], entries: Sequence[str]) -> bool:
    """BitsAndBytes, which transformers reads: an entry that a name begins or ends with (quantizers_utils.py:26)."""

    def listed(name: str) -> bool:
        return any(re.match(_expression(entry, entry), name) is not None or name.endswith(entry) for entry in entries)

    return _all_or_none(matrix, [listed(name) for name in shards or [matrix]])


def _all_or_none(matrix: str, matches: Sequence[bool]) -> bool:
    if any(matches) and not all(matches):
        raise ValueError(f"lists some but not all parts of {matrix}, which vLLM computes in one precision")
    return all(matches)


MATCHERS: dict[str, Matcher] = {
    "modelopt": modelopt, "compressed-tensors": compressed_tensors, "awq": substring, "gptq": gptq,
    "bitsandbytes": prefix_or_suffix,
}  # fmt: skip
