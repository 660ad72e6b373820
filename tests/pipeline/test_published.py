"""A model that is published quantized, from its folder to a verdict."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.checkpoints import DENSE, checkpoint, quantized
from support.command import Cli

from qforge.json_files import read_json
from qforge.models.checkpoint import headers

SHORT = ("eval=quick", "eval.windows=1", "eval.context=128", "eval.tasks=[]")


@pytest.fixture(scope="module")
def published(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model in INT8."""
    folder = tmp_path_factory.mktemp("published")
    plain = checkpoint(folder / "plain", DENSE, model, files=1)
    source = quantized("quant", plain, folder, "w8a8", overrides=["exempt=none"])["w8a8"]
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(model / name, source / name)
    return source


def of(source: Path, *overrides: str) -> tuple[str, ...]:
    return ("model=local", "model.name=published", f"model.path={source}", "hw=cpu", *overrides)


def test_what_is_quantized_again_is_judged_against_the_source_as_served(cli: Cli, published: Path) -> None:
    run = of(published, "method=rtn", "group_size=32", "runtime=transformers", *SHORT)
    done = cli.succeed_inside(*run, "stages=[quantize,inspect,evaluate,judge,report]")
    assert "source as served" in done.output
    scored, source = done.json("evaluate"), done.json("source-evaluate")
    for name, text in scored["texts"].items():
        assert text["windows_sha256"] == source["texts"][name]["windows_sha256"]
        assert text["perplexity"] != source["texts"][name]["perplexity"]
    assert not (done.folder / "bf16-evaluate.json").exists()
    assert "source as served" in (done.folder / "report.html").read_text()


def test_its_bf16_form_is_a_checkpoint(cli: Cli, published: Path) -> None:
    done = cli.succeed_inside(*of(published, "method=bf16", "stages=[quantize,inspect]"))
    artifact = done.folder / "artifact"
    assert "quantization_config" not in read_json(artifact / "config.json")
    assert {tensor.dtype for tensor in headers(artifact).values()} == {"BF16"}
    assert len(headers(artifact)) < len(headers(published)), "without scales"
