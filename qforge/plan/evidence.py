"""What was measured before: the rows committed in results/, as evidence for plans and for the decision guide."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from qforge.config.job import Hardware
from qforge.config.kv_cache import PLAIN
from qforge.config.places import ROOT, option_files
from qforge.console import console
from qforge.json_files import read_json
from qforge.models.formats import FORMATS

RESULTS = ROOT / "results"
RANGE = "tokens_per_second_range"


@dataclass(frozen=True)
class Measurement:
    """A committed row, as ratios to bf16 measured under the same conditions."""

    file: str  # its name in results/
    model: str
    method: str
    layout: str
    group_size: int | None
    hw: str
    vllm: str
    parameters: int
    experts: bool  # a mixture of experts, whose kernels are others
    speed: dict[int, float]  # streams -> tokens/s over bf16's, medians of the repeats
    least: dict[int, float]  # the same, the slowest repeat over bf16's fastest
    perplexity: dict[str, float]  # text -> increase in percent
    experiment: str = ""  # its name, where it was one
    online: str | None = None  # what vLLM made of the bf16 weights while it loaded them

    @property
    def source(self) -> str:
        details = [self.model, self.online, f"group {self.group_size}" if self.group_size else "", self.experiment]
        return f"results/{self.file}: {', '.join(filter(None, details))} on {self.hw}, vLLM {self.vllm}"

    @property
    def numbers(self) -> str:
        """What it showed, for people."""
        speed = ", ".join(f"{ratio:.2f} x bf16 at {streams}" for streams, ratio in self.speed.items())
        loss = ", ".join(f"PPL {change:+.1f} % on {text}" for text, change in self.perplexity.items())
        return "; ".join(part for part in (speed, loss) if part)


def judged(folder: Path = RESULTS) -> list[Measurement]:
    """Every judged row in `folder`. A file that is no row is skipped with a warning: a plan does not depend on it."""
    measurements = [_readable(file) for file in sorted(folder.glob("*.json"))]
    return [m for m in measurements if m is not None]


def rows(hw: Hardware, folder: Path = RESULTS) -> list[Measurement]:
    """Every judged row in `folder` that was measured on this hardware, or on one of the same architecture."""
    return [m for m in judged(folder) if alike(m.hw, hw)]


def alike(name: str, hw: Hardware) -> bool:
    """Whether hardware of this name runs what `hw` runs: it is the same, or of the same architecture."""
    return name == hw.name or _capability(name) == hw.capability is not None


def of_method(measurements: Sequence[Measurement], method: str) -> list[Measurement]:
    """Those of one method, at any group size."""
    return [m for m in measurements if m.method == method]


def quantized_to(measurements: Sequence[Measurement], online: str | None) -> list[Measurement]:
    """Those of bf16 weights that vLLM quantizes to this while it loads them (method.online); none: of checkpoints."""
    return [m for m in measurements if m.online == online]


def of_layout(measurements: Sequence[Measurement], layout: str) -> list[Measurement]:
    """Those of one packed layout, whose speed is the same whatever method chose the values."""
    return [m for m in measurements if m.layout == layout]


def of_version(measurements: Sequence[Measurement], vllm: str) -> list[Measurement]:
    """Those of one release of vLLM: another may take other kernels."""
    return [m for m in measurements if _release(m.vllm) == _release(vllm)]


def telling(measurements: Sequence[Measurement], vllm: str) -> list[Measurement]:
    """Those that a plan has room for: of the release that will serve where there are any, and of each model the one that says
    most."""
    kept: dict[str, Measurement] = {}
    for row in of_version(measurements, vllm) or measurements:
        known = kept.get(row.model)
        if known is None or len(row.speed) + len(row.perplexity) > len(known.speed) + len(known.perplexity):
            kept[row.model] = row
    return list(kept.values())


def nearest(measurements: Sequence[Measurement], parameters: int, experts: bool = False) -> list[Measurement]:
    """Those of the model nearest in size, of the same kind, and of the hardware with the most of them: ratios of different
    models, or to bf16 on different hardware, do not compare."""
    measurements = [m for m in measurements if m.experts == experts]
    if not measurements:
        return []
    closest = min(measurements, key=lambda m: abs(math.log(m.parameters / parameters)))
    of_model = [m for m in measurements if m.model == closest.model]
    ((hw, _),) = Counter(m.hw for m in of_model).most_common(1)
    return [m for m in of_model if m.hw == hw]


@functools.cache  # asked several times in a run: one warning, one reading
def _readable(file: Path) -> Measurement | None:
    """The measurement in `file`; none where nothing in it was judged, with another KV cache, or where it is malformed."""
    try:
        return _measurement(file)
    except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        why = str(error) if isinstance(error, ValueError) else f"{file}: {type(error).__name__} {error}"
        console.print(f"results: not used as evidence, it is not a row of qforge: {why}", style="yellow", markup=False)
        return None


def _measurement(file: Path) -> Measurement | None:
    """Raises ValueError, KeyError, TypeError, AttributeError or ZeroDivisionError for what is no row."""
    row = read_json(file)
    other_cache = row.get("kv") and row["kv"]["dtype"] not in PLAIN  # its loss is not the method's alone
    if not row.get("baseline") or other_cache:
        return None
    if row["layout"] not in FORMATS:
        raise ValueError(f"{file}: layout={row['layout']}: unknown")
    own, bf16 = row["measured"], row["baseline"]
    streams = own["bench"].get("runs", {}).keys() & bf16["bench"].get("runs", {}).keys()
    texts = own["evaluate"].get("texts", {}).keys() & bf16["evaluate"].get("texts", {}).keys()
    return Measurement(
        file=file.name, model=row["model"], method=row["method"], layout=row["layout"],
        group_size=row["group_size"],
        hw=row["conditions"]["hw"], vllm=str(own["serve"].get("version", "?")), parameters=row["size"]["parameters"],
        experts=row.get("experts", False),
        least={int(c): own["bench"][RANGE][c][0] / bf16["bench"][RANGE][c][1] for c in streams},
        speed={int(c): _ratio(own["bench"]["runs"][c], bf16["bench"]["runs"][c], "output_throughput")
               for c in sorted(streams, key=int)},
        perplexity={t: 100 * (_ratio(own["evaluate"]["texts"][t], bf16["evaluate"]["texts"][t], "perplexity") - 1)
                    for t in sorted(texts)},
        experiment=(row.get("experiment") or {}).get("name", ""), online=row.get("online"),
    )  # fmt: skip


def _release(version: str) -> list[str]:
    """0.33 of 0.33.0 and of 0.33.1rc1."""
    return version.split(".")[:2]


def _ratio(own: dict[str, Any], bf16: dict[str, Any], key: str) -> float:
    return float(own[key]) / float(bf16[key])


def _capability(hw: str) -> str | None:
    file = option_files("hw").get(hw)
    capability = yaml.safe_load(file.read_text()).get("capability") if file else None
    return str(capability) if capability else None
