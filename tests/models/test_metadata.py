"""Where a plan reads a model: a folder or an architecture file; the hub is in test_hub.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.checkpoints import small_llama
from support.command import Cli

from qforge.models.gemma_tokenizer import Kind, merges


def local(folder: Path, *more: str) -> tuple[str, ...]:
    return (
        "model=local",
        "model.name=tiny",
        f"model.path={folder}",
        "plan_only=true",
        "method=rtn",
        "group_size=32",
        *more,
    )


def test_a_folder_with_a_config_alone_can_be_planned(cli: Cli, tmp_path: Path) -> None:
    folder = small_llama(tmp_path / "model")
    whole = cli.succeed_inside(*local(folder)).json("plan")
    (folder / "model.safetensors").unlink()
    alone = cli.succeed_inside(*local(folder)).json("plan")
    assert alone["source"].endswith("config.json alone (there are no weights)")
    assert (alone["quantized"], alone["bytes"]) == (whole["quantized"], whole["bytes"])
    run = cli.inside(*local(folder, "plan_only=false"))
    assert run.code == 2
    assert "no *.safetensors file" in run.output


def test_code_of_the_models_own_is_refused_until_it_is_trusted(cli: Cli, tmp_path: Path) -> None:
    own = {"model_type": "mine", "auto_map": {"AutoModelForCausalLM": "modeling_mine.MineForCausalLM"}}
    folder = small_llama(tmp_path / "model", **own)
    done = cli.inside(*local(folder))
    assert done.code == 2
    assert "names Python code, which runs when the model is loaded: modeling_mine.MineForCausalLM" in done.output
    assert "model.trust_remote_code=true" in done.output
    (folder / "modeling_mine.py").write_text("")
    assert len(cli.succeed_inside(*local(folder, "model.trust_remote_code=true")).json("plan")["quantized"]) == 14


def test_an_unknown_architecture_is_refused_by_name(cli: Cli, tmp_path: Path) -> None:
    folder = small_llama(tmp_path / "model", model_type="mine")
    (folder / "model.safetensors").unlink()
    done = cli.inside(*local(folder))
    assert done.code == 2
    assert "model_type='mine' is not known; known architectures: " in done.output


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"[1]", "its safetensors header is not a JSON object"),
        (b'{"a": {"dtype": "BF16"}}', "its safetensors header is incomplete at a"),
    ],
)
def test_headers_that_say_nothing(cli: Cli, tmp_path: Path, header: bytes, message: str) -> None:
    folder = small_llama(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    done = cli.inside(*local(folder))
    assert done.code == 2
    assert message in done.output


def test_a_config_that_lacks_a_number(cli: Cli, tmp_path: Path) -> None:
    folder = small_llama(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    del config["num_attention_heads"]
    (folder / "config.json").write_text(json.dumps(config))
    done = cli.inside(*local(folder))
    assert done.code == 2
    assert "its config.json lacks num_attention_heads; use a complete one" in done.output


def test_merges_of_a_sentencepiece_model_are_in_the_order_of_the_scores() -> None:
    pieces = ["a", "b", "c", "ab", "bc", "abc", "\n", "\n\n", "\n\n\n", "<0x61>", "<eos>"]
    scores = [-9.0, -8.0, -7.0, -2.0, -1.0, -3.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    kinds = [*[Kind.normal] * 6, *[Kind.user_defined] * 3, 6, 3]
    newlines = [("\n", "\n"), ("\n", "\n\n"), ("\n\n", "\n")]
    assert merges(pieces, scores, kinds) == [*newlines, ("b", "c"), ("a", "b"), ("a", "bc"), ("ab", "c")]
