"""Models that are published quantized: what they are unpacked, and what is quantized again from them."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.checkpoints import DENSE, checkpoint, in_quant, quantized, tiny_job
from support.command import ROOT

from qforge.envs.request import Request
from qforge.inspect.inspect import inspect
from qforge.json_files import read_json
from qforge.models import metadata
from qforge.models.checkpoint import headers
from qforge.plan import plan

DEEPSEEK = {
    **DENSE, "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "num_key_value_heads": 4,
    "vocab_size": 512, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 192,
    "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "q_lora_rank": 128, "kv_lora_rank": 64, "v_head_dim": 64,
    "qk_rope_head_dim": 32, "qk_nope_head_dim": 32, "num_nextn_predict_layers": 0,
}  # fmt: skip
MADE = ("rtn", "nvfp4_llmc", "w8a8", "fp8", "mxfp4")
METHODS = (("nvfp4_llmc",), ("rtn", "group_size=32"))
KINDS = {"fp8_block", "fp8_block_ue8m0", "fp8_tensor", "int4_asym", "nvfp4_modelopt", "mxfp4_gpt_oss", *MADE}


def overrides(method: tuple[str, ...]) -> tuple[str, ...]:
    return (f"method={method[0]}", *method[1:], "exempt=none")


@pytest.fixture(scope="module")
def published(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a source of each kind."""
    folder = tmp_path_factory.mktemp("published")
    plain = checkpoint(folder / "plain", {**DENSE, "vocab_size": 512}, model, files=2)
    deepseek = checkpoint(folder / "deepseek", DEEPSEEK, model, files=2)
    quantized("quant", plain, folder, *MADE, overrides=["exempt=none"])
    for method in MADE:
        (folder / method).rename(folder / f"{method}.made")
        (folder / f"{method}.made" / "artifact").rename(folder / method)
    in_quant(ROOT / "tests" / "support" / "published.py", folder, plain, deepseek)
    return folder


@pytest.fixture(scope="module")
def requantized(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By kind and method: the source unpacked (plain), quantized (stream), and both one after the other (plain_stream)."""
    out, requests = tmp_path_factory.mktemp("requantized"), []
    for kind in sorted(KINDS):
        for method in ("nvfp4_llmc", "rtn"):
            where = out / f"{kind}-{method}"
            where.mkdir()
            job = tiny_job(
                published / kind, f"method={method}", "exempt=none", *(("group_size=32",) if method == "rtn" else ())
            )
            planned = plan.make(job, published / kind)
            inputs = {"source": str(published / kind)}
            Request(job, str(where), inputs, planned.ignore).write(where / "request.json")
            requests.append(where / "request.json")
    in_quant(ROOT / "tests" / "support" / "requantized.py", *requests)
    return out


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_source_is_quantized_again_as_its_bf16_form_is(kind: str, published: Path, requantized: Path) -> None:
    """Byte for byte; that form is the one of the libraries' own code (tests/support/requantized.py holds both together)."""
    source = published / kind
    for method in METHODS:
        out = requantized / f"{kind}-{method[0]}"
        planned = plan.make(tiny_job(source, *overrides(method)), source)
        again, plain = (contents(out / name / "artifact") for name in ("stream", "plain_stream"))
        assert again == plain
        assert sum(len(data) for _, _, data in again.values()) == planned.bytes
        report = inspect(out / "stream" / "artifact", planned, source)
        assert report.faults == []
        assert "quantization_config" in read_json(out / "stream" / "artifact" / "config.json")
    unpacked = read_json(out / "plain" / "artifact" / "config.json")
    assert "quantization_config" not in unpacked
    tensors = headers(out / "plain" / "artifact")
    wanted = metadata.read(tiny_job(source).model, source).tensors
    assert {name: (t.dtype, t.shape) for name, t in tensors.items()} == {
        n: (t.dtype, t.shape) for n, t in wanted.items()
    }


def contents(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {name: (t.dtype, t.shape, t.read().tobytes()) for name, t in headers(folder).items()}
