"""Qwen3-Omni in small, made here: its tokenizer, and its thinker quantized, all else byte for byte."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.command import ROOT, Cli, Finished
from support.jobs import job

from qforge.config.job import Job
from qforge.envs import managed
from qforge.envs.request import Request
from qforge.json_files import read_json
from qforge.models.checkpoint import headers
from qforge.report import engines

SPEAKS = ("model=qwen3_omni_tiny", "method=rtn", "runtime=vllm_omni")

TOKENS = """
import json, sys
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
text = open(sys.argv[2]).read()
ids = tokenizer(text)["input_ids"]
chat = [{"role": "user", "content": [{"type": "audio"}, {"type": "image"}, {"type": "text", "text": "Hi"}]}]
said = tokenizer.apply_chat_template(chat, add_generation_prompt=True)
print(json.dumps([tokenizer.decode(ids) == text, len(ids) / len(text.split()), said["input_ids"]]))
"""


@pytest.fixture(scope="session")
def omni_rtn(cli: Cli) -> Finished:
    """The thinker by a stream."""
    return cli.succeed("model=qwen3_omni_tiny", "method=rtn", "hw=h100", "stages=[quantize,inspect]")


@pytest.fixture(scope="session")
def omni(cli: Cli, omni_rtn: Finished) -> Path:
    """The folder of qwen3_omni_tiny."""
    configs = (cli.store / "fetch").glob("*/model/config.json")
    return next(file.parent for file in configs if read_json(file)["model_type"] == "qwen3_omni_moe")


def test_its_tokenizer_is_qwens(omni: Path) -> None:
    text = ROOT / "data/texts/python_reference.txt"
    done = subprocess.run(
        [managed.managed("quant").python, "-c", TOKENS, omni, text], capture_output=True, text=True, check=True
    )
    same, per_word, chat = json.loads(done.stdout)
    assert same
    assert 1 < per_word < 2
    # the turn of a user: sound, a picture, Hi; then where the answer begins
    hears, sees = [151669, 151675, 151670], [151652, 151655, 151653]
    assert chat == [151644, 872, 198, *hears, *sees, 13048, 151645, 198, 151644, 77091, 198]


def test_all_but_the_thinkers_text_is_the_source_byte_for_byte(omni: Path, omni_rtn: Finished) -> None:
    assert unchanged(omni, omni_rtn) == {
        "thinker.audio_tower",
        "thinker.visual",
        "talker",
        "code2wav",
        "thinker.lm_head",
    }


def test_each_engine_reads_its_list_of_exempted_modules_right(omni_rtn: Finished) -> None:
    inspected = omni_rtn.json("inspect")
    assert not inspected["faults"]
    read = {name: count for name, count in inspected["checked"].items() if name.startswith("modules of thinker")}
    engines = {"vLLM": 116, "vLLM-Omni": 182, "vLLM-Omni before 0.28": 182}  # the latter two load the talker
    assert read == {
        f"modules of thinker and talker that {engine} builds by the list": n for engine, n in engines.items()
    }


def test_what_the_talker_is_handed_is_compared_with_the_sources(omni: Path, omni_rtn: Finished, tmp_path: Path) -> None:
    found = ran("handed", job(*SPEAKS), tmp_path, source=omni, artifact=omni_rtn.folder / "artifact")
    assert (found["layer"], found["tokens"]) == (2, 168)
    assert 0 < found["least"] < found["mean"] < 1
    assert found["mean"] > 0.8  # rounding, and no other weights
    assert not (tmp_path / "unpacked").exists()


def test_transformers_generates_with_the_thinker_alone(omni: Path, tmp_path: Path) -> None:
    small = ("bench=quick", "bench.concurrency=[1,2]", "bench.input_len=4", "bench.output_len=3")
    found = ran("generate", job(*SPEAKS, *small), tmp_path, artifact=omni)
    assert found["tool"] == engines.LIBRARY
    for streams, (run,) in found["runs"].items():
        seconds = run["mean_e2el_ms"] / 1000
        assert run["output_throughput"] == pytest.approx(3 * int(streams) / seconds)
        assert run["mean_ttft_ms"] + 2 * run["mean_tpot_ms"] == pytest.approx(run["mean_e2el_ms"])
        assert run["peak_resident_gib"] > 0


def ran(stage: str, made: Job, out: Path, **inputs: Path) -> dict[str, Any]:
    """The result of a stage, run by itself in the quantizer's environment."""
    Request(made, str(out), {name: str(path) for name, path in inputs.items()}).write(out / "request.json")
    command = [managed.managed("quant").python, "-m", f"qforge.stages.{stage}", out / "request.json"]
    subprocess.run(command, check=True, cwd=ROOT)
    result: dict[str, Any] = read_json(out / "result.json")
    return result


@pytest.mark.real
def test_vllm_serves_the_thinker_and_it_answers_to_a_sound_and_an_image(cli: Cli, omni: Path) -> None:
    served = cli.succeed("model=qwen3_omni_tiny", "method=bf16", "stages=[serve]").json("serve")
    assert served["canary"]["same_twice"]
    assert {name: asked["tokens"] > 0 for name, asked in served["multimodal"].items()} == {"audio": True, "image": True}


def unchanged(source: Path, run: Finished) -> set[str]:
    """The parts of the model of which every tensor is the source's, byte for byte."""
    ours, theirs = headers(run.folder / "artifact"), headers(source)
    parts: dict[str, set[bool]] = {}
    for name, tensor in theirs.items():
        part = ".".join(name.split(".")[: 2 if name.startswith("thinker.") else 1])
        same = name in ours and ours[name].dtype == tensor.dtype and (ours[name].read() == tensor.read()).all()
        parts.setdefault(part, set()).add(bool(same))
    return {part for part, same in parts.items() if same == {True}}
