"""A model that brings its own code along is read with it by every stage where it is trusted, and by none where it is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import DENSE, checkpoint, in_quant
from support.command import ROOT
from support.jobs import job

from qforge.envs.request import Request
from qforge.stages import bench

CONFIG = '''"""A configuration that transformers does not know."""
from transformers import LlamaConfig


class OwnConfig(LlamaConfig):
    model_type = "own"
'''
MODEL = '''"""Llama under a name of its own."""
from transformers import LlamaForCausalLM

from .configuration_own import OwnConfig


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
'''
TOKENIZER = '''"""A tokenizer of its own."""
from transformers import PreTrainedTokenizerFast


class OwnTokenizer(PreTrainedTokenizerFast):
    pass
'''
SHORT = (
    "runtime=transformers", "eval.context=64", "eval.windows=2", "eval.divergence.windows=0", "eval.long_context.lengths=[128]",
    "eval.long_context.depths=[0.5]", "eval.tasks=[data/tasks/short_answers.yaml]", "eval.limit=2", "calib.sequences=2",
    "calib.length=64",
)  # fmt: skip


@pytest.fixture(scope="module")
def own(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint whose config, model and tokenizer are classes in its folder."""
    folder = checkpoint(tmp_path_factory.mktemp("own") / "model", DENSE, model, 1)
    config = {**DENSE, "model_type": "own", "architectures": ["OwnForCausalLM"], "vocab_size": DENSE["vocab_size"]}
    config["auto_map"] = {
        "AutoConfig": "configuration_own.OwnConfig",
        "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
    }
    (folder / "config.json").write_text(json.dumps(config))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {
        "tokenizer_class": "OwnTokenizer",
        "auto_map": {"AutoTokenizer": [None, "tokenization_own.OwnTokenizer"]},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    for name, text in (("configuration_own", CONFIG), ("modeling_own", MODEL), ("tokenization_own", TOKENIZER)):
        (folder / f"{name}.py").write_text(text)
    return folder


def answers(own: Path, folder: Path, trusted: bool) -> dict[str, Any]:
    folder.mkdir()
    made = job(*SHORT, f"model.trust_remote_code={str(trusted).lower()}")
    texts = {f"text {name}": str(ROOT / text.path) for name, text in made.calib.texts.items()}
    request = Request(made, str(folder), {"source": str(own), "artifact": str(own), **texts})
    request.write(folder / "request.json")
    done = in_quant(ROOT / "tests/support/remote_code.py", folder / "request.json")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def test_code_that_is_trusted_reaches_every_reader(own: Path, tmp_path: Path) -> None:
    found = answers(own, tmp_path / "trusted", trusted=True)
    assert found["calibrate"]["sequences"] == 2
    assert found["evaluate"]["texts"]["wikitext"]["perplexity"] > 1
    assert "short_answers" in next(iter(found["evaluate"]["tasks"]))
    assert found["evaluate"]["long_context"]["needles"]
    assert found["served"] == {"tokenizer": "OwnTokenizer", "max_length": 777}


def test_code_that_is_not_trusted_reaches_none(own: Path, tmp_path: Path) -> None:
    found = answers(own, tmp_path / "not", trusted=False)
    for stage in ("calibrate", "evaluate", "served"):
        assert "contains custom code" in found[stage]["refused"], stage


def test_vllm_bench_loads_the_tokenizer_with_it() -> None:
    for trusted in (True, False):
        made = job(f"model.trust_remote_code={str(trusted).lower()}")
        request = Request(made, "/out", {"artifact": "/model", "server_group": "1"}, server="http://127.0.0.1:1")
        assert ("--trust-remote-code" in bench.arguments(request, 1, seed=0)) is trusted


def test_one_function_reads_tokenizers_for_evaluation_and_stages() -> None:
    readers = [
        file.name
        for room in ("evaluation", "stages")
        for file in sorted((ROOT / "qforge" / room).glob("*.py"))
        if "AutoTokenizer.from_pretrained" in file.read_text()
    ]
    assert readers == ["tokenizer.py", "fetch.py"], "fetch reads a GGUF file, which has no code"
