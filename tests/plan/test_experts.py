"""Calibration of a mixture: what is counted, whom the floor refuses, and that routers stay as they are."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import MOE, checkpoint, quantized
from support.command import Cli
from support.jobs import job

from qforge.inspect.inspect import inspect
from qforge.json_files import read_json
from qforge.models.checkpoint import headers
from qforge.pipeline.checks import check
from qforge.plan import experts, plan

CONFIG = {**MOE, "num_hidden_layers": 3, "num_experts": 8, "dtype": "bfloat16"}
METHODS = ("gptq", "awq", "nvfp4")


@pytest.fixture(scope="module")
def source(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Qwen3-MoE whose last expert of the second block is never chosen."""
    folder = checkpoint(tmp_path_factory.mktemp("moe") / "source", CONFIG, model, files=1)
    router = headers(folder)["model.layers.1.mlp.gate.weight"]
    rows = router.read().astype(np.float32)
    rows[1:6:2], rows[7] = -rows[0:6:2], 0  # three of the others are always above 0, and two are chosen
    with router.file.open("r+b") as file:
        file.seek(router.offset)
        file.write(rows.astype(router.read().dtype).tobytes())
    return folder


@pytest.fixture(scope="module")
def made(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The block in the middle, quantized: the other two are exempted."""
    return quantized("quant", source, tmp_path_factory.mktemp("made"), *METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_a_mixture_is_what_was_planned_and_its_routers_are_the_sources(
    source: Path, made: dict[str, Path], method: str
) -> None:
    wanted = job(
        "model=local", "model.name=x", f"model.path={source}", f"method={method}", "exempt=boundary", "hw=h100"
    )
    planned = plan.make(wanted, source)
    assert len(planned.quantized) == 4 + 3 * 8
    assert inspect(made[method], planned, source).faults == []
    for number in range(3):
        before, after = router(source, number), router(made[method], number)
        if method == "awq":  # scales it in bf16, against the norm before it
            assert np.abs(after - before).max() < 0.01 * np.abs(before).max()
        else:
            assert (after == before).all()


def router(folder: Path, block: int) -> np.ndarray:
    """What it makes of normed inputs: its rows, times the weights of the norm."""
    tensors, at = headers(folder), f"model.layers.{block}"
    gate, norm = (tensors[f"{at}.{name}.weight"] for name in ("mlp.gate", "post_attention_layernorm"))
    assert gate.dtype == "BF16"
    return gate.read().astype(np.float32) * norm.read().astype(np.float32)


def test_the_tokens_of_every_expert_are_counted_once(made: dict[str, Path]) -> None:
    found = read_json(made["gptq"].parent / "made.json")["experts"]
    assert found["sent"].keys() == {"model.layers.1.mlp"}, "those of the other blocks stay as they are"
    tokens = found["sent"]["model.layers.1.mlp"]
    assert sum(tokens) == 4 * 64 * 2, "two experts for each token of four sequences"
    assert tokens[7] == 0
    assert min(tokens[:7]) > 0
    assert found["shown"] == {"least": 256, "most": 256}, "llm-compressor shows every token to every expert"


def test_starved_experts_are_named_and_nothing_is_exported(cli: Cli, source: Path) -> None:
    asked = ("model=local", "model.name=moe", f"model.path={source}", "method=gptq", "hw=h100",
             "stages=[quantize,inspect,report]", "calib.sequences=16", "calib.length=64")  # fmt: skip
    refused = cli(*asked)
    assert refused.code == 2
    assert (
        "calib.expert_floor=32: of 1024 tokens of calibration fewer than that were sent to 1 of 24 experts: "
        "model.layers.1.mlp.experts.7 (0); nothing is exported. Use more sequences (calib.sequences)"
    ) in refused.output
    assert not (refused.folder / "artifact").exists()
    assert refused.json("row")["verdict"] == "refused"
    done = cli.succeed(*asked, "calib.expert_floor=0")
    assert "reused" in done.output
    counted = read_json(done.folder / "artifact/qforge/quantize.json")["experts"]
    assert counted["sent"]["model.layers.1.mlp"][7] == 0
    assert counted["tokens"] == 1024
    summary = done.json("row")["quantize"]["experts"]
    assert (summary["experts"], summary["least"], summary["starved"]) == (24, 0, 1)
    assert "1 of 24 experts" in (done.folder / "artifact/README.md").read_text()
    assert "1 of 24 experts" in (done.folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=gptq", "calib.sequences=4", "calib.length=64"],
         "calib.expert_floor=32: 4 sequences of 64 tokens, each sent to 8 of 128 experts, are 16 per expert; use "
         "calib.sequences=8 or more"),
        (["method=gptq", "calib.devices=2"], "calib.devices=2: the tokens sent to each expert are counted on one GPU only"),
        (["method=gptqmodel"], "qwen3_moe is a mixture of experts, and its library was run only on none; use method=gptq"),
        (["method=auto_gptq"], "its library supports llama, mistral, qwen2 only, and this is a qwen3_moe"),
        (["method=awq", "model=gpt_oss_20b", "group_size=32"],
         "gpt_oss is a mixture of experts, and its library was run only on qwen3_moe; use"),
        (["method=gptq", "model=mixtral_8x7b"], "not experts.N.w1, which vLLM needs; use method=rtn, fp8 or nvfp4_llmc"),
        (["method=nvfp4", "model=mixtral_8x7b"], "not experts.N.w1, which vLLM needs; use method=rtn, fp8 or nvfp4_llmc"),
    ],
)  # fmt: skip
def test_what_cannot_calibrate_a_mixture_is_refused_by_the_plan(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        plan.make(job("model=qwen3_30b_a3b", "hw=h200", *overrides), None)


@pytest.mark.parametrize(
    "overrides",
    [
        ["calib.expert_floor=0", "calib.sequences=1", "calib.length=8", "method=gptq"],
        ["calib.sequences=1", "method=rtn"],
        ["method=nvfp4_llmc", "model=mixtral_8x7b"],
        ["calib.sequences=1", "model=llama3_1_8b", "method=gptq"],
    ],
)
def test_the_floor_asks_nothing_of_others(overrides: list[str]) -> None:
    """Of who has switched it off, of methods that look at no data, of models without experts."""
    plan.make(job("model=qwen3_30b_a3b", "hw=h200", *overrides), None)


def test_the_first_of_many_starved_experts_are_named() -> None:
    counted = {
        "tokens": 256,
        "sent": {"a.mlp": [32, 31, 0, 200], "b.mlp": [1, 2, 3, 4]},
        "shown": {"least": 256, "most": 256},
    }
    calib = job().calib
    named = (
        "6 of 8 experts: a.mlp.experts.1 (31), a.mlp.experts.2 (0), b.mlp.experts.0 (1) and 3 more; nothing is exported"
    )
    with pytest.raises(ValueError, match=re.escape(named)):
        experts.refuse_starved(calib, counted)
    experts.refuse_starved(replace(calib, expert_floor=0), counted)
    experts.refuse_starved(calib, None)
    found = experts.summary(replace(calib, expert_floor=0), counted)
    assert (found["least"], found["median"], found["starved"], found["floor"]) == (0, 3.5, 6, 32)


def test_a_floor_below_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"calib\.expert_floor=-1: at least 0 is needed"):
        check(job("calib.expert_floor=-1"))
