"""What a row was judged against: the model in bf16, or one that is published quantized, as it is served or unpacked."""

from __future__ import annotations

from typing import Any

NAMES = BF16, SERVED, UNPACKED = "bf16", "source as served", "source unpacked to bf16"


def name_of(row: dict[str, Any]) -> str:
    """What people call it."""
    return str((row.get("baseline") or {}).get("name", BF16))  # rows before 2026-11-29 know bf16 alone


def bytes_of(row: dict[str, Any]) -> int:
    """Of its tensors."""
    return int(row["size"]["source_bytes" if name_of(row) == SERVED else "bf16_bytes"])
