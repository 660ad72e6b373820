"""Multimodal models by libraries that know language models only: the text core out, quantized, and back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support.checkpoints import in_quant
from support.command import ROOT, Cli

from qforge.json_files import read_json, write_json
from qforge.models.architectures import CORES
from qforge.models.checkpoint import headers
from qforge.models.core import Core, renamed
from qforge.models.shards import copy_all

SCRIPT = ROOT / "tests/support/cores.py"
TYPES = ("qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "glm4v", "gemma3", "qwen3_omni_moe", "mistral3")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """Each type's core out and back; and the last one's with another rotary base."""
    return json.loads(
        in_quant(SCRIPT, tmp_path_factory.mktemp("cores"), "out_and_back", *TYPES).stdout.splitlines()[-1]
    )


@pytest.mark.parametrize("kind", TYPES)
def test_a_core_computes_what_the_whole_model_does_and_is_the_same_when_it_is_back(
    found: dict[str, dict], kind: str
) -> None:
    core = found[kind]
    assert core["kind"] == CORES.get(kind, core["kind"])
    assert core["compared"]["difference"] == 0
    assert core["lost"] == []
    stacked = [name for name in core["apart"] if ".experts." not in name]
    assert stacked == []


def test_what_the_type_does_not_say_is_found_by_the_logits(found: dict[str, dict]) -> None:
    """Qwen3-VL's routers normalize without a switch in its config.json; a qwen3_moe's is off by default."""
    assert found["qwen3_vl_moe"]["said"] == {"norm_topk_prob": True}
    assert len(found["qwen3_vl_moe"]["apart"]) == 3 * 4 * 3  # blocks, experts, matrices


def test_a_core_that_computes_something_else_is_refused(found: dict[str, dict]) -> None:
    assert found["otherwise"].keys() == {"refused"}
    assert (
        "as a mistral its text core computes something else: on 32 tokens its logits differ"
        in found["otherwise"]["refused"]
    )
    assert found["otherwise"]["refused"].endswith("use method=rtn, w8a8, fp8 or nvfp4_llmc, which need no model")


def test_gptq_on_a_multimodal_model(cli: Cli, model: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    in_quant(SCRIPT, source, "make", "mistral3", json.dumps({"vocab_size": 49152}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(model / name, source / name)
    done = cli.succeed_inside(
        "model=local", "model.name=tiny", f"model.path={source}", "method=gptq", "group_size=32", "exempt=boundary", "hw=h100",
        "runtime=vllm", "stages=[quantize,inspect]", "calib.sequences=4", "calib.length=64",
    )  # fmt: skip
    assert "the text core, a mistral, is quantized as a model of its own" in " ".join(done.output.split())
    assert done.json("core")["compared"]["difference"] == 0
    artifact, before = done.folder / "artifact", headers(source)
    after = headers(artifact)
    assert sum(name.endswith("weight_packed") for name in after) == 7  # of the block in the middle
    beside = [name for name in before if not name.startswith("language_model.")]
    assert len(beside) > 10
    assert all((after[name].read() == before[name].read()).all() for name in beside)
    (core,) = (cli.store / "core").glob(f"{done.json('core')['key']}/model")
    assert _apart(artifact, core, tmp_path / "core") == 0


def test_a_type_of_images_and_text_is_scored_by_transformers(cli: Cli, model: Path, tmp_path: Path) -> None:
    in_quant(SCRIPT, tmp_path, "make", "qwen2_5_vl", json.dumps({"vocab_size": 49152}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(model / name, tmp_path / name)
    done = cli.succeed_inside(
        "model=local", "model.name=tiny", f"model.path={tmp_path}", "method=rtn", "group_size=32", "hw=cpu",
        "runtime=transformers", "stages=[quantize,evaluate]", "eval=quick", "eval.windows=1", "eval.context=128",
        "eval.tasks=[]",
    )  # fmt: skip
    assert done.json("evaluate")["texts"]["wikitext"]["perplexity"] > 1000, "of random weights"
    assert len(done.json("evaluate")["unpacked"]) == 7, "one matrix of each kind is as the file says"


def _apart(artifact: Path, source: Path, folder: Path) -> float:
    """The largest difference of the logits of the artifact, opened as a multimodal model, and of the text core as GPTQ left
    it, opened as a causal one."""
    core = Core("language_model.model.", "language_model.lm_head", "mistral")
    tensors = {own: tensor for name, tensor in headers(artifact).items() if (own := core.inside(name))}
    folder.mkdir()
    copy_all(tensors, folder)
    quantization = read_json(artifact / "config.json")["quantization_config"]
    config = {
        **read_json(source / "config.json"),
        "quantization_config": renamed(quantization, core.all_inside(quantization["ignore"])),
    }
    write_json(folder / "config.json", config)
    return float(in_quant(SCRIPT, folder, "open", artifact, folder).stdout.splitlines()[-1])
