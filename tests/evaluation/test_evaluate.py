"""The stage that evaluates, as a process, on a model of two layers without a server: questions, own answers, distributions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.checkpoints import in_quant
from support.jobs import job

from qforge.envs.request import Request
from qforge.evaluation import divergence, own_answers
from qforge.json_files import read_json

MODEL = """
import sys
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

names = ["<s>", "<unk>", *(f"w{i}" for i in range(30))]
words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(names)}, "<unk>"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", unk_token="<unk>").save_pretrained(sys.argv[1])
torch.manual_seed(0)
size = {"vocab_size": 32, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
LlamaForCausalLM(LlamaConfig(**size, initializer_range=0.5, eos_token_id=None)).save_pretrained(sys.argv[1])
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("evaluate")
    in_quant("-c", MODEL, folder / "model")
    (folder / "mine.jsonl").write_text(
        '{"question": "w1 w2", "answer": ["w3", "w4"]}\n{"question": "w5", "answer": "w6"}\n'
    )
    (folder / "prompts.txt").write_text("w1 w2 w3\nw4\n")
    made = job(
        "runtime=transformers", "eval=quick", "eval.context=16", f"eval.tasks=[{folder}/mine.jsonl]",
        f"eval.own_answers.prompts={folder}/prompts.txt", "eval.own_answers.tokens=8", "eval.divergence.top_k=8",
    )  # fmt: skip
    (out := folder / "out").mkdir()
    Request(made, str(out), {"artifact": str(folder / "model")}).write(out / "request.json")
    in_quant("-m", "qforge.stages.evaluate", out / "request.json")
    return out, read_json(out / "result.json")


def test_questions_of_ones_own_are_scored_without_a_template(found: tuple[Path, dict]) -> None:
    task = found[1]["tasks"]["mine"]
    assert (task["samples"], task["judged"]) == (2, "contains")
    assert set(task["metrics"]) == {"contains", "exact_match", "f1", "rougeL", "bleu"}
    assert len(task["per_sample"]["contains"]) == 2
    assert "asked" not in task
    assert found[1]["asking"] is None


def test_own_answers_lie_beside_the_texts(found: tuple[Path, dict]) -> None:
    out, result = found
    assert result["own_answers"]["answers"] == len(json.loads((out / own_answers.FILE).read_text())) == 2
    compared = divergence.compare(out, out, [*result["texts"], own_answers.NAME])
    assert compared[own_answers.NAME]["tokens"] == result["own_answers"]["tokens"]
    assert {text["kl"] for text in compared.values()} == {0}
