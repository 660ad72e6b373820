"""bf16's own answers, scored by itself and by another model."""

from __future__ import annotations

import json

import pytest
from support.checkpoints import in_quant

# Three models of two layers: the first answers and scores itself; one with its weights and one with others score its answers.
SCRIPT = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from qforge.config.evaluation import Divergence, Eval, OwnAnswers
from qforge.envs.request import Request
from qforge.evaluation import divergence, own_answers, scorers
from qforge.evaluation.tokenizer import load

root = Path(sys.argv[1])
names = ["<s>", "<unk>", *(f"w{i}" for i in range(30))]
words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(names)}, "<unk>"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
(root / "prompts").write_text("w1 w2 w3\\nw4 w5\\nw6\\n")
settings = Eval(divergence=Divergence(1, 8), own_answers=OwnAnswers(str(root / "prompts"), 20))
job = SimpleNamespace(model=SimpleNamespace(trust_remote_code=False), eval=settings)
size = {"vocab_size": 32, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
found, first = {}, None
for name, seed in (("bf16", 0), ("same", 0), ("other", 1)):
    folder, out = root / name, root / f"{name}.out"
    out.mkdir()
    PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", unk_token="<unk>").save_pretrained(folder)
    torch.manual_seed(seed)
    LlamaForCausalLM(LlamaConfig(**size, initializer_range=0.5, eos_token_id=None)).save_pretrained(folder)
    request = Request(job, str(out), {"artifact": str(folder)})
    about, scores = own_answers.measure(settings, scorers.Transformers(request), load(str(folder), job), out, first)
    divergence.save(out, {own_answers.NAME: scores})
    first = first or str(out / own_answers.FILE)
    compared = divergence.compare(out, root / "bf16.out", [own_answers.NAME])[own_answers.NAME]
    found[name] = {**about, **compared, "scored": [len(one.losses) for one in scores]}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return json.loads(in_quant("-c", SCRIPT, tmp_path_factory.mktemp("own")).stdout.splitlines()[-1])


def test_all_score_the_same_answers_and_nothing_of_the_prompts(found: dict) -> None:
    assert found["bf16"]["answers"] == 3
    assert len({one["windows_sha256"] for one in found.values()}) == 1
    assert all(sum(one["scored"]) == one["tokens"] for one in found.values())


def test_the_same_weights_do_not_diverge_and_others_do_at_every_position(found: dict) -> None:
    assert found["same"]["kl"] == pytest.approx(0, abs=1e-9)
    assert found["same"]["top1_agreement"] == 1
    other = found["other"]
    assert other["kl"] > 0.1
    positions = other["positions"]
    assert sum(positions["tokens"]) == other["tokens"]
    assert sum(positions["kl"]) == pytest.approx(other["kl"] * other["tokens"])
