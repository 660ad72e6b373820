"""Rows of real runs."""

from __future__ import annotations

import json

from support.command import ROOT
from support.jobs import job

from qforge.judge.goals import judge_again

# six real rows, as they were in results/ on 2026-11-21, judged by today's goals
ROWS = [judge_again(row, job().goals) for row in json.loads((ROOT / "tests/support/rows.json").read_text())]
