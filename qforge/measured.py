"""What was measured before: the rows committed in results/, as evidence for plans and for the decision guide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from qforge.checkpoint import read_json
from qforge.config import ROOT, Hardware

RESULTS = ROOT / "results"


@dataclass(frozen=True)
class Measurement:
    """A committed row, as ratios to bf16 measured under the same conditions."""

    file: str  # its name in results/
    model: str
    method: str
    group_size: int | None
    hw: str
    vllm: str
    speed: dict[int, float]  # streams -> tokens/s over bf16's
    perplexity: dict[str, float]  # text -> increase in percent
    verdict: str

    @property
    def source(self) -> str:
        return f"results/{self.file}: {self.model} on {self.hw}, vLLM {self.vllm}"


def rows(hw: Hardware, folder: Path = RESULTS) -> list[Measurement]:
    """Every judged row in `folder` that was measured on this hardware, or on one of the same architecture."""
    found = [_measurement(file) for file in sorted(folder.glob("*.json"))]
    return [m for m in found if m is not None and (m.hw == hw.name or _capability(m.hw) == hw.capability is not None)]


def of_method(measurements: Sequence[Measurement], method: str, group_size: int | None) -> list[Measurement]:
    """Those of one method at one group size."""
    return [m for m in measurements if (m.method, m.group_size) == (method, group_size)]


def _measurement(file: Path) -> Measurement | None:
    row = read_json(file)
    if not row.get("baseline"):
        return None
    ours, bf16 = row["measured"], row["baseline"]
    streams = ours["bench"].get("runs", {}).keys() & bf16["bench"].get("runs", {}).keys()
    texts = ours["evaluate"].get("texts", {}).keys() & bf16["evaluate"].get("texts", {}).keys()
    return Measurement(
        file=file.name, model=row["model"], method=row["method"], group_size=row["group_size"],
        hw=row["conditions"]["hw"], vllm=str(ours["serve"].get("version", "?")),
        speed={int(c): _ratio(ours["bench"]["runs"][c], bf16["bench"]["runs"][c], "output_throughput")
               for c in sorted(streams, key=int)},
        perplexity={t: 100 * (_ratio(ours["evaluate"]["texts"][t], bf16["evaluate"]["texts"][t], "perplexity") - 1)
                    for t in sorted(texts)},
        verdict=row["verdict"],
    )  # fmt: skip


def _ratio(ours: dict[str, Any], bf16: dict[str, Any], key: str) -> float:
    return float(ours[key]) / float(bf16[key])


def _capability(hw: str) -> str | None:
    file = ROOT / "conf" / "hw" / f"{hw}.yaml"
    found = yaml.safe_load(file.read_text()).get("capability") if file.exists() else None
    return str(found) if found else None
