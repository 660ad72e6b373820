"""A model that answers NaN, infinity or nonsense beyond all guessing is called garbage, with the place where that begins."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
from support.checkpoints import DENSE, checkpoint, in_quant
from support.command import Cli

from qforge.envs.request import Failed
from qforge.evaluation import garbage
from qforge.evaluation.perplexity import summary
from qforge.json_files import to_json
from qforge.models.checkpoint import headers


class Somewhere:
    """A scorer that knows where."""

    def origin(self, window: list[int]) -> str:
        return f"it begins in block {len(window)}"


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ([[1.0, 2.0], [1.0, math.nan, math.nan]], r"the loss is nan from token 2 of window 2 of .*on; it begins in block 4"),
        ([[math.inf, 2.0], [1.0]], r"the loss is inf from token 1 of window 1 of wikitext on"),
        ([[2.0], [800.0, 900.0]], r"window 2 of wikitext has a loss of 850 nats per token; it begins in block 3"),
    ],
)  # fmt: skip
def test_losses_that_are_no_numbers_or_absurd_are_garbage(losses: list[list[float]], words: str) -> None:
    windows = [[0] * (len(window) + 1) for window in losses]
    with pytest.raises(Failed, match=f"the model is garbage: {words}"):
        garbage.refuse("wikitext", windows, losses, Somewhere())


def test_a_bad_model_is_no_garbage() -> None:
    worst = [[garbage.MOST] * 3]
    garbage.refuse("wikitext", [[0] * 4], worst, Somewhere())
    assert math.isfinite(summary(worst)["perplexity"])


def test_a_task_whose_metric_is_no_number() -> None:
    garbage.refuse_task("arc", {"acc": 0.5})
    with pytest.raises(Failed, match=r"eval\.tasks: acc of arc is nan: the model is garbage"):
        garbage.refuse_task("arc", {"acc": math.nan})


def test_a_result_that_is_no_json_says_where() -> None:
    with pytest.raises(ValueError, match=r"^texts\.wiki\.loss\.1 is not a finite number$"):
        to_json({"texts": {"wiki": {"loss": [1.0, math.nan]}}})


BROKEN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def broken(model: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A small model, and a copy with one NaN in block 1."""
    good = checkpoint(tmp_path / "good", DENSE, model, files=2)
    bad = tmp_path / "bad"
    shutil.copytree(good, bad)
    tensor = headers(bad)[BROKEN]
    with tensor.file.open("r+b") as stream:
        stream.seek(tensor.offset)
        stream.write(b"\xc0\x7f")
    return good, bad


def test_the_block_and_the_tensor_are_named(cli: Cli, broken: tuple[Path, Path]) -> None:
    good, bad = broken
    done = cli(
        "model=local", "model.name=tiny", f"model.path={good}", "method=bf16", f"artifact={bad}", "runtime=transformers",
        "stages=[evaluate]", "eval.windows=1", "eval.context=64", "eval.tasks=[]", "eval.divergence.windows=0",
    )  # fmt: skip
    assert done.code == 1, done.output
    said = " ".join(done.output.split())
    assert "evaluate failed: the model is garbage: the loss is nan from token 1 of window 1 of" in said
    assert "the first NaN or infinity comes out of model.layers.1.mlp.down_proj;" in said
    assert f"{BROKEN} in the checkpoint holds NaN or infinity" in said
    assert done.json("row")["verdict"] == "failed"


def test_a_range_that_overflows_is_told_from_a_damaged_tensor(broken: tuple[Path, Path], tmp_path: Path) -> None:
    good, bad = broken
    script = tmp_path / "script.py"
    script.write_text(
        "import json, sys, torch\nfrom pathlib import Path\nfrom transformers import AutoModelForCausalLM\n"
        "from qforge.evaluation import garbage\ngood, bad = sys.argv[1:]\n"
        "model = AutoModelForCausalLM.from_pretrained(good, dtype=torch.bfloat16)\n"
        "clean = garbage.in_model(model, [1, 2, 3])\n"
        "layer = model.model.layers[0]\nlayer.input_layernorm.weight.data.fill_(1)\n"
        "layer.self_attn.q_proj.weight.data.fill_(3e38)\n"
        "found = [clean, garbage.in_model(model, [1, 2, 3]), *(garbage.in_checkpoint(Path(f)) for f in (good, bad))]\n"
        "print(json.dumps(found))\n"
    )
    found = json.loads(in_quant(script, good, bad).stdout.splitlines()[-1])
    assert found[0] is None
    assert found[1] == "model.layers.0.self_attn.q_proj"
    assert found[2:] == [None, BROKEN]
