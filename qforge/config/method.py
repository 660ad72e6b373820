"""How weights are quantized: a library's method, or several formats in one checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qforge.config.bounds import bounded, line, unbounded
from qforge.config.evaluation import MISSING

BF16 = "bf16"  # in method.formats: not quantized


@dataclass
class Scheme:
    """What a method makes of the part of a model that a mix gives it."""

    format: str = line(MISSING)  # a key of qforge.models.formats.FORMATS
    group_size: int | None = unbounded(None)  # the format decides which there are
    args: dict[str, Any] = unbounded(factory=dict)  # the method's own


@dataclass
class Method:
    name: str = line(MISSING)  # of its file in conf/method/
    summary: str = line(MISSING)  # one line for people, with the library and the paper
    format: str = line(MISSING)  # layout of the packed tensors, a key of qforge.models.formats.FORMATS
    env: str | None = line(None)  # managed environment of the library; none for bf16
    function: str | None = line(None)  # module:function that quantizes, by import path
    # the default of `group_size`, whose format decides; -1 is one scale per output channel
    group_size: int | None = unbounded(None)
    online: str | None = line(None)  # vLLM's --quantization of bf16 weights while it loads them: no checkpoint is made
    calibrated: bool = False  # whether it looks at calibration text
    streams: bool = False  # whether weights pass through a few megabytes at a time, with no model in memory
    unstacks: bool = False  # whether it takes experts apart that lie in one tensor of a layer (GPT-OSS)
    rescales: bool = False  # whether it folds scales into what it does not pack, which is then not the source's bits
    signed_scales: bool = False  # whether its scales may be negative, so that -8 steps reach what 7 do not
    model_types: list[str] = bounded(factory=list, unique=True)  # of config.json, that the library supports; empty: all
    # of these, the mixtures of experts; none: all, empty: no mixture
    mixtures: list[str] | None = bounded(None, unique=True)
    instead: str | None = line(None)  # archived upstream: the method to use instead, and the guide leaves this one out
    # the method that makes the same format by another exporter, for on_failure=fallback
    fallback: str | None = line(None)
    args: dict[str, Any] = unbounded(factory=dict)  # the library's own options, under its own names
    # of several formats in one checkpoint: a part of the model (a kind of matrix, the last part of a name, or what a rule of
    # exempt matches) -> a method whose weights stream, with a group size where the format has several (rtn:32), or bf16; of
    # entries that name the same matrix the last one counts, and what none names stays in bf16
    formats: dict[str, str] = bounded(factory=dict)
    # of a budget: the values among which method.formats is chosen by what each part of the model loses in each of them
    candidates: list[str] = bounded(factory=list, unique=True)
    # and what the checkpoint may have per weight, all of it counted
    bits: float | None = bounded(None, above=0, at_most=16)
    # what these methods make; read from conf/method/ by compose.py
    schemes: dict[str, Scheme] = unbounded(factory=dict)
