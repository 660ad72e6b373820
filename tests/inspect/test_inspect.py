"""Real artifacts, as made and as damaged: what inspect lets through and what it says."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.command import ROOT, Cli, Finished
from support.jobs import job

from qforge.inspect.inspect import inspect
from qforge.json_files import read_json
from qforge.models.checkpoint import headers
from qforge.plan import plan


def faults(artifact: Path, model: Path, *overrides: str) -> str:
    return "\n".join(inspect(artifact, plan.make(job(*overrides), model), model).faults)


@pytest.fixture
def copy(tmp_path: Path) -> Callable[[Finished], Path]:
    def make(run: Finished) -> Path:
        shutil.copytree(run.folder / "artifact", tmp_path / "copy")
        return tmp_path / "copy"

    return make


def edit_config(artifact: Path, change: Callable[[dict[str, Any]], None]) -> None:
    config = read_json(artifact / "config.json")
    change(config["quantization_config"])
    (artifact / "config.json").write_text(json.dumps(config))


def overwrite(artifact: Path, name: str, value: bytes, at: int = 0) -> None:
    """Write into one tensor of the checkpoint."""
    tensor = headers(artifact)[name]
    with tensor.file.open("r+b") as stream:
        stream.seek(tensor.offset + at)
        stream.write(value)


def test_real_artifacts_are_exactly_as_planned(cli: Cli, rtn: Finished, nvfp4: Finished, model: Path) -> None:
    for run, *overrides in ((rtn, "method=rtn"), (nvfp4, "method=nvfp4", "exempt=boundary")):
        artifact = run.folder / "artifact"
        assert faults(artifact, model, *overrides) == ""
        planned = plan.make(job(*overrides), model)
        assert sum(t.nbytes for t in headers(artifact).values()) == planned.bytes
        on_disk = (artifact / "model.safetensors").stat().st_size
        assert on_disk == pytest.approx(planned.bytes, rel=0.01)
        assert planned.bits_per_weight < 8 < 16


BRIEF = ("calib.sequences=2", "calib.length=64")  # the layout does not depend on how much was looked at


@pytest.mark.parametrize(  # gptq's run in test_bad_input.py is inspected in the same way
    "overrides",
    [
        ("method=fp8",),
        ("method=nvfp4_llmc",),
        ("method=awq", "method.args.AWQModifier.n_grid=1", *BRIEF),
    ],
)
def test_every_other_method_writes_the_bytes_that_were_planned(
    cli: Cli, model: Path, overrides: tuple[str, ...]
) -> None:
    run = cli.succeed(*overrides, "stages=[quantize,inspect]")
    planned = plan.make(job(*overrides), model)
    assert run.json("inspect")["bytes"] == planned.bytes
    assert (run.folder / "artifact/model.safetensors").stat().st_size == pytest.approx(planned.bytes, rel=0.01)


def test_plain_weights_under_a_quantization_config_are_the_66_gb_case(
    nvfp4: Finished, model: Path, copy: Callable[[Finished], Path]
) -> None:
    artifact = copy(nvfp4)
    (artifact / "model.safetensors").unlink()
    shutil.copyfile(model / "model.safetensors", artifact / "model.safetensors")
    said = faults(artifact, model, "method=nvfp4", "exempt=boundary")
    assert "not packed (196 of 196 modules that should be)" in said
    assert "0.27 GB on disk, 0.13 planned" in said
    assert "vLLM does not pack at load" in said
    assert "export_hf_checkpoint" in said


def test_the_command_line_refuses_it_too(
    cli: Cli, nvfp4: Finished, model: Path, copy: Callable[[Finished], Path]
) -> None:
    artifact = copy(nvfp4)
    (artifact / "model.safetensors").unlink()
    shutil.copyfile(model / "model.safetensors", artifact / "model.safetensors")
    done = cli("method=nvfp4", "exempt=boundary", f"artifact={artifact}")
    assert done.code == 1
    assert "is not what was planned" in done.output
    assert "vLLM does not pack at load" in done.output
    assert not (done.folder / "serve.json").exists()


NAN, ZEROS = b"\x7f", b"\0" * 4096  # 0x7f is NaN in FP8 E4M3
SCALE = "model.layers.3.mlp.down_proj.weight_scale"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (SCALE, NAN, f"scales: {SCALE} (NaN)"),
        (SCALE, ZEROS, f"{SCALE} (7.4% zero)"),
        ("model.layers.3.mlp.down_proj.weight_scale_2", b"\0\0\x80\x7f", "weight_scale_2 (infinite)"),
        ("model.layers.3.mlp.down_proj.weight_scale_2", b"\0\0\x80\x3f", "weights up to "),  # 1.0: far too large
        ("model.layers.4.input_layernorm.weight", b"\xc0\x7f", "not finite: model.layers.4.input_layernorm.weight"),
        ("model.layers.0.mlp.down_proj.weight", b"\x01\x02\x03", "changed: model.layers.0.mlp.down_proj.weight"),
        ("model.embed_tokens.weight", b"\x01\x02\x03", "changed: model.embed_tokens.weight"),
        ("model.norm.weight", b"\x01\x02\x03", "changed: model.norm.weight"),
    ],
)
def test_damage_to_one_tensor_is_named(
    nvfp4: Finished, model: Path, copy: Callable[[Finished], Path], name: str, value: bytes, said: str
) -> None:
    artifact = copy(nvfp4)
    weights = artifact / "model.safetensors"
    unlink_hard_link(weights)
    overwrite(artifact, name, value)
    assert said in faults(artifact, model, "method=nvfp4", "exempt=boundary")


def unlink_hard_link(file: Path) -> None:
    """The run's artifact shares its bytes with the store; damage only the copy."""
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content)


def test_another_plan_than_the_one_that_made_it(rtn: Finished, nvfp4: Finished, model: Path) -> None:
    said = faults(rtn.folder / "artifact", model, "method=rtn", "group_size=32")
    assert "dtype or shape: model.layers.0.mlp.down_proj.weight_scale is BF16[576, 24], planned BF16[576, 48]" in said
    said = faults(nvfp4.folder / "artifact", model, "method=nvfp4", "exempt=lm_head")
    assert "not packed (14 of 210 modules that should be)" in said
    said = faults(rtn.folder / "artifact", model, "method=rtn", "exempt=boundary")
    assert "missing: model.layers.0.mlp.down_proj.weight" in said
    assert "unexpected: model.layers.0.mlp.down_proj.weight_packed" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda q: q.update(quant_method="gptq"),
            "quantized by gptq (W4A16_NVFP4), in a layout that is not described here",
        ),
        (lambda q: q.update(ignore=["lm_head"]), "in bf16 but not ignored: model.layers.0.mlp.down_proj"),
        # ModelOpt's own spelling of "block 2" also means 20 to 29, by vLLM's matcher
        (lambda q: q["ignore"].append("model.layers.2*"), "ignored but packed: model.layers.2.mlp.down_proj"),
        (lambda q: q.update(ignore=["model.layers.0*", "model.layers.29*"]), "lm_head is not in the ignore list"),
    ],
)
def test_an_ignore_list_that_does_not_say_what_the_tensors_say(
    nvfp4: Finished, model: Path, copy: Callable[[Finished], Path], change: Callable[[dict[str, Any]], None], said: str
) -> None:
    artifact = copy(nvfp4)
    edit_config(artifact, change)
    assert said in faults(artifact, model, "method=nvfp4", "exempt=boundary")


def test_packed_values_are_what_round_to_nearest_gives(rtn: Finished, model: Path) -> None:
    """An independent look into the packed bits: llm-compressor's RTN on one matrix, unpacked by hand."""
    name = "model.layers.7.self_attn.o_proj"
    tensors = headers(rtn.folder / "artifact")
    packed = np.asarray(tensors[f"{name}.weight_packed"].read()).view(np.uint32)
    scale = np.asarray(tensors[f"{name}.weight_scale"].read()).astype(np.float32)
    weight = np.asarray(headers(model)[f"{name}.weight"].read()).astype(np.float32)
    nibbles = (packed[:, :, None] >> np.arange(0, 32, 4, dtype=np.uint32)) & 15
    quantized = nibbles.reshape(weight.shape).astype(np.float32) - 8
    restored = (quantized.reshape(*scale.shape, -1) * scale[:, :, None]).reshape(weight.shape)
    step = np.repeat(scale, weight.shape[1] // scale.shape[1], axis=1)
    assert np.abs(restored - weight).max() <= 1.01 * np.abs(step).max()
    assert np.abs(restored - weight).mean() < 0.35 * np.abs(step).mean()


def test_gemmas_norms_come_back_bit_for_bit(cli: Cli, model: Path, tmp_path: Path) -> None:
    """llm-compressor 0.14 adds 1 to them for calibration and takes it off again, which rounded every twentieth weight."""
    code = """if True:
        import sys, torch
        from transformers import Gemma3ForCausalLM, Gemma3TextConfig
        torch.manual_seed(0)
        config = Gemma3TextConfig(vocab_size=49152, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                                  num_attention_heads=2, num_key_value_heads=1, head_dim=32)
        made = Gemma3ForCausalLM(config).to(torch.bfloat16)
        for name, value in made.named_parameters():
            if value.ndim == 1:
                value.data = (10 * torch.rand(value.shape)).to(torch.bfloat16)
        made.save_pretrained(sys.argv[1])"""
    folder = tmp_path / "gemma"
    subprocess.run([ROOT / ".venvs/quant/bin/python", "-c", code, folder], check=True, capture_output=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(model / name, folder / name)
    in_memory = "method.function=qforge.methods.llmcompressor:quantize"
    given = ("model=local", "model.name=gemma", f"model.path={folder}", "method=rtn", "group_size=32", in_memory)
    done = cli.succeed(*given, "stages=[quantize,inspect]")
    assert done.json("inspect")["faults"] == []
