"""Which parts of a model lose most: what is measured, what a kill leaves of it, and what a budget buys."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import subprocess
from pathlib import Path
from statistics import fmean

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.checkpoints import DENSE, MOE, checkpoint, in_quant, tree
from support.checkpoints import local_job as of_folder
from support.command import ROOT, Cli, Finished
from support.jobs import job
from support.processes import processes_with, until, wait_for

from qforge.config.job import Rule, Unit
from qforge.envs.request import Request
from qforge.json_files import read_json
from qforge.methods.rounding import recipe
from qforge.models.checkpoint import Tensor, headers, tensor_bytes
from qforge.models.formats import FORMATS
from qforge.models.modules import BLOCK
from qforge.models.parts import parts
from qforge.models.shards import Shard
from qforge.pipeline.checks import check
from qforge.plan import plan, sensitivity
from qforge.plan.exemptions import exempted
from qforge.plan.sensitivity import Loss, choose

SPOILED = "model.layers.2.mlp.down_proj"
BUDGET = 0.004  # GiB
FEW = (
    "method=rtn", "model=local", "model.name=spoiled", "sensitivity.windows=1", "sensitivity.length=128",
    "exempt=from_sensitivity", f"sensitivity.budget_gib={BUDGET}", "stages=[quantize,inspect,report]",
)  # fmt: skip


@pytest.fixture(scope="module")
def spoiled(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four blocks of the demo model with one matrix that 4 bits ruin, and the same outputs in bf16.

    One input of each group of down_proj is 16 times as large, so that the others round to nothing; up_proj gives a 16th of it.
    """
    folder = first_blocks(model, tmp_path_factory.mktemp("spoiled") / "model")
    for name, rows, by in ((SPOILED, slice(None), 16), ("model.layers.2.mlp.up_proj", slice(None, None, 64), 1 / 16)):
        tensor = headers(folder)[f"{name}.weight"]
        weights = np.memmap(tensor.file, ml_dtypes.bfloat16, "r+", tensor.offset, tensor.shape)
        columns = slice(None, None, 64) if by > 1 else slice(None)
        weights[rows, columns] *= ml_dtypes.bfloat16(by)
        weights.flush()
    return folder


def first_blocks(model: Path, folder: Path) -> Path:
    """Its first four blocks: enough here."""
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    kept = {n: t for n, t in headers(model).items() if not (block := BLOCK.search(n)) or int(block[1]) < 4}
    shard = Shard(folder / "model.safetensors", {name: Tensor(t.dtype, t.shape) for name, t in kept.items()})
    shard.open()
    for name, tensor in kept.items():
        shard.put(name, memoryview(np.ascontiguousarray(tensor.read()).reshape(-1).view(np.uint8)))
    shard.close()
    config = read_json(folder / "config.json")
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}))
    return folder


def test_a_killed_measurement_goes_on_and_its_choice_is_quantized(cli: Cli, spoiled: Path, tmp_path: Path) -> None:
    overrides = (*FEW, f"model.path={spoiled}", f"store={tmp_path / 'store'}")
    command, _ = cli.command(*overrides)
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journals = tmp_path / "store" / "sensitivity"
    wait_for(lambda: [file for file in journals.glob("*.journal") if file.read_text().count("\n") > 2])
    run.send_signal(signal.SIGKILL)
    run.wait()
    until(lambda: not processes_with(str(tmp_path / "store")))  # the stage ends a little later, and it writes
    (journal,) = journals.glob("*.journal")
    before = journal.read_text()
    with journal.open("a") as stream:
        stream.write('["alone", "half a li')
    assert not list(journals.glob("*/result.json"))

    done = cli.succeed(*overrides)
    assert not list(journals.glob("*.journal"))
    (stored,) = journals.glob("*/result.json")
    result = read_json(stored)
    for way, name, kl in map(json.loads, before.splitlines()[:3]):
        assert result["parts"][name][way] == kl, "what was known is not measured again"

    out = tmp_path / "uninterrupted"
    out.mkdir()
    request = read_json(stored.with_name("request.json"))
    (out / "request.json").write_text(json.dumps({**request, "out": str(out)}))
    in_quant(ROOT / "tests" / "support" / "parts_measured.py", out / "request.json")
    whole = read_json(out / "result.json")
    assert (result["all"], result["parts"]) == (whole["all"], whole["parts"])

    found = done.json("sensitivity")
    assert len(found["parts"]) == 16, "four parts of each of four blocks"
    worst = max(found["parts"], key=lambda part: part["alone"])
    assert worst["part"] == max(found["parts"], key=lambda part: part["saved"])["part"] == SPOILED
    assert worst["alone"] > 2 * sorted(part["alone"] for part in found["parts"])[-2]
    assert worst["exempted"]
    bought_within_the_budget(done, found, spoiled)
    assert "KL saved by leaving it in bf16" in (done.folder / "report.html").read_text()


def bought_within_the_budget(done: Finished, found: dict, source: Path) -> None:
    """The artifact is larger by what the exempted parts cost, and inspect agrees with the plan that has them."""
    bought = sum(part["extra_bytes"] for part in found["parts"] if part["exempted"])
    assert 0 < bought <= BUDGET * 2**30
    planned, row = done.json("plan"), done.json("row")
    chosen = {name for name, rule in planned["exempt"].items() if rule == "sensitive"}
    assert chosen == {name for part in found["parts"] if part["exempted"] for name in part["patterns"]}
    assert done.json("inspect")["faults"] == []
    without = plan.make(job(*FEW, "model.path=/x"), source)
    assert tensor_bytes(done.folder / "artifact") - without.bytes == bought
    assert row["exempt"]["sensitive"]["why"].startswith("sensitivity: of KL ")


def test_values_are_those_that_the_method_stores(model: Path, rtn: Finished, nvfp4: Finished, tmp_path: Path) -> None:
    """RTN and ModelOpt's NVFP4 of the demo model; FP8 and NVFP4 of experts that transformers lays on one another."""
    dense, moe = (checkpoint(tmp_path / name, config, model, 2) for name, config in (("dense", DENSE), ("moe", MOE)))
    requests = []
    cases = [(model, rtn, ["method=rtn"]), (model, nvfp4, ["method=nvfp4", "exempt=boundary", "runtime=vllm_cpu"])]
    for source, overrides in ((dense, ["method=fp8"]), (moe, ["method=nvfp4_llmc", "unservable=measure"])):
        cases.append((source, None, overrides))
    for number, (source, made, overrides) in enumerate(cases):
        asked = of_folder(source, *overrides, "sensitivity.windows=1", "sensitivity.length=32", "sensitivity.unit=kind")
        out = tmp_path / str(number)
        out.mkdir()
        inputs = {"source": str(source)} | ({"artifact": str(made.folder / "artifact")} if made else {})
        exempt = plan.make(asked, source).ignore
        Request(asked, str(out), inputs, exempt).write(out / "request.json")
        requests.append(out / "request.json")
    in_quant(ROOT / "tests" / "support" / "parts_measured.py", *requests)
    measured = read_json(tmp_path / "3" / "result.json")
    assert set(measured["parts"]) == {"self_attn.qkv_proj", "self_attn.o_proj", "mlp.experts"}
    assert all(fmean(part["alone"]) > 0 for part in measured["parts"].values())


@pytest.mark.parametrize("unit", Unit)
@pytest.mark.parametrize("name", ["llama3_1_8b", "qwen3_30b_a3b", "gemma3_4b"])
def test_each_part_is_a_rule_of_its_own_and_splits_nothing(name: str, unit: Unit) -> None:
    linear = [m for m in tree(name) if m.linear]
    found = parts(linear, unit)
    assert sorted(m.name for part in found for m in part.modules) == sorted(m.name for m in linear)
    for part in found[:: max(1, len(found) // 3)]:
        hits = exempted(tree(name), {"part": Rule(part.patterns, "")}, tied=False)
        assert set(hits["part"].changes) == {m.name for m in part.modules}


@pytest.mark.parametrize(
    ("name", "method"),
    [("llama3_1_8b", "rtn"), ("llama3_1_8b", "fp8"), ("llama3_1_8b", "awq"), ("qwen3_30b_a3b", "nvfp4_llmc")],
)
def test_what_a_part_costs_is_what_the_plan_grows_by(name: str, method: str) -> None:
    made = job(f"model={name}", f"method={method}", "hw=h100")
    planned = plan.make(made, None)
    for part in parts([m for m in planned.modules if m.linear], Unit.module)[:3]:
        made.exempt = {"part": Rule(part.patterns, "")}
        extra = part.extra_bytes(FORMATS[planned.layout], planned.group_size)
        assert plan.make(made, None).bytes - planned.bytes == extra


@given(st.lists(st.tuples(st.integers(-3, 20), st.integers(1, 9)), min_size=1, max_size=7), st.integers(0, 30))
def test_the_choice_is_right_to_within_one_part(drawn: list[tuple[int, int]], budget: int) -> None:
    losses = [Loss(str(i), "", 0, 0.0, saved, size, []) for i, (saved, size) in enumerate(drawn)]
    found = choose(losses, budget)
    chosen = [loss for loss in found if loss.exempted]
    assert sum(loss.extra_bytes for loss in chosen) <= budget
    fitting = [s for n in range(len(losses) + 1) for s in itertools.combinations(losses, n) if size_of(s) <= budget]
    best = max(sum(loss.saved for loss in some) for some in fitting)
    missed = [loss.saved for loss in found if not loss.exempted and loss.saved > 0]
    assert sum(loss.saved for loss in chosen) + sum(missed[:1]) >= best


def size_of(losses: tuple[Loss, ...]) -> int:
    return sum(loss.extra_bytes for loss in losses)


WAITING = "exempt=from_sensitivity"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([WAITING, "sensitivity.budget_gib=null"], "exempt.sensitive: say how much the exemptions may add"),
        ([WAITING, "sensitivity.budget_gib=0"], "sensitivity.budget_gib=0.0: above 0 is needed"),
        ([WAITING, "method=bf16"], "exempt.sensitive method=bf16: quantizes nothing; use a method that does"),
        (["stages=[sensitivity]", "method=auto"], r"stages=\[sensitivity\] method=auto: quantizes nothing"),
        (["stages=[sensitivity]", "model=qwen3_8b_random"], "model=qwen3_8b_random: random weights have no quality"),
        (["stages=[sensitivity]", "sensitivity.text=poems"], "sensitivity.text=poems: choose from eval.texts: wikitext, py"),
        (["sensitivity.windows=0"], "sensitivity.windows=0: at least 1 is needed"),
        (["stages=[sensitivity]", "~method.args.GPTQModifier"], "method=gptq: sensitivity rounds by llm-compressor's recipes"),
    ],
)  # fmt: skip
def test_refusals(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(job(*overrides))


def test_a_model_with_towers_is_refused_by_the_plan() -> None:
    made = job("model=qwen2_5_vl_7b", "hw=h100", "stages=[sensitivity]", "method=rtn")
    with pytest.raises(ValueError, match=r"qwen2_5_vl_7b: it has towers, and sensitivity .* use exempt=boundary"):
        sensitivity.refuse(made, plan.make(made, None))


@pytest.mark.parametrize("method", ["rtn", "bf16"])
def test_a_budget_that_no_rule_spends_is_no_obstacle_in_a_sweep(method: str) -> None:
    made = job(f"method={method}", "sensitivity.budget_gib=0.01")
    check(made)
    planned = plan.make(made, None)
    sensitivity.refuse(made, planned)
    assert any("budget_gib changes nothing: no rule uses it" in note for note in planned.notes) is (method == "rtn")


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (1e-5, "budget_gib=1e-05: the smallest module costs 0.00045 GiB more in bf16; use more than that"),
        (1, "budget_gib=1.0: leaving everything in bf16 costs 0.15 GiB more, so everything fits"),
    ],
)
def test_a_budget_for_nothing_or_everything_is_refused(budget: float, message: str) -> None:
    made = job("method=rtn", WAITING, f"sensitivity.budget_gib={budget}")
    with pytest.raises(ValueError, match=message):
        sensitivity.refuse(made, plan.make(made, None))


def test_experts_in_one_tensor_are_refused() -> None:
    made = job("model=gpt_oss_20b", "method=gptq", "group_size=32", "hw=h100", "stages=[sensitivity]")
    with pytest.raises(
        ValueError, match="experts of its layer in one tensor, whose rounding sensitivity does not measure"
    ):
        sensitivity.refuse(made, plan.make(made, None))


def test_a_rule_that_waits_changes_nothing_and_the_plan_says_so() -> None:
    waiting, plain = (plan.make(job("method=rtn", f"exempt={name}"), None) for name in ("from_sensitivity", "lm_head"))
    assert waiting.identity() == plain.identity()
    assert "exempt.sensitive is measured before anything is quantized; it adds up to 0.01 GiB" in waiting.notes


def test_methods_that_round_alike_share_a_measurement() -> None:
    for method in ("gptq", "rtn_mse", "rtn_imatrix"):
        assert recipe(job(f"method={method}").method) == recipe(job("method=rtn").method)
    for method in ("nvfp4_gptq", "nvfp4_llmc_mse", "nvfp4_llmc_imatrix"):
        assert recipe(job(f"method={method}").method) == recipe(job("method=nvfp4_llmc").method)
    assert recipe(job("method=awq").method) != recipe(job("method=rtn").method)
