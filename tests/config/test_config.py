"""Every committed option composes, and every combination plans or says why not."""

from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import Path

import pytest
from support.command import ROOT
from support.jobs import CONF, job

from qforge import cli
from qforge.experiments import lists
from qforge.pipeline.baseline import BF16
from qforge.pipeline.checks import check
from qforge.plan import plan
from qforge.plan.support_matrix import How

LARGE = (
    "qwen3_30b_a3b",
    "qwen3_30b_a3b_random",
    "deepseek_v3",
    "gpt_oss_120b",
    "kimi_k2",
    "qwen3_235b_a22b",
    "qwen3_omni_30b",
    "qwen3_omni_30b_captioner",
    "qwen3_omni_30b_thinking",
    "qwen3_omni_random",
)  # up to 70,000 matrices, on one hardware
FOR_LARGE = [("9.0", f"method={name}") for name in ("gptq", "nvfp4")]  # a second each
ALWAYS_GIVEN = ("local",)  # models without shapes of their own


def options(group: str) -> list[str]:
    return sorted(f.stem for f in (CONF / group).glob("*.yaml"))


def overrides(group: str) -> list[str]:
    return [f"{group}={name}" for name in options(group)]


GROUPS = (
    "model",
    "method",
    "exempt",
    "kv",
    "calib",
    "hw",
    "runtime",
    "eval",
    "bench",
    "gate",
    "tracking",
    "experiment",
)
LISTS = [file.stem for file in sorted((CONF / "experiment").glob("*.yaml")) if lists.members(file)]


@pytest.mark.parametrize("override", [f"{g}={option}" for g in GROUPS for option in options(g) if option not in LISTS])
def test_every_option_composes_and_passes_its_own_checks(override: str) -> None:
    check(job(override))


def test_every_group_in_conf_is_tested_here() -> None:
    assert {p.name for p in CONF.iterdir() if p.is_dir()} == {*GROUPS, "hydra"}


def kinds(group: str) -> list[str]:
    """One option of each kind: of what plans look at of a method or of hardware, but for the size of its memory."""
    found: dict[tuple[object, ...], str] = {}
    for override in reversed(overrides(group)):
        made = job(override)
        method, hw = made.method, made.hw
        let_at = (tuple(method.model_types), None if method.mixtures is None else tuple(method.mixtures))
        made_by = (method.format, method.streams, method.calibrated, method.unstacks, method.rescales, *let_at)
        found.setdefault((*made_by, hw.vendor, hw.capability), override)
    return list(found.values())


def test_every_model_method_and_hardware_plans_or_is_refused_with_a_way_out() -> None:
    planned, without_way_out = 0, []
    models = {m: job(f"model={m}").model for m in options("model") if m not in ALWAYS_GIVEN}
    composed = [(method, hw, job(method, hw)) for method, hw in itertools.product(kinds("method"), kinds("hw"))]
    for (model, given), (method, hw, made) in itertools.product(models.items(), composed):
        if model in LARGE and (made.hw.capability, method) not in FOR_LARGE:
            continue
        made = dataclasses.replace(made, model=given)
        try:
            found = plan.make(made, None)
        except ValueError as error:
            without_way_out += [f"{model} {method} {hw}: {error}"] if "; use " not in str(error) else []
            continue
        planned += 1
        assert found.serving.how is not How.refused
        assert found.bytes <= found.bf16_bytes
        assert 1 in found.tensor_parallel
    assert planned > 100
    assert not without_way_out


def test_hardware_brings_its_runtime_unless_one_is_given() -> None:
    assert job().runtime.name == "vllm_cpu"
    assert job("hw=h100").runtime.name == "vllm"
    assert job("hw=mi325x").runtime.name == job("hw=mi300x").runtime.name == "container_rocm"
    assert job("hw=thor").runtime.name == "container_thor"
    assert job("hw=cpu", "runtime=transformers").runtime.name == "transformers"


def test_every_runtime_fits_every_hardware_or_is_refused_with_those_that_do() -> None:
    """What makes an environment for one vendor's GPUs is never planned for another's."""
    runtimes = {name: job(f"runtime={name}").runtime for name in options("runtime")}
    fits, refused = set[tuple[str, str]](), dict[tuple[str, str], str]()
    for hw, runtime in itertools.product(options("hw"), runtimes):
        try:
            check(dataclasses.replace(job(f"hw={hw}"), runtime=runtimes[runtime]))
            fits.add((hw, runtime))
        except ValueError as refusal:
            refused[hw, runtime] = str(refusal)
    for (hw, runtime), refusal in refused.items():
        assert refusal.startswith(f"runtime={runtime} is for "), refusal
        others = refusal.partition("or use runtime=")[2].split(", ")
        assert {(hw, other) for other in others} == {pair for pair in fits if pair[0] == hw}
    assert {("mi325x", "vllm"), ("mi300x", "vllm"), ("h100", "vllm_cpu"), ("cpu", "container_rocm")} <= set(refused)
    assert {(hw, job(f"hw={hw}").runtime.name) for hw in options("hw")} <= fits
    assert "leave runtime out, or use runtime=container_rocm, container, existing" in refused["mi325x", "vllm"]


def test_exemptions_compose() -> None:
    assert list(job("exempt=boundary").exempt) == ["lm_head", "first_block", "last_block"]
    assert list(job("exempt=[lm_head,embed_tokens]").exempt) == ["lm_head", "embed_tokens"]
    assert job("exempt=none").exempt == {}
    assert job("exempt=[lm_head,boundary]").exempt == job("exempt=boundary").exempt


def test_the_group_size_reaches_the_library_under_its_own_name() -> None:
    made = job("method=gptq", "group_size=32")
    assert made.method.args["GPTQModifier"]["config_groups"]["weights"]["weights"]["group_size"] == 32
    assert job("method=gptq").group_size == 64
    assert job("method=bf16").group_size is None


def test_a_list_of_experiments_stands_for_its_rows() -> None:
    given = cli.expand(["hw=h100", "--multirun", "experiment=matrix,b3"])
    assert given[:2] == ["--multirun", "hw=h100"], "wherever it stands: argparse would not take it amid the keys"
    rows = given[2].removeprefix("experiment=").split(",")
    assert rows == sorted(set(rows), key=rows.index), "each once"
    assert set(rows) <= set(options("experiment")) - set(LISTS)
    assert {"a1", "a1_g16", "a4_g128", "b3", "c2", "bf16", "fp8", "rtn"} <= set(rows)
    with pytest.raises(ValueError, match="experiment=matrix_portable: is a list of 8 experiments; add --multirun"):
        cli.expand(["experiment=matrix_portable"])


def test_a_list_of_experiments_that_is_part_of_itself_is_refused(tmp_path: Path) -> None:
    for name, members in {"own": ["a1", "own"], "first": ["second"], "second": ["a1", "first"]}.items():
        (tmp_path / f"{name}.yaml").write_text(f"experiments: {members}\n")
    for name, said in (
        ("own", "experiment/own.yaml: lists own, which it is part of (own > own)"),
        ("first", "experiment/second.yaml: lists first, which it is part of (first > second > first)"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            list(lists.rows(name, tmp_path))


def test_the_matrix_is_the_strategys() -> None:
    rows = {
        name: job(f"experiment={name}") for name in ("a1", "a2", "a3", "a4", "a2_g128", "b1", "b2", "b3", "c1", "c2")
    }
    rules = {name: list(row.exempt) for name, row in rows.items()}
    assert {name: (row.method.name, row.group_size) for name, row in rows.items()} == {
        **dict.fromkeys(("a1", "a2", "a3", "a4"), ("nvfp4", 64)), "a2_g128": ("nvfp4", 128),
        "b1": ("gptq", 128), "b2": ("gptq", 128), "b3": ("gptq", 64), **dict.fromkeys(("c1", "c2"), ("awq", 128)),
    }  # fmt: skip
    assert rules["a1"] == rules["b1"] == rules["b3"] == rules["c1"] == ["lm_head"]
    assert rules["a2"] == rules["a2_g128"] == ["lm_head", "embed_tokens"]
    assert set(rules["a3"]) == set(rules["a4"]) == {"lm_head", "embed_tokens", "first_block", "last_block"}
    assert rows["a3"].exempt["last_block"].match == ["block:last"]
    assert rows["a4"].exempt["last_block"].match == ["block:last/o_proj", "block:last/down_proj"]
    assert rules["b2"] == rules["c2"] == ["lm_head", "first_block", "last_block"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stages=[quantise]"], "stages: 'quantise' is unknown; choose from quantize"),
        (["eval.context=4096"], "needs runtime.args.max_model_len > 4096"),
        (["bench.input_len=3000"], "exceeds runtime.args.max_model_len=2048"),
        (["gate=strategy", "gate.criteria.speed.concurrency=64"], "is not measured: bench.concurrency=[1, 4]"),
        (["gate.criteria.task.at_least=1"], "gate.criteria.task: give exactly one of at_most and at_least"),
        (["eval.texts.wikitext.path=no.txt"], "eval.texts.wikitext.path=no.txt: no such file"),
        (["group_size=8"], "group_size=8: no kernel supports it"),
        (["eval.tasks=[nope.yaml]"], "eval.tasks: nope.yaml: no such file"),
        (["serve.port=70000"], "serve.port=70000: at least 1 and at most 65535 is needed; use serve.port=65535"),
        (["bench.repeats=0"], "bench.repeats=0: at least 1 is needed"),
        (["runtime.args.max_model_len=2k"], "runtime.args.max_model_len=2k: use a number of tokens"),
        (["+runtime.args.tensor_parallel_size=0"], "tensor_parallel_size=0: use a number of devices, 1 or more"),
        (["+runtime.args.tensor_parallel_size=auto"], "tensor_parallel_size=auto: use a number of devices"),
        (["+runtime.args.gpu_memory_utilization=1.5"], "gpu_memory_utilization=1.5: use a part of the memory"),
        (
            ["kv=fp8", "+runtime.args.kv_cache_dtype=auto"],
            "runtime.args.kv_cache_dtype: use kv=auto, fp8 or fp8_calibrated; kv.dtype takes vLLM's others",
        ),
        (["hw=h100", "runtime=vllm_cpu"], "runtime=vllm_cpu is for cpu, hw=h100 is nvidia"),
        (["runtime.python=/x"], "runtime=vllm_cpu: give either runtime.env"),
        (["runtime.env=null"], "runtime.python (a path) or runtime.container (an image)"),
        (
            ["runtime=container", "runtime.container=x", "runtime.python=/x"],
            "runtime=container: give either runtime.env",
        ),
        (["gate.criteria.task.metric=elo"], "gate.criteria.task.metric=elo: unknown; choose from perplexity_increase"),
    ],
)
def test_what_no_model_could_make_right_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check(job(*overrides))


def test_the_baseline_is_the_bf16_method_of_conf() -> None:
    assert job("method=bf16").method == BF16


def test_the_shipped_texts_do_not_overlap() -> None:
    texts = ROOT / "data" / "texts"
    scored = set((texts / "wikitext2_heldout.txt").read_text().splitlines())
    seen = set((texts / "wikitext2_calibration.txt").read_text().splitlines())
    assert not {line for line in scored & seen if len(line) > 40}


def test_no_address_and_no_machine_in_the_pins() -> None:
    for file in Path(ROOT / "envs").glob("*.txt"):
        assert "://" not in file.read_text(), file
        assert not re.search(r"^\S*[+]cpu", file.read_text(), re.M), file
