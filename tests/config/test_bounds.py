"""Every value has its bounds beside its field, and one walk checks them all."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterator
from dataclasses import is_dataclass
from types import UnionType
from typing import Any

import pytest
from support.jobs import job

from qforge.config import bounds
from qforge.config.bounds import BOUNDS
from qforge.config.job import Job
from qforge.pipeline.checks import check

COUNTED = (int, float, list, dict)


def parts(hint: Any) -> Iterator[Any]:
    """The types that a type hint is made of: of `dict[str, Rule] | None` dict, str, Rule and NoneType."""
    origin = typing.get_origin(hint)
    if origin not in (None, UnionType, typing.Union):
        yield origin
    for argument in typing.get_args(hint):
        yield from parts(argument)
    if origin is None:
        yield hint


def schemas(schema: type, seen: set[type]) -> set[type]:
    seen.add(schema)
    for hint in typing.get_type_hints(schema).values():
        for part in parts(hint):
            if is_dataclass(part) and part not in seen:
                schemas(typing.cast(type, part), seen)
    return seen


@pytest.mark.parametrize("schema", sorted(schemas(Job, set()), key=lambda schema: schema.__name__))
def test_every_number_list_and_dict_has_been_decided_about(schema: type) -> None:
    hints = typing.get_type_hints(schema)
    undecided = [
        each.name
        for each in dataclasses.fields(schema)
        if set(COUNTED) & set(parts(hints[each.name])) and BOUNDS not in each.metadata
    ]
    assert not undecided, f"{schema.__name__}: say bounded(...) or unbounded(...) for {undecided}"


def test_the_walk_finds_every_schema() -> None:
    assert {schema.__name__ for schema in schemas(Job, set())} >= {"Gguf", "Dataset", "Criterion", "ChatJudge", "Text"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("eval.limit=0", "eval.limit=0: at least 1 is needed; use eval.limit=1"),
        ("eval.judge.limit=-3", "eval.judge.limit=-3: at least 1 is needed; use eval.judge.limit=1"),
        ("runtime.start_timeout=-5", "runtime.start_timeout=-5: at least 1 is needed; use runtime.start_timeout=1"),
        ("bench.concurrency=[4,4]", "bench.concurrency=[4, 4]: each value may appear only once; use bench.concurrency=[4]"),
        ("bench.concurrency=[0,4]", "bench.concurrency=[0, 4]: at least 1 is needed for each; use bench.concurrency=[1, 4]"),
        ("bench.concurrency=[]", "bench.concurrency=[]: at least one entry is needed"),
        ("eval.stability.load_seconds=-1", "eval.stability.load_seconds=-1: at least 0 is needed"),
        ("stages=[]", "stages=[]: at least one entry is needed; give one, or leave stages out for the default"),
        ("stages=[serve,serve]", "stages=['serve', 'serve']: each value may appear only once; use stages=['serve']"),
        ("+hw.tflops.bf16=0", "hw.tflops.bf16=0.0: above 0 is needed; use hw.tflops.bf16=1"),
        ("hw.bandwidth_gbs=0", "hw.bandwidth_gbs=0.0: above 0 is needed; use hw.bandwidth_gbs=1"),
        ("hw.memory_gib=inf", "hw.memory_gib=inf: above 0 and at most 1000000000 is needed; use hw.memory_gib=1000000000"),
        ("eval.windows=1" + 400 * "0", "at least 1 and at most 1000000000 is needed; use eval.windows=1000000000"),
        ("model.name=''", "model.name='': is blank; give a text of one line"),
        ("model.name=' '", "model.name=' ': is blank"),
        ("runtime.env=''", "runtime.env='': is blank"),
        ("method.summary='a\nb'", "method.summary='a\\nb': has several lines; give a text of one line"),
        ("model.caution='\x1b[31m'", "has the character '\\x1b', which cannot be printed; remove it"),
        ("hw.name=" + 4097 * "x", "has 4097 characters; use 4096 at most"),
        ("eval.tasks=['']", "eval.tasks=['']: has a blank entry; remove it"),
        ("eval.lengths=[1.5]", "eval.lengths=[1.5]: above 0 and at most 1 is needed for each; use eval.lengths=[1]"),
        ("eval.long_context.depths=[2.0]", "eval.long_context.depths=[2.0]: at least 0 and at most 1 is needed for each"),
        ("eval.long_context.lengths=[100]", "is needed for each; use eval.long_context.lengths=[128]"),
        ("calib.texts.wikitext.weight=0", "calib.texts.wikitext.weight=0.0: above 0 is needed"),
        ("goals.latency.criteria.latency.concurrency=0", "goals.latency.criteria.latency.concurrency=0: at least 1 is needed"),
        ("exempt.lm_head.match=[]", "exempt.lm_head.match=[]: at least one entry is needed"),
        ("rescore=-1", "rescore=-1: at least 0 is needed; use rescore=0"),
    ],
)  # fmt: skip
def test_what_is_out_of_bounds_is_refused_with_its_key_and_a_fix(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check(job(override))


@pytest.mark.parametrize("key", ["gate.criteria", "eval.texts", "calib.texts"])
def test_what_must_not_be_empty(key: str) -> None:
    made = job()
    group, name = key.split(".")
    setattr(getattr(made, group), name, {})
    with pytest.raises(ValueError, match=re.escape(f"{key}={{}}: at least one entry is needed")):
        bounds.check(made)


@pytest.mark.parametrize("key", ["kv.dtype", "tracking.uri", "tracking.experiment"])
def test_a_blank_text_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=f"^{key}='': is blank; give a text of one line"):
        check(job(f"{key}=''"))
