"""What is tried when the first way does not work: other exporters, other runtimes; each attempt recorded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.command import QUICK, Cli, Finished

from qforge.json_files import read_json

SHORT = (*QUICK, "eval.windows=1", "eval.tasks=[]")


def attempts(done: Finished) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((done.folder / "attempts.json").read_text())
    return found


def test_a_refused_method_falls_back_to_another_exporter(cli: Cli) -> None:
    """transformers does not read ModelOpt's checkpoints; llm-compressor writes the same format so that it does."""
    done = cli.succeed_inside("method=nvfp4", "runtime=transformers", "on_failure=fallback", "plan_only=true")
    first, second = attempts(done)
    assert (first["method"], first["outcome"], first["original_works"]) == ("nvfp4", "refused", True)
    assert "transformers does not read ModelOpt's packed checkpoints" in first["why"]
    assert (second["method"], second["outcome"]) == ("nvfp4_llmc", "taken")
    assert done.json("plan")["layout"] == "nvfp4"
    assert "the original works there\nnext: method=nvfp4_llmc" in done.output


def test_without_fallback_it_stops(cli: Cli) -> None:
    done = cli.inside("method=nvfp4", "runtime=transformers", "plan_only=true")
    assert done.code == 2
    assert not (done.folder / "attempts.json").exists()


def test_where_no_runtime_fits_each_says_why(cli: Cli) -> None:
    done = cli.inside("method=nvfp4", "runtime=[vllm,transformers]", "hw=cpu", "plan_only=true")
    assert done.code == 2
    assert "runtime=vllm is for nvidia, hw=cpu is cpu" in done.output
    assert "refused: method=nvfp4 hw=cpu: transformers does not read ModelOpt's packed checkpoints" in done.output
    assert [each["outcome"] for each in attempts(done)] == ["refused", "refused"]


def test_the_first_of_a_list_is_taken_where_it_fits(cli: Cli) -> None:
    done = cli.succeed_inside("runtime=[vllm_cpu,transformers]", "plan_only=true")
    (only,) = attempts(done)
    assert (only["runtime"], only["outcome"]) == ("vllm_cpu", "taken")


@pytest.mark.real
def test_a_checkpoint_that_was_never_packed_is_quantized_by_another_exporter(
    cli: Cli, model: Path, nvfp4: Finished, tmp_path: Path
) -> None:
    """bf16 weights under ModelOpt's config, a real case: it does not load, the original does, so it is made anew."""
    unpacked = tmp_path / "unpacked"
    shutil.copytree(model, unpacked)
    packed = read_json(nvfp4.folder / "artifact" / "config.json")
    (unpacked / "config.json").write_text(json.dumps(packed))
    done = cli.succeed(
        "method=nvfp4", f"artifact={unpacked}", "on_failure=fallback", "stages=[quantize,serve,evaluate]", *SHORT
    )
    first, second = attempts(done)
    assert (first["method"], first["outcome"], first["original_works"]) == ("nvfp4", "failed", True)
    assert first["diagnosis"]["remedy"] in first["why"]
    assert (second["method"], second["outcome"]) == ("nvfp4_llmc", "taken")
    assert (done.folder / "attempt-1" / "serve.log").exists()
    assert "Paris" in done.json("serve")["canary"]["answer"]


@pytest.mark.real
def test_a_runtime_that_does_not_load_the_original_either_gives_way_to_the_next(cli: Cli, rtn: Finished) -> None:
    """vLLM's parser takes the option, which then breaks its start whatever it serves; transformers does not look at it."""
    given = ("method=rtn", "runtime=[vllm_cpu,transformers]", "+runtime.args.load_format=pt")
    stopped = cli(*given, "stages=[quantize,serve,evaluate]", *SHORT)
    assert stopped.code == 1
    assert [each["outcome"] for each in attempts(stopped)] == ["failed"]
    done = cli.succeed(*given, "stages=[quantize,serve,evaluate]", *SHORT, "on_failure=fallback")
    first, second = attempts(done)
    assert (first["runtime"], first["outcome"]) == ("vllm_cpu", "failed")
    assert (second["runtime"], second["outcome"]) == ("transformers", "taken")
    assert done.json("evaluate")["through"] == "transformers"
