"""Somebody has decided of every value of a job which results it decides, and the keys say the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from support.checkpoints import DENSE, checkpoint
from support.jobs import job

from qforge.config.decides import DECIDES, PLAN, decided_by
from qforge.config.job import Job
from qforge.pipeline import artifact, calibrate, fetch, measure
from qforge.pipeline.run import Run
from qforge.plan import plan
from qforge.store.results import key_of

STAGES = {
    "fetch",
    "dataset",
    "calibrate",
    "kv_scales",
    "quantize",
    "sensitivity",
    "serve",
    "evaluate",
    "bench",
    "probe",
    "texts",
    "speak",
    "handed",
}


def names(kind: Any, name: str) -> Iterator[str]:
    """Every value that a job can have, by its name in the table."""
    kind = next((part for part in get_args(kind) if is_dataclass(part)), kind) if type(None) in get_args(kind) else kind
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        for field in fields(kind):
            yield from names(hints[field.name], f"{name}.{field.name}".lstrip("."))
    elif get_origin(kind) is dict and is_dataclass(get_args(kind)[1]):
        yield from names(get_args(kind)[1], f"{name}.*")
    else:
        yield name


def test_somebody_has_decided_about_every_value() -> None:
    every = set(names(Job, ""))
    assert sorted(every - DECIDES.keys()) == [], "say in qforge/config/decides.py which results it decides"
    assert sorted(DECIDES.keys() - every) == [], "there is no such value"
    assert {stage for stages in DECIDES.values() for stage in stages.split()} == STAGES | {PLAN}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text("{}")
    config = {**DENSE, "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    return checkpoint(tmp_path / "model", config, tmp_path, 1)


def keys(made: Job, source: Path, folder: Path) -> dict[str, str]:
    planned = plan.make(made, source)
    run = Run(made, folder)
    parts = {"quantize": artifact._key(run, planned, source), "fetch": fetch._key(run)}
    parts |= measure._keys(made, planned, "checkpoint")
    return {stage: key_of(part) for stage, part in parts.items()}


BASE = ("method=gptq", "model=local", "model.name=x", "group_size=32")


@pytest.mark.parametrize(
    ("override", "stages"),
    [
        ("model.trust_remote_code=true", {"fetch", "quantize", "serve", "evaluate", "bench"}),
        ("method.rescales=true", {"quantize"}),
        ("runtime.start_timeout=7", set()),
        ("+hw.tflops.bf16=1", set()),
        ("hw.bandwidth_gbs=7", set()),
        ("eval.texts.wikitext.licence=another", set()),
        ("calib.texts.wikitext.licence=another", set()),
        ("runtime.caution=another", set()),
        ("eval.windows=7", {"evaluate"}),
        ("bench.repeats=7", {"bench"}),
        ("+runtime.args.seed=7", {"serve", "evaluate", "bench"}),
        ("model.hub=another", {"fetch"}),
        ("eval.adaptive=true", set()),
        ("kv.name=another", set()),
        ("kv.dtype=bfloat16", {"serve", "evaluate", "bench"}),
    ],
)
def test_a_key_changes_with_what_decides_it_and_with_nothing_else(
    override: str, stages: set[str], source: Path, tmp_path: Path
) -> None:
    given = (*BASE, f"model.path={source}")
    before, after = (keys(job(*overrides), source, tmp_path) for overrides in (given, (*given, override)))
    assert {stage for stage in before if before[stage] != after[stage]} == stages


def test_values_are_known_by_their_keys() -> None:
    made = job("+runtime.args.seed=7", "calib=hub")
    assert decided_by(made, "serve")["runtime.args"]["seed"] == 7
    assert decided_by(made, "dataset")["calib.texts.ultrachat.dataset.rows"] == 256
    one = decided_by(made.calib.texts["ultrachat"], "dataset", "calib.texts.*")
    assert one["dataset.rows"] == 256
    assert one["chat"] is True
    texts = made.calib.texts
    assert calibrate._key(texts["ultrachat"]) == calibrate._key(replace(texts["ultrachat"], licence="another"))
