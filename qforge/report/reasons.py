"""Why a row is not accepted, in a few words."""

from __future__ import annotations

import math
from typing import Any

from qforge.judge.metrics import METRICS

Row = dict[str, Any]


def why(row: Row) -> str:
    """In a few words why a row was not accepted; of a plan, what it says."""
    if row.get("planned"):
        return str(row["planned"])
    if row.get("failed"):
        return str(row["failed"]["reason"]).partition("\n")[0]
    for verdict in ("fail", "inconclusive", "not_measured"):
        for c in row.get("criteria", []):
            if c["verdict"] == verdict:
                return _said(max((o for o in row["criteria"] if o["metric"] == c["metric"]), key=_missed_by))
    return ""


def _said(c: Row) -> str:
    value = "" if c["value"] is None else f"{c['value']:.3g} {METRICS[c['metric']].unit}, wanted {sign(c['threshold'])}"
    of = f" ({c['of']})" if c["of"] else ""
    return f"{c['metric'].replace('_', ' ')}{of}: {value or c['reason']}"


def _missed_by(c: Row) -> float:
    if c["value"] is None:
        return -math.inf
    relation, limit = c["threshold"].split()
    return float((c["value"] - float(limit)) * (1 if relation == "<=" else -1))


def sign(threshold: str) -> str:
    """As people write it."""
    return threshold.replace("<=", "≤").replace(">=", "≥")
