"""Every layout as its own library writes it, of a model of two blocks: the plan's tensors, one by one, as inspect sees them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import DENSE, checkpoint, quantized, tiny_job
from support.jobs import job

from qforge.envs import managed
from qforge.inspect.inspect import inspect
from qforge.inspect.rows import READERS, of
from qforge.json_files import read_json
from qforge.models import quantization_config
from qforge.models.checkpoint import headers, write_config
from qforge.plan import plan


@pytest.fixture(scope="module")
def source(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("tiny") / "source", {**DENSE, "num_hidden_layers": 3}, model, files=1)


SEARCHED = {"rtn": ("rtn_mse", "rtn_imatrix"), "nvfp4_llmc": ("nvfp4_llmc_mse", "nvfp4_llmc_imatrix")}
BY_LLM_COMPRESSOR = (  # of those that stream test_streaming.py has more
    "nvfp4_gptq", "nvfp4_w4a4", "fp8_block", *SEARCHED, *SEARCHED["rtn"], *SEARCHED["nvfp4_llmc"],
)  # fmt: skip
BY_MODELOPT = ("nvfp4", "nvfp4_mse", "nvfp4_four_over_six", "nvfp4_hessian")


@pytest.fixture(scope="module")
def made(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return quantized("quant", source, tmp_path_factory.mktemp("quant"), *BY_LLM_COMPRESSOR, *BY_MODELOPT)


def as_planned(source: Path, artifact: Path, method: str, *overrides: str) -> None:
    wanted = tiny_job(source, f"method={method}", *overrides)
    planned = plan.make(wanted, source)
    found = inspect(artifact, planned, source)
    assert found.faults == []
    assert found.bytes == planned.bytes
    assert found.checked["matrices whose scales were checked"] == len(planned.quantized) == 7  # the block in the middle
    config = read_json(artifact / "config.json")
    assert quantization_config.detect(config) == wanted.method.format
    assert quantization_config.group_size(config, wanted.method.format) == planned.group_size


@pytest.mark.parametrize("method", [*BY_LLM_COMPRESSOR, *BY_MODELOPT])
def test_the_tensors_are_those_of_the_plan(source: Path, made: dict[str, Path], method: str) -> None:
    as_planned(source, made[method], method)


@pytest.mark.libraries
@pytest.mark.parametrize(
    ("method", "overrides"),
    [
        ("gptqmodel", ()),
        ("gptqmodel_awq", ()),
        ("auto_gptq", ()),
        ("autoawq", ()),
        ("autoround", ("method.args.iters=20",)),
        ("bnb_nf4", ("runtime=transformers_bnb",)),
    ],
)
def test_the_tensors_of_a_library_with_an_environment_of_its_own(
    source: Path, tmp_path: Path, method: str, overrides: tuple[str, ...]
) -> None:
    env = str(job(f"method={method}").method.env)
    managed.managed(env)
    artifact = quantized(env, source, tmp_path, method, overrides=overrides)[method]
    as_planned(source, artifact, method, *overrides)
    if env in ("gptqmodel", "auto_gptq", "autoawq"):  # whose transformers spell a config in their own way
        config = read_json(artifact / "config.json")
        assert config == {**read_json(source / "config.json"), "quantization_config": config["quantization_config"]}
    if method.endswith("awq"):  # AutoAWQ 0.2.9 on a CPU scales the weights by more than the norm before them
        assert lost_by_awq(source, artifact) < 0.15


def lost_by_awq(source: Path, artifact: Path) -> float:
    """What four bits lose of a matrix and the norm before it together, as a part of both."""
    before, after, block = headers(source), headers(artifact), "model.layers.1"
    name, norm = f"{block}.self_attn.q_proj", f"{block}.input_layernorm.weight"

    def values(suffix: str) -> np.ndarray:
        """[rows, out_features]: eight of four bits to an integer, in AWQ's order."""
        packed = after[f"{name}.{suffix}"].read()[:, :, None] >> np.arange(0, 32, 4, dtype=np.int32) & 15
        return packed[:, :, [0, 4, 1, 5, 2, 6, 3, 7]].reshape(len(packed), -1).astype(np.float32)

    scales = after[f"{name}.scales"].read().astype(np.float32)
    group = len(values("qweight")) // len(scales)
    weight = (values("qweight") - values("qzeros").repeat(group, 0)) * scales.repeat(group, 0)
    wanted = (before[f"{name}.weight"].read() * before[norm].read()).astype(np.float32)
    return float(np.linalg.norm(weight.T * after[norm].read().astype(np.float32) - wanted) / np.linalg.norm(wanted))


def test_a_config_keeps_its_sources_spelling(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"rope_theta": 1.0, "rope_parameters": {"full_attention": {"rope_theta": 1.0}}}'
    )
    before = read_json(tmp_path / "config.json")
    write_config(tmp_path, tmp_path, {"quant_method": "gptq"})
    assert read_json(tmp_path / "config.json") == {**before, "quantization_config": {"quant_method": "gptq"}}


def test_a_search_for_scales_finds_better_ones(source: Path, made: dict[str, Path]) -> None:
    """By squared error of the weights; the local Hessian by that of the output, where the norm's weights size the inputs."""
    original, name = headers(source), "model.layers.1.self_attn.q_proj"
    weight = original[f"{name}.weight"].read().astype(np.float32)
    lost = {method: unpacked(made[method], name) - weight for method in BY_MODELOPT}
    squared = {method: float((loss**2).sum()) for method, loss in lost.items()}
    assert squared["nvfp4_mse"] < 0.9 * squared["nvfp4_four_over_six"] < 0.81 * squared["nvfp4"]
    sizes = original["model.layers.1.input_layernorm.weight"].read().astype(np.float32)
    assert ((lost["nvfp4_hessian"] * sizes) ** 2).sum() < 0.9 * ((lost["nvfp4_mse"] * sizes) ** 2).sum()


@pytest.mark.parametrize(("plain", "searched"), SEARCHED.items())
def test_an_observer_that_searches_finds_better_scales_of_the_same_bytes(
    source: Path, made: dict[str, Path], plain: str, searched: tuple[str, str]
) -> None:
    """By |e|^2.4; with the importance matrix by that where an input counts by its square, which the norm's weight decides."""
    original, name = headers(source), "model.layers.1.self_attn.q_proj"
    weight = original[f"{name}.weight"].read().astype(np.float32)
    norm = original["model.layers.1.input_layernorm.weight"].read().astype(np.float32)
    read = READERS[job(f"method={plain}").method.format]
    lost = {
        method: np.abs(read(of(name, headers(file)), np.arange(len(weight)), weight.shape[1]).values() - weight) ** 2.4
        for method, file in made.items()
        if method in (plain, *searched)
    }
    mse, imatrix = searched
    assert lost[mse].sum() < 0.95 * lost[plain].sum()
    assert (lost[imatrix] * norm**2).sum() < 0.97 * (lost[mse] * norm**2).sum()
    sizes = {method: {n: t.nbytes for n, t in headers(made[method]).items()} for method in lost}
    assert sizes[plain] == sizes[mse] == sizes[imatrix]


def unpacked(artifact: Path, name: str) -> np.ndarray:
    """ModelOpt's NVFP4: two values to a byte, the first in its low half; a scale per 16, times one of the matrix."""
    tensors = headers(artifact)
    grid = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    packed, scale = tensors[f"{name}.weight"].read(), tensors[f"{name}.weight_scale"].read().astype(np.float32)
    codes = np.stack([packed & 15, packed >> 4], -1).reshape(len(packed), -1)
    scale = np.repeat(scale * tensors[f"{name}.weight_scale_2"].read(), 16, axis=1)
    return np.concatenate([grid, -grid])[codes] * scale


def test_gptq_on_the_fp4_grid_keeps_the_global_scales_of_what_is_fused(made: dict[str, Path]) -> None:
    tensors = headers(made["nvfp4_gptq"])
    for fused in (["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], ["mlp.gate_proj", "mlp.up_proj"]):
        scales = {float(tensors[f"model.layers.1.{name}.weight_global_scale"].read()[0]) for name in fused}
        assert len(scales) == 1


@pytest.mark.parametrize(
    ("method", "tensor", "value", "said"),
    [
        ("nvfp4_w4a4", "input_global_scale", b"\0\0\xc0\x7f", "input_global_scale (NaN)"),
        ("fp8_block", "weight_scale", b"\xc0\x7f", "weight_scale (NaN)"),
        ("fp8_block", "weight_scale", b"\x80\x43", "weights up to"),  # 256
    ],
)
def test_damaged_scales_are_named(
    source: Path, made: dict[str, Path], tmp_path: Path, method: str, tensor: str, value: bytes, said: str
) -> None:
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes((made[method] / file).read_bytes())
    scale = headers(tmp_path)[f"model.layers.1.mlp.down_proj.{tensor}"]
    with scale.file.open("r+b") as stream:
        stream.seek(scale.offset)
        stream.write(value)
    assert said in "\n".join(inspect(tmp_path, plan.make(tiny_job(source, f"method={method}"), source), source).faults)
