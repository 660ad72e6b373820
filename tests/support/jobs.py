"""Jobs of the committed configuration."""

from __future__ import annotations

from copy import deepcopy

from qforge.config.compose import compose
from qforge.config.job import Job
from qforge.config.places import CONF

NEEDED = {
    "exempt=from_sensitivity": ["sensitivity.budget_gib=0.01"],
    "model=local": ["model.name=x", "model.path=/x"],
    "runtime=existing": ["runtime.python=/x"],
    "runtime=container": ["runtime.container=x"],
    "runtime=container_ngc": ["hw=h100"],
    "runtime=container_rocm": ["hw=mi325x"],
    "runtime=container_thor": ["hw=thor"],
    "method=online_fp8": ["hw=h100"],
    "method=online_mxfp4": ["hw=h100"],
    "runtime=vllm": ["hw=h100"],
    "runtime=vllm_omni": ["hw=h100"],
}


def job(*overrides: str) -> Job:
    """The job of these overrides, with what some options cannot be without. Composed once, each time a copy."""
    return deepcopy(compose(CONF, *(e for o in overrides for e in NEEDED.get(o, [])), *overrides))
