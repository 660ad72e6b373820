"""The row of a job that left none itself: it was killed, ended before it knew what it was to do, or was only to plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from qforge.json_files import read_json, write_json
from qforge.plan import support_matrix
from qforge.report.plan_table import size as size_of
from qforge.report.row import command
from qforge.store import provenance

WITHOUT = ("plan_only", "verify", "serve.keep")  # a job that has one of these ends without a row


def leave(folder: Path, verdict: str, reason: str) -> None:
    """Write the row of a job that ends without a result; keeps one that is there."""
    if ends_with_a_row(folder) and not (folder / "row.json").exists():
        write_json(folder / "row.json", row(folder, verdict, reason))


def ends_with_a_row(folder: Path) -> bool:
    """Whether the job in this folder was to measure something."""
    config = _config(folder)
    return not any(OmegaConf.select(config, key) for key in WITHOUT)


def planned(folder: Path) -> dict[str, Any] | None:
    """The row of a job that only planned: size and how it would be served; none where it has no plan."""
    if not (folder / "plan.json").exists():
        return None
    plan = read_json(folder / "plan.json")
    how = ", ".join(
        filter(None, [size_of(plan["bytes"]), plan["serving"]["how"], support_matrix.kernels(plan["serving"])])
    )
    size = {key: plan[key] for key in ("parameters", "bytes", "bf16_bytes", "bits_per_weight")}
    return {**row(folder, "planned", ""), "failed": None, "planned": how, "size": size}


def row(folder: Path, verdict: str, reason: str) -> dict[str, Any]:
    """What is known of the job from what Hydra wrote down before it began."""
    config = _config(folder)
    model, method, group = (OmegaConf.select(config, key) for key in ("model.name", "method.name", "group_size"))
    experiment: Any = OmegaConf.select(config, "experiment")
    return {
        "model": model or "unknown", "method": method or "unknown", "group_size": group, "exempt": {},
        "experiment": OmegaConf.to_container(experiment) if experiment else None, "verdict": verdict, "criteria": [],
        "failed": {"reason": reason}, **provenance.now(), "command": command(folder),
    }  # fmt: skip


def _config(folder: Path) -> Any:
    file = folder / ".hydra" / "config.yaml"
    return OmegaConf.load(file) if file.exists() else OmegaConf.create()
