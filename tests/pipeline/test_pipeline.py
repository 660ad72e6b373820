"""The whole way on a real model: quantized, served by vLLM's CPU build, scored, timed, judged, reported, reused."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import psutil
import pytest
from support.command import QUICK, ROOT, Cli, Finished
from support.jobs import job

from qforge.envs.request import API_KEY, Request
from qforge.evaluation import chat_judge, divergence, mt_bench
from qforge.evaluation.scorers import Server
from qforge.json_files import read_json
from qforge.judge import goals
from qforge.store import provenance

pytestmark = pytest.mark.real
STAGE_FILES = ("plan", "quantize", "inspect", "serve", "evaluate", "bench", "verdict", "row")


def test_everything_is_there_and_says_what_was_measured(whole: Finished) -> None:
    for name in STAGE_FILES:
        assert (whole.folder / f"{name}.json").is_file(), name
    serve = whole.json("serve")
    assert serve["kernels"] == [
        "CPUWNA16LinearKernel for CompressedTensorsWNA16",
        "CPUWNA16LinearKernel for mixed-precision linear",
    ]
    assert "Paris" in serve["canary"]["answer"]
    assert serve["canary"]["same_twice"]
    assert serve["version"] == "0.32.0"
    bench = whole.json("bench")
    assert [len(runs) for runs in bench["runs"].values()] == [1, 1]
    for run in (run for runs in bench["runs"].values() for run in runs):
        assert run["output_throughput"] > 0
        assert 0 < run["p50_ttft_ms"] <= run["p95_ttft_ms"] <= run["p99_ttft_ms"] <= run["p99_e2el_ms"]
        assert 1 < run["peak_resident_gib"] < 8
        assert not [key for key in run if key.startswith("gpu")], "no GPU was there to ask"
    assert (serve["kv_cache_gib"], serve["kv_cache_dtype"]) == ("1.0", "auto")
    assert whole.output.strip().endswith(str(whole.folder))
    for name in ("serve", "bench"):
        assert "nanobind" not in (whole.folder / f"{name}.log").read_text(), "its list of what is frozen at the end"


def test_the_verdict_rests_on_bf16_under_the_same_conditions(whole: Finished) -> None:
    ours, theirs = whole.json("evaluate"), whole.json("bf16-evaluate")
    for name in ours["texts"]:
        assert ours["texts"][name]["windows_sha256"] == theirs["texts"][name]["windows_sha256"]
        assert ours["texts"][name]["perplexity"] > theirs["texts"][name]["perplexity"]
    verdict = whole.json("verdict")
    assert verdict["verdict"] in ("accept", "reject", "inconclusive")
    assert {c["criterion"] for c in verdict["criteria"]} == {"perplexity", "task"}
    assert [goal["criteria"][0]["verdict"] for goal in verdict["goals"].values()] == [
        "pass",
        "inconclusive",
        "inconclusive",
    ], "one repeat says nothing about speed"
    assert verdict["says"] in whole.output
    assert whole.json("row")["says"] == verdict["says"]


def test_the_distributions_differ_from_bf16s_and_bf16s_not_from_themselves(cli: Cli, whole: Finished) -> None:
    for name, text in whole.json("divergence")["texts"].items():
        assert text["tokens"] == 2 * 255
        assert 0.02 < text["kl"] < 2, name
        assert 0.5 < text["top1_agreement"] < 1
        # both are means over the same windows: the loss cannot differ by much more than the distributions do
        assert text["kl_p99"] > text["kl"]
    (folder,) = [f.parent for f in (cli.store / "evaluate").glob("*/result.json")
                 if f.parent.name == whole.json("bf16-evaluate")["key"]]  # fmt: skip
    for text in divergence.compare(folder, folder, list(whole.json("evaluate")["texts"])).values():
        assert (text["kl"], text["top1_agreement"]) == (0, 1)


def test_the_server_bears_load_and_speaks_the_same_language_twice(whole: Finished) -> None:
    for prefix in ("", "bf16-"):
        found = whole.json(f"{prefix}evaluate")["stability"]
        assert found["prompts"] == 16
        assert found["degenerate_share"] < 0.5
        assert found["differing_share"] < 0.5
        assert found["load"]["failed"] == 0, found["load"]["errors"]
        assert found["load"]["requests"] >= 4
        assert found["load"]["seconds"] >= 2


def test_the_same_again_runs_nothing_and_a_new_eval_quantizes_nothing(cli: Cli, whole: Finished) -> None:
    again = cli.succeed("method=rtn", *QUICK)
    assert not list(again.folder.glob("*.log"))
    for name in ("evaluate", "bench", "verdict"):
        assert again.json(name) == whole.json(name), name
    stages = "stages=[quantize,inspect,serve,evaluate,bench]"
    long = ("eval.long_context.lengths=[256,512]", "eval.kv_dtypes=[fp8]")
    other = cli.succeed("method=rtn", *QUICK, "eval.windows=2", "eval.tasks=[]", *long, stages)
    assert "= quantize" in other.output
    assert not (other.folder / "quantize.log").exists()
    assert not (other.folder / "bench.log").exists(), "bench was known; only evaluate needed the server"
    assert other.json("evaluate")["texts"]["wikitext"]["tokens"] == 2 * 255
    a_long_context_is_measured_for_each_kv_dtype(other)


def a_long_context_is_measured_for_each_kv_dtype(run: Finished) -> None:
    assert [run.json(f"{prefix}serve")["kv_cache_dtype"] for prefix in ("", "kv-fp8-")] == ["auto", "fp8"]
    auto, fp8 = run.json("evaluate")["long_context"], run.json("evaluate")["kv"]["fp8"]
    for found in (auto, fp8):
        assert {name: [len(row) for row in rows] for name, rows in found["needles"]["found"].items()} == {
            "noise": [3, 3],
            "python_reference": [3, 3],
        }
        assert found["perplexity"]["python_reference"]["tokens"] == 511
    assert auto["needles"]["prompts_sha256"] == fp8["needles"]["prompts_sha256"]
    pair = [found["perplexity"]["python_reference"]["perplexity"] for found in (auto, fp8)]
    assert pair[0] != pair[1], "8 bits are not 16"
    assert pair[0] == pytest.approx(pair[1], rel=0.2)


def test_server_and_transformers_agree(cli: Cli, whole: Finished) -> None:
    """Within 0.5 %: the packed weights that the kernel multiplies are those that the library unpacks."""
    direct = cli.succeed("method=rtn", *QUICK, "runtime=transformers")
    for prefix in ("", "bf16-"):
        served, unpacked = whole.json(f"{prefix}evaluate"), direct.json(f"{prefix}evaluate")
        assert (served["through"], unpacked["through"]) == ("server", "transformers")
        for name, text in served["texts"].items():
            assert text["perplexity"] == pytest.approx(unpacked["texts"][name]["perplexity"], rel=0.005)
    for name, text in whole.json("divergence")["texts"].items():
        assert text["kl"] == pytest.approx(direct.json("divergence")["texts"][name]["kl"], rel=0.1)
    assert "or without a server by runtime.timed=true" in direct.json("bench")["not_measured"]
    assert direct.json("verdict")["goals"]["throughput"]["criteria"][0]["verdict"] == "not_measured"


def test_nvfp4_on_a_cpu_is_scored_through_the_server_and_never_timed(cli: Cli) -> None:
    """ModelOpt's and llm-compressor's checkpoints are the same format: nearly the same numbers, by two exporters."""
    tiny = (*QUICK, "eval.tasks=[]", "stages=[quantize,inspect,serve,evaluate,bench]")
    found = {}
    for method in ("nvfp4", "nvfp4_llmc"):
        run = cli.succeed(f"method={method}", *tiny)
        assert run.json("bench")["not_measured"].startswith("emulated: vLLM has no NVFP4 kernel for CPUs")
        assert run.json("plan")["serving"]["how"] == "emulated"
        found[method] = run.json("evaluate")["texts"]["wikitext"]["perplexity"]
    assert found["nvfp4"] == pytest.approx(found["nvfp4_llmc"], rel=0.05)
    direct = cli.succeed("method=nvfp4_llmc", *tiny, "runtime=transformers")
    unpacked = direct.json("evaluate")["texts"]["wikitext"]["perplexity"]
    assert found["nvfp4_llmc"] == pytest.approx(unpacked, rel=0.005)


def test_the_artifact_is_complete_in_itself_and_verifies(cli: Cli, whole: Finished, tmp_path: Path) -> None:
    artifact = tmp_path / "moved"
    shutil.copytree(whole.folder / "artifact", artifact)
    for name in ("job", "plan", "quantize", "inspect", "evaluate", "verdict", "hashes"):
        assert (artifact / "qforge" / f"{name}.json").is_file(), name
    card = (artifact / "README.md").read_text()
    perplexity = whole.json("evaluate")["texts"]["python_reference"]["perplexity"]
    assert f"{perplexity:.4g}" in card
    assert f"**{whole.json('verdict')['says']}**" in card
    assert provenance.verify(artifact) == []
    assert cli(f"verify={artifact}").code == 0
    (artifact / "config.json").write_text("{}")
    (artifact / "tokenizer.json").unlink()
    (artifact / "new").touch()
    done = cli(f"verify={artifact}")
    assert done.code == 2
    for said in ("config.json: changed", "tokenizer.json: missing", "new: added since it was made"):
        assert said in done.output


def test_transformers_alone_opens_the_artifact(whole: Finished, tmp_path: Path) -> None:
    """No qforge on the path: what a user does with the folder."""
    code = """if True:
        import sys
        from transformers import AutoModelForCausalLM, AutoTokenizer
        tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
        model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
        chat = [{"role": "user", "content": "What is the capital of France?"}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        out = model.generate(**ids, max_new_tokens=24, do_sample=False)
        print(tokenizer.decode(out[0, ids["input_ids"].shape[1]:], skip_special_tokens=True))
        assert "qforge" not in sys.modules"""
    python = ROOT / ".venvs/quant/bin/python"
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    artifact = shutil.copytree(whole.folder / "artifact", tmp_path / "artifact")
    shutil.rmtree(artifact / "qforge")
    done = subprocess.run([python, "-c", code, artifact], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout


def test_the_report_shows_the_verdict_and_the_numbers(whole: Finished) -> None:
    page = (whole.folder / "report.html").read_text()
    verdict = whole.json("verdict")
    assert f'id="verdict">{goals.word(verdict)}<' in page
    for criterion in verdict["criteria"]:
        assert f"{criterion['value']:.4g}" in page, criterion
    addresses = set(re.findall(r"https?://[^\"'\s<]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xhtml"}, (
        "names of SVG and HTML, no network"
    )
    assert "python run.py" in page


# -- a server that stays


@pytest.fixture(scope="module")
def kept(cli: Cli, whole: Finished) -> Iterator[tuple[str, str, subprocess.Popen[str]]]:
    """serve.keep: base URL, key and process. Ended by Ctrl-C; no process may be left."""
    arguments, _ = cli.command(
        "stages=[serve]", "serve.keep=true", f"artifact={whole.folder / 'artifact'}", "serve.api_key=${oc.env:MY_KEY}"
    )
    environ = {**os.environ, "MY_KEY": "secret"}
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ)
    assert process.stdout
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("curl "):
            break
    assert lines[-1].startswith("curl "), "".join(lines)
    assert "Bearer $MY_KEY" in lines[-1], "the shell knows it"
    servers = psutil.Process(process.pid).children(recursive=True)
    assert any("EngineCore" in server.name() for server in servers)
    yield lines[-1].split()[1].removesuffix("/v1/chat/completions"), "secret", process
    process.send_signal(signal.SIGINT)
    rest = process.stdout.read()
    assert process.wait(60) == 130, rest
    assert not psutil.wait_procs(servers, 10)[1], "no server is left"
    assert "Traceback" not in rest


def test_the_openai_package_chats_with_it(kept: tuple[str, str, subprocess.Popen[str]]) -> None:
    url, key, _ = kept
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key)
    answer = client.chat.completions.create(
        model="model", temperature=0, max_tokens=32,
        messages=[{"role": "user", "content": "What is the capital of France?"}],
    )  # fmt: skip
    assert "Paris" in str(answer.choices[0].message.content)


def test_a_judge_behind_an_api_rates_the_answers(
    kept: tuple[str, str, subprocess.Popen[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The small model judges itself: the way works, its ratings mean nothing."""
    url, key, _ = kept
    made = job(
        f"eval.judge.base_url={url}/v1", "eval.judge.model=model", "eval.judge.limit=2",
        "eval.judge.answer_tokens=24", "eval.judge.judge_tokens=48",
    )  # fmt: skip
    monkeypatch.setenv(API_KEY, key)
    monkeypatch.setenv(chat_judge.KEY, key)
    server = Server(Request(made, "", server=url))
    found = mt_bench.measure(made.eval.judge, server, tmp_path, None)
    given = [value for turns in found["ratings"] for value in turns if value is not None]
    assert (found["questions"], [len(turns) for turns in found["ratings"]]) == (2, [2, 2])
    assert found["unrated"] == 4 - len(given)
    assert all(1 <= value <= 10 for value in given)
    monkeypatch.setenv(chat_judge.KEY, "wrong")
    with pytest.raises(ValueError, match=r"eval\.judge\.base_url=.*/v1: model 'model' does not answer: .*401"):
        chat_judge.Judge(made.eval.judge).greet()


def test_without_the_key_it_answers_nobody(kept: tuple[str, str, subprocess.Popen[str]]) -> None:
    for route in ("v1/models", "metrics", "docs", "openapi.json", "health", "version"):
        assert httpx.get(f"{kept[0]}/{route}").status_code == 401, route
    assert httpx.post(f"{kept[0]}/tokenize", json={"prompt": "a"}).status_code == 401
    assert httpx.get(f"{kept[0]}/metrics", headers={"Authorization": f"Bearer {kept[1]}"}).status_code == 200
    assert kept[0].startswith("http://127.0.0.1:")


def test_a_server_that_dies_is_diagnosed_not_waited_for(cli: Cli, whole: Finished) -> None:
    arguments, _ = cli.command("stages=[serve]", "serve.keep=true", f"artifact={whole.folder / 'artifact'}")
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("curl "):
                break
        (server,) = [p for p in psutil.Process(process.pid).children(recursive=True) if "EngineCore" in p.name()]
        server.kill()
        output = process.communicate(timeout=120)[0]
    assert process.returncode == 1, output
    assert "the server ended while it was used" in output
    assert "Traceback" not in output


def test_a_server_that_cannot_start_ends_with_a_diagnosis(cli: Cli, whole: Finished) -> None:
    started = time.monotonic()
    # vLLM's parser takes it; only loading shows that there is no such class
    done = cli("method=rtn", *QUICK, "+runtime.args.hf_overrides={architectures:[NovelForCausalLM]}")
    assert done.code == 1
    assert "the server ended while it started" in done.output
    assert "cause: Architecture unknown to this vLLM." in done.output
    assert "remedy: Upgrade, plugin, vllm-omni" in done.output
    assert time.monotonic() - started < 600, "it does not wait for the time-out"
    assert "Traceback" not in done.output


def test_a_sweep_runs_every_row(cli: Cli, whole: Finished, tmp_path: Path) -> None:
    command = [
        sys.executable, str(ROOT / "run.py"), "--multirun", f"hydra.sweep.dir={tmp_path}", f"store={cli.store}",
        "method=rtn", "eval=quick,default", "plan_only=true", "exempt=lm_head,boundary",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    plans = [read_json(file) for file in sorted(tmp_path.glob("*/plan.json"))]
    assert sorted(len(p["quantized"]) for p in plans) == [196, 196, 210, 210]
