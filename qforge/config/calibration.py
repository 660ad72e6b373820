"""What calibration shows to the model, as configured. What is made of it: stages/calibrate.py."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from qforge.config.bounds import bounded, line, unbounded
from qforge.config.evaluation import MISSING, Text

COMMIT = re.compile("[0-9a-f]{40}")


@dataclass
class Dataset:
    """A data set of the hub, or a folder that the datasets library loads: one column of its first rows."""

    name: str = line(MISSING)  # on the hub, or the path of a folder
    revision: str | None = line(None)  # of the hub: the commit, since a branch moves
    config: str | None = line(None)  # the library's word for a part of it
    split: str = line("train")  # of it
    column: str = line("text")  # of strings or, for `chat`, of lists of messages
    rows: int = bounded(MISSING, at_least=1)  # the first so many


@dataclass
class CalibrationText(Text):
    """A text that calibration shows to the model: a file, or a data set."""

    path: str = ""  # a file of UTF-8; or a data set in its place
    dataset: Dataset | None = None
    # its share of the sequences; given for all texts, or none: then their lengths decide
    weight: float | None = bounded(None, above=0)
    chat: bool = False  # whether it has a conversation per line, {"messages": [...]}, for the model's chat template


@dataclass
class Calibration:
    name: str = line(MISSING)  # of its file in conf/calib/
    texts: dict[str, CalibrationText] = bounded(factory=dict, non_empty=True)
    sequences: int = bounded(MISSING, at_least=1)  # that the model is shown
    length: int = bounded(MISSING, at_least=2)  # tokens of the longest sequence
    # of the sequences, in turn, as parts of `length`
    lengths: list[float] = bounded(factory=lambda: [1.0], above=0, at_most=1, non_empty=True)
    seed: int = unbounded(0)  # Python's random takes every number
    # GPUs here that share sequences and, with GPTQ, matrices, by llm-compressor's DDP
    devices: int = bounded(1, at_least=1)
    # tokens that the router must send to each expert of a mixture, or nothing is exported; 0: no floor. An estimated mean
    # square (what a scale or a Hessian's diagonal is made of) of 32 tokens is off by a quarter, sqrt(2 / 32), at best
    expert_floor: int = bounded(32, at_least=0)


def calib_files(calib: Calibration) -> dict[str, str]:
    """The files that calibration is told to read, by the key that names them."""
    return {f"calib.texts.{name}.path": text.path for name, text in calib.texts.items() if not text.dataset}


def check(calib: Calibration) -> None:
    """Refuse what no model could make right. Raises ValueError: what is wrong, the key, the fix."""
    if any(part * calib.length < 2 for part in calib.lengths):
        raise ValueError(
            f"calib.lengths={calib.lengths}: each must be a part of calib.length={calib.length} and give 2 tokens or "
            "more; for sequences of one length use [1.0]"
        )
    for name, text in calib.texts.items():
        if text.dataset:
            _check_dataset(f"calib.texts.{name}", text.path, text.dataset)
    weights = {name: text.weight for name, text in calib.texts.items()}
    if None in weights.values() and set(weights.values()) != {None}:
        raise ValueError(
            f"calib.texts: weights {weights}: give every text a weight above 0, or give no weights; leave out unwanted texts"
        )


def _check_dataset(key: str, path: str, dataset: Dataset) -> None:
    if path:
        raise ValueError(f"{key}: it has path={path} and dataset.name={dataset.name}; leave one out")
    if not os.path.isdir(os.path.expanduser(dataset.name)) and not COMMIT.fullmatch(dataset.revision or ""):
        raise ValueError(
            f"{key}.dataset.revision={dataset.revision}: give the commit of {dataset.name} (40 hexadecimal digits, under Files "
            "and History on the hub), so that the same command always uses the same text"
        )
