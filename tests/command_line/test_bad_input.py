"""Bad input gets one clear message with the key and the fix, exit code 2, no traceback, nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from support.checkpoints import small_llama
from support.command import QUICK, Cli, Finished
from support.processes import processes_with, wait_for_output

from qforge.json_files import read_json
from qforge.models.checkpoint import Tensor
from qforge.models.shards import Shard


def refused(done: Finished, *words: str) -> None:
    assert done.code == 2, done.output
    assert "Traceback" not in done.output
    for word in words:
        assert word in done.output, done.output
    assert not list(done.folder.rglob("*.partial")) if done.folder.exists() else True


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["group_size=128"], ["group_size=128", "576 inputs, which 128 does not divide", "use group_size=32 or 64"]),
        (["group_size=16"], ["group_size=16", "int4 exists at group -1 or 32 or 64 or 128 only"]),
        (["method=nvfp4", "group_size=64"], ["group_size=64 method=nvfp4", "NVFP4 exists at group 16 only"]),
        (["method=nvfp4", "hw=mi325x"], ["Marlin, which ROCm does not have", "use method=gptq or method=awq"]),
        (["method=nvfp4", "runtime=transformers"], ["does not read ModelOpt's packed checkpoints", "method=nvfp4_llmc"]),
        (["hw=mi325x"], ["hw=mi325x: this machine has no amd GPU", "plan_only=true"]),
        (["method=fp8", "group_size=64"], ["group_size=64 method=fp8: fp8 has no groups"]),
        (["model=local", "model.name=x", "model.path=/no/such/folder"], ["model.path=/no/such/folder: no such folder"]),
        (["model=local", "model.name=x"], ["model=x: no config.json to plan from; give model.path=FOLDER"]),
        (["exempt=boundary", "exempt.first_block.match=[block:40]"], ["exempt.first_block: 'block:40' matches no module"]),
        (["exempt.lm_head.match=['re:.*q_proj']"], ["exempt.lm_head", "exempt all of them or none"]),
        (["artifact=/no/such/artifact"], ["artifact=/no/such/artifact: no checkpoint there"]),
        (["stages=[serve,evaluate]"], ["without quantize, say which checkpoint: artifact=PATH"]),
        (["verify=/tmp"], ["no qforge/hashes.json in it"]),
        (["runtime=existing", "runtime.python=/no/python"], ["runtime.python=/no/python: not an executable"]),
        (["calib.devices=2"], ["calib.devices=2: this machine has 0 NVIDIA GPUs"]),
        (["gate.criteria.task.metric=elo"], ["gate.criteria.task.metric=elo: unknown; choose from perplexity_increase"]),
    ],
)  # fmt: skip
def test_refusals(cli: Cli, model: Path, overrides: list[str], words: list[str]) -> None:
    refused(cli.inside(*overrides), *words)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["method=gptqq"], ["method=gptqq: there is no such option; did you mean gptq? choose from auto, "]),
        (["hydra.run.dir=/proc/nope"], ["hydra.run.dir: ", "give a folder that can be created"]),
        (["runtime.speech.devices=null"], ["runtime.speech.devices: runtime.speech is null here and has no such key"]),
        (["--multirun", "exempt=glob(nope*)"], ["--multirun: the values to sweep over give no job"]),
        (["group_size=128"], ["group_size=128", "576 inputs, which 128 does not divide", "use group_size=32 or 64"]),
    ],
)
def test_refusals_of_the_command_itself(cli: Cli, model: Path, overrides: list[str], words: list[str]) -> None:
    """What Hydra refuses, and the exit code of what qforge does."""
    refused(cli(*overrides), *words)


def test_what_serves_is_not_asked_for_where_nothing_is_served(cli: Cli, rtn: Finished) -> None:
    """Quantizing for an AMD GPU, whose runtime is an image, on a machine that has neither."""
    done = cli.succeed("method=rtn", "hw=mi325x", "stages=[quantize,inspect]")
    assert "runtime=container_rocm: " in done.output


def test_debug_shows_the_traceback(cli: Cli) -> None:
    done = cli("group_size=128", "debug=true")
    assert done.code == 2
    assert "Traceback" in done.output


def test_a_source_that_is_not_unpacked_is_refused_in_the_plan(cli: Cli, tmp_path: Path) -> None:
    folder = small_llama(tmp_path / "gptq", quantization_config={"quant_method": "gptq", "bits": 4})
    shard = Shard(folder / "model.safetensors", {"model.layers.0.mlp.up_proj.qweight": Tensor("I32", (8, 128))})
    shard.open()
    shard.close()
    done = cli.inside("model=local", "model.name=x", f"model.path={folder}", "method=rtn", "plan_only=true")
    refused(done, "it is quantized by GPTQ or AWQ (model.layers.0.mlp.up_proj.qweight)", "artifact=PATH")


def test_an_artifact_of_another_method_is_refused(cli: Cli, rtn: Finished) -> None:
    done = cli.inside("method=nvfp4", f"artifact={rtn.folder / 'artifact'}")
    refused(done, "its config.json says int4, method=nvfp4 makes nvfp4_modelopt")


def test_nvfp4_is_not_served_to_users_on_a_cpu(cli: Cli, nvfp4: Finished) -> None:
    done = cli.inside("stages=[serve]", "serve.keep=true", f"artifact={nvfp4.folder / 'artifact'}")
    refused(done, "serve.keep hw=cpu", "vLLM has no NVFP4 kernel for CPUs", "method=gptq")


def test_a_taken_port_is_refused(cli: Cli, rtn: Finished) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = cli.inside(
            "stages=[serve]", "serve.keep=true", f"artifact={rtn.folder / 'artifact'}", f"serve.port={port}"
        )
    refused(done, f"serve.port={port}: Address already in use; choose another")


def broken_copy(model: Path, folder: Path) -> Path:
    shutil.copytree(model, folder)
    return folder


def test_damaged_models(cli: Cli, model: Path, tmp_path: Path) -> None:
    def given(folder: Path, *words: str) -> None:
        refused(cli.inside("plan_only=true", "model=local", "model.name=x", f"model.path={folder}"), *words)

    truncated = broken_copy(model, tmp_path / "truncated")
    weights = truncated / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 1000)
    given(truncated, "model.safetensors", "truncated or corrupt at")

    garbage = broken_copy(model, tmp_path / "garbage")
    (garbage / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0not a json header.....")
    given(garbage, "its safetensors header is not JSON")

    pickled = broken_copy(model, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    given(pickled, "only pickled weights (pytorch_model.bin)", "convert them")

    empty = tmp_path / "empty"
    empty.mkdir()
    given(empty, "has no config.json")

    foreign = broken_copy(model, tmp_path / "foreign")
    index = {"weight_map": {"model.embed_tokens.weight": "other.safetensors"}}
    (foreign / "model.safetensors.index.json").write_text(json.dumps(index))
    given(foreign, "other.safetensors is missing: the download is incomplete")


def test_a_model_that_the_hub_does_not_give(cli: Cli) -> None:
    small = "model.architecture=data/architectures/smollm2_135m.json"  # its weights would find room on any disk
    named = ("model=local", "model.name=x", "model.hub=nobody/nothing", small)
    done = cli(*named, "stages=[quantize]", environ={"HF_HUB_OFFLINE": "1"})
    refused(done, "model.hub=nobody/nothing: HF_HUB_OFFLINE is set; this model is not", "model=local model.path=")


@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk(cli: Cli, model: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", disk]).returncode:
        pytest.skip("this root may not mount")
    try:
        before = cli(f"store={disk}", "method=rtn", "stages=[quantize]")
        refused(before, f"store={disk}: the disk has 0.21 GB free", "free some space or give another store=PATH")
        # room enough by the plan, and another process fills the disk meanwhile
        subprocess.run(["mount", "-o", "remount,size=900m", disk], check=True)
        arguments, folder = cli.command(f"store={disk}", "method=rtn", "stages=[quantize]")
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            while process.poll() is None and not list(disk.glob("fetch/*.partial")):
                time.sleep(0.01)
            subprocess.run(["fallocate", "-l", "730M", disk / "filler"], check=True)
            output = process.communicate()[0]
        refused(Finished(process.returncode, output, folder), "the disk is full")
        assert not list(disk.glob("*/*.partial"))
        assert not list(disk.glob("*/*/result.json"))
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_ctrl_c_ends_a_whole_sweep(cli: Cli, model: Path, tmp_path: Path) -> None:
    arguments, _ = cli.command("--multirun", "method=gptq", "calib.seed=7,8", f"hydra.sweep.dir={tmp_path}", *QUICK)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        wait_for_output(tmp_path / "0" / "quantize.log", "Calibrating", process)
        process.send_signal(signal.SIGINT)
        output = process.communicate()[0]
    assert process.returncode == 130, output
    assert output.count("interrupted") == 2, "said once, and once in the report"
    assert not (tmp_path / "1" / "plan.json").exists(), "the second row never began"
    assert [row["verdict"] for row in read_json(tmp_path / "sweep.json")["rows"]] == ["failed"], "it has a report"
    assert "interrupted; finished results are kept" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_an_interrupted_run_leaves_no_process_and_no_half_result(
    cli: Cli, model: Path, tmp_path: Path, sign: signal.Signals, code: int
) -> None:
    store = tmp_path / "store"
    shutil.copytree(cli.store / "fetch", store / "fetch")
    arguments, folder = cli.command(f"store={store}", "method=gptq", *QUICK)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        wait_for_output(folder / "quantize.log", "Calibrating", process)
        process.send_signal(sign)
        output = process.communicate()[0]
    assert process.returncode == code, output
    if sign == signal.SIGINT:
        assert "interrupted; finished results are kept" in output
        assert "Traceback" not in output
    deadline = time.monotonic() + 60
    while (left := processes_with(str(store))) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left
    assert not list((store / "quantize").glob("*/result.json"))
    assert list((store / "calibrate").glob("*/result.json")), "what was finished is kept"


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("+foo=1", "+foo"),
        ("+eval.texts.wikitext.licens=x", "+eval.texts.wikitext.licens"),
        ("+model.gpu=1", "+model.gpu"),
    ],
)
def test_a_key_that_is_added_and_that_nothing_reads(cli: Cli, override: str, key: str) -> None:
    refused(cli(override, "plan_only=true"), f"refused: {key}: no such key, and nothing would read it; choose from ")
