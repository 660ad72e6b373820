"""What people call a row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qforge.config.kv_cache import HEAD, PLAIN


def name_of(row: dict[str, Any]) -> str:
    """Its experiment, method, what vLLM quantizes to at load where the method's name does not say so, group, exemptions, an FP8
    cache; of a given checkpoint, its folder."""
    experiment = f"{details['name']}: " if (details := row.get("experiment")) else ""
    method = row["method"] if (row.get("online") or "") in row["method"] else f"{row['method']} {row['online']}"
    rules = [rule for rule, entry in row.get("exempt", {}).items() if entry["modules"]]
    left = f" without {'+'.join(rules)}" if rules else ""
    group = f" g{row['group_size']}" if row.get("group_size") else ""
    source = f" of {Path(row['artifact']).name}" if row.get("artifact") else ""
    cache = f", kv {name}" if (name := other_cache(row)) else ""
    return f"{experiment}{method}{group}{left}{cache}{source}"


def other_cache(row: dict[str, Any]) -> str:
    """The name of its KV cache, where that is not in 16 bits."""
    if not (kv := row.get("kv")) or kv["dtype"] in PLAIN:  # older rows have none
        return ""
    return f"{kv['name']} per head" if kv.get("strategy") == HEAD else str(kv["name"])
