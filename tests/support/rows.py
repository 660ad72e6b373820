"""Rows of real runs."""

from __future__ import annotations

import json

from support.command import ROOT

ROWS = json.loads(
    (ROOT / "tests/support/rows.json").read_text()
)  # six real rows, as they were in results/ on 2026-11-21
