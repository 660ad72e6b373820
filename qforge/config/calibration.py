"""What calibration shows to the model, as configured. What is made of it: stages/calibrate.py."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field

from qforge.config.evaluation import MISSING, Text

COMMIT = re.compile("[0-9a-f]{40}")


@dataclass
class Dataset:
    """A data set of the hub, or a folder that the datasets library loads: one column of its first rows."""

    name: str = MISSING
    revision: str | None = None  # of the hub: the commit, since a branch moves
    config: str | None = None  # the library's word for a part of it
    split: str = "train"
    column: str = "text"  # of strings or, for `chat`, of lists of messages
    rows: int = MISSING


@dataclass
class CalibrationText(Text):
    """A text that calibration shows to the model: a file, or a data set."""

    path: str = ""
    dataset: Dataset | None = None
    weight: float | None = None  # its share of the sequences; given for all texts, or none: then their lengths decide
    chat: bool = False  # whether it has a conversation per line, {"messages": [...]}, for the model's chat template


@dataclass
class Calibration:
    name: str = MISSING
    texts: dict[str, CalibrationText] = field(default_factory=dict)
    sequences: int = MISSING
    length: int = MISSING  # tokens of the longest sequence
    lengths: list[float] = field(default_factory=lambda: [1.0])  # of the sequences, in turn, as parts of `length`
    seed: int = 0
    devices: int = 1  # GPUs here that share sequences and, with GPTQ, matrices, by llm-compressor's DDP
    # tokens that the router must send to each expert of a mixture, or nothing is exported; 0: no floor. An estimated mean
    # square (what a scale or a Hessian's diagonal is made of) of 32 tokens is off by a quarter, sqrt(2 / 32), at best
    expert_floor: int = 32


def calib_files(calib: Calibration) -> dict[str, str]:
    """The files that calibration is told to read, by the key that names them."""
    return {f"calib.texts.{name}.path": text.path for name, text in calib.texts.items() if not text.dataset}


def check(calib: Calibration) -> None:
    """Refuse what no model could make right. Raises ValueError: what is wrong, the key, the fix."""
    if not calib.lengths or any(not 2 <= part * calib.length <= calib.length for part in calib.lengths):
        raise ValueError(
            f"calib.lengths={calib.lengths}: parts of calib.length={calib.length} are needed, each of 2 tokens or more and at "
            "most 1.0; for sequences of one length use [1.0]"
        )
    for name, text in calib.texts.items():
        if text.dataset:
            _check_dataset(f"calib.texts.{name}", text.path, text.dataset)
    weights = {name: text.weight for name, text in calib.texts.items()}
    weights_given = [weight for weight in weights.values() if weight is not None]
    if any(weight <= 0 for weight in weights_given) or 0 < len(weights_given) < len(weights):
        raise ValueError(
            f"calib.texts: weights {weights}: give every text one above 0, or none; leave a text out that is not wanted"
        )


def _check_dataset(key: str, path: str, dataset: Dataset) -> None:
    if path:
        raise ValueError(f"{key}: it has path={path} and dataset.name={dataset.name}; leave one out")
    if dataset.rows < 1:
        raise ValueError(f"{key}.dataset.rows={dataset.rows}: give 1 or more")
    if not os.path.isdir(os.path.expanduser(dataset.name)) and not COMMIT.fullmatch(dataset.revision or ""):
        raise ValueError(
            f"{key}.dataset.revision={dataset.revision}: give the commit of {dataset.name} (40 hexadecimal digits, under Files "
            "and History on the hub), so that the same command always uses the same text"
        )
