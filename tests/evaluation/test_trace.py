"""Traces of requests: what is read, what is refused, and what vLLM's benchmark is given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.command import ROOT, Cli
from support.jobs import job

from qforge.evaluation import trace
from qforge.evaluation.trace import Call

CONVERSATION = ROOT / "data" / "traces" / "conversation.jsonl"


def test_the_committed_trace_is_what_its_file_in_conf_says() -> None:
    found = trace.summary(trace.read(CONVERSATION, 4096, 1024))
    assert (found["requests"], round(found["shared_percent"])) == (800, 43)


def test_longer_requests_are_left_out_and_beginnings_that_are_shared_are_counted() -> None:
    calls = [Call(1024, 8, (0, 1)), Call(768, 4, (0, 2))]
    assert trace.summary(calls) == {
        "requests": 2, "mean_input_len": 896, "mean_output_len": 6, "shared_percent": 100 * 512 / 1792,
    }  # fmt: skip
    assert all(call.input_length <= 1000 and call.output_length <= 300 for call in trace.read(CONVERSATION, 1000, 300))


def test_no_measurement_finds_in_a_cache_what_another_has_sent(tmp_path: Path) -> None:
    ids = []
    for measurement in (0, 1, 1000):
        trace.write(file := tmp_path / "calls.jsonl", [Call(600, 40, (0, 7))], measurement)
        line = json.loads(file.read_text())
        assert (line["input_length"], line["output_length"], line["timestamp"]) == (600, 40, 0)
        ids += line["hash_ids"]
    assert len(set(ids)) == 6
    trace.write(file, [Call(600, 40, (0, 7))], 0, output_len=1)
    assert json.loads(file.read_text())["output_length"] == 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 1: Expecting property name"),
        ("[1]", "line 1: input_length and output_length are numbers of tokens, 1 or more"),
        ('{"input_length": 0, "output_length": 1, "hash_ids": []}', "line 1: input_length and output_length"),
        (
            '{"input_length": 513, "output_length": 1, "hash_ids": [1]}',
            "hash_ids is no list of 2 numbers from 0 to 999999",
        ),
        ('{"input_length": 1, "output_length": 1, "hash_ids": [-1]}', "hash_ids is no list of 1 numbers"),
        ('{"input_length": 9, "output_length": 9}', "hash_ids is no list of 1 numbers"),
    ],
)
def test_a_line_that_is_no_request_is_refused(line: str, says: str, tmp_path: Path) -> None:
    (file := tmp_path / "trace.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=r"bench\.trace: ") as refused:
        trace.read(file, 4096, 1024)
    assert says in str(refused.value)


def test_a_trace_is_refused_where_it_is_too_short_or_not_there(cli: Cli) -> None:
    refused = cli.inside("plan_only=true", "bench=conversation", "bench.concurrency=[128]")
    assert refused.code == 2
    assert "has 386 requests of at most bench.input_len=1536 tokens in" in refused.output
    missing = cli.inside("plan_only=true", "bench.trace=nowhere.jsonl")
    assert (missing.code, "bench.trace=nowhere.jsonl: no such file" in missing.output) == (2, True)


def test_the_first_requests_are_sent_as_many_as_bench_asks_for() -> None:
    bench = job("bench=conversation").bench
    assert [len(trace.asked(bench, streams)) for streams in (1, 8, 64)] == [4, 32, 256]
