"""What a command line may say for an option: refused in one line before Hydra sees it, or read as it is meant."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from support.command import Cli
from support.jobs import job
from yaml import YAMLError

from qforge import cli, main, starter
from qforge.config.compose import compose
from qforge.config.messages import message
from qforge.config.places import CONF
from qforge.machine import hardware
from qforge.pipeline import checks
from qforge.pipeline.verify import verify


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("=1", "=1: a key is missing; use key=value, or group=option"),
        ("hw=1", "hw=1: not the name of an option; choose from a100, b200, cpu"),
        ("method=null", "method=null: not the name of an option; choose from auto"),
        ("method=gptq,2", "method=gptq,2: not the name of an option"),
        ("exempt=[lm_head,1.5]", "exempt=[lm_head,1.5]: not the name of an option"),
        ("eval.texts={}", "eval.texts={}: changes nothing; to remove an entry use ~eval.texts.NAME"),
        ("+runtime.environ={}", "changes nothing; to remove an entry use ~runtime.environ.NAME"),
        ("~", "~: a key is missing"),
        ("@x=1", "@x=1: a key is missing"),
        ("method=../method/gptq", "method=../method/gptq: not the name of an option"),
        ("hydra=null", "hydra=null: not the name of an option"),
        (
            "method=[rtn,gptq]",
            "a job has one method, and Hydra would mix these; use one of them, or --multirun method=rtn,gptq",
        ),
        ("hydra.callbacks.report=null", "hydra.callbacks.report=null: qforge sets it itself; leave it out"),
        (
            "+hydra.launcher.foo=1",
            "+hydra.launcher.foo=1: Hydra has no such key, and nothing would read it; leave it out",
        ),
        (
            "+hydra.sweeper.foo.bar=1",
            "+hydra.sweeper.foo.bar=1: Hydra has no such key, and nothing would read it; leave it out",
        ),
        ("hydra.launcher=null", "hydra.launcher=null: no job runs without one; leave it out"),
        ("+hydra.run.foo=1", "+hydra.run.foo=1: Hydra has no such key, and nothing would read it; leave it out"),
        (
            "eval.thinking=2",
            "eval.thinking=2: is neither true nor false; use eval.thinking=true or eval.thinking=false",
        ),
        ("model.random=2", "model.random=2: is neither true nor false; use model.random=true or model.random=false"),
        (
            "eval.context=interval(1,2)",
            "has no values that jobs could take one by one; name them, as in eval.context=1,2",
        ),
    ],
)
def test_what_hydra_would_end_with_a_traceback_for_or_ignore(argument: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        cli.expand(["run.py", argument])


def test_a_search_beside_another_method_is_refused() -> None:
    with pytest.raises(
        ValueError, match="search=budget method=rtn: the search is method=budget itself; leave one of them out"
    ):
        cli.expand(["run.py", "search=budget", "method=rtn"])
    assert cli.expand(["search=budget", "method=budget"]) == ["method=budget", "method=budget"]


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (file := tmp_path / "file").touch()
    with pytest.raises(ValueError, match=f"^init {file}: Not a directory; give a folder that can be created$"):
        starter.main([str(file)])
    with pytest.raises(
        ValueError, match=f"^--config-dir {file}: no such folder; give yours, or make one with `qforge init"
    ):
        main._with_own_options(["--config-dir", str(file)])


def test_a_file_of_the_configuration_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("a: [")
    with pytest.raises(YAMLError) as error:
        OmegaConf.load(tmp_path / "mine.yaml")
    assert message(error.value).startswith(f"{tmp_path}/mine.yaml line 1: is no YAML: ")
    assert message(error.value).endswith("; mend it")


@pytest.mark.parametrize(
    "argument",
    [
        "exempt=[]",
        "exempt=[lm_head,boundary]",
        "method=gptq,awq",
        "group_size=64",
        "~hw",
        "--cfg",
        "a={b",
        "model.random=1",
        "exempt=glob(*)",
        "+hydra.job.env_set.A=1",
        "+hydra.launcher.additional_parameters.reservation=mine",
        "+hydra.sweeper.rungs.mine.why=x",
        "hydra.run.dir=x",
        "runtime=[existing,vllm]",
    ],
)  # fmt: skip
def test_what_is_left_to_hydra(argument: str) -> None:
    assert cli.expand(["run.py", argument]) == ["run.py", argument]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["modle=x"], "modle: there is no such key; did you mean model? a job has model, method,"),
        (["eval.contxt=1"], "eval.contxt: there is no such key; did you mean eval.context? eval has name, texts,"),
        (["hydra.foo=1"], "hydra.foo: Hydra has no such key; leave it out"),
        (["exempt.foo.match=[a]"], "exempt.foo: there is no such entry; add it with +exempt.foo=VALUE"),
        (["eval.context=many"], "eval.context=many: Value 'many' of type 'str' could not be converted to Integer; use a "),
        (["hw.vendor=intel"], "; use nvidia or amd or cpu"),
        (["model.gguf=x"], "; use entries of its own (packages, part, sha256, tie_embeddings, turned), or null"),
        (["hydra.run.dir=null"], "hydra.run.dir=null: field 'hydra.run.dir' is not Optional; leave it out for the default"),
        (["+eval.context=3"], "+eval.context: it has a value already; leave out the +, as in eval.context=VALUE"),
        (["~foo"], "~foo: there is no such entry to remove; leave it out"),
        (["~model.name=x"], "~model.name=x: its value is smollm2_135m; use ~model.name"),
        (["~eval.context"], "~eval.context: a key of the schema cannot be removed; give it another value"),
        (["method=gptqq"], "method=gptqq: there is no such option; did you mean gptq? choose from auto, "),
        (["model=[a]"], "model=a: there is no such option; run with --help for those that there are"),
        (["model=local"], "model.name: is missing; give model.name=VALUE"),
        (["model.name=${nope}"], "; write a key that the configuration has, or quote the text as \\${...}"),
        (["model.name=${oc.env:NOPE}"], "; set it, or give a value that needs none"),
        (["model.name=~"], "model.name=~: is no override; use key=value, and put a value with special characters into quotes"),
        ([r"+method.formats={re\:.*\.[0-3]\..*: fp8}"], "put a backslash before each of its special characters, as in"),
        (['+method.formats={"block:3": fp8}'], "a name inside of {} has no quotes; put a backslash before each of its special"),
        (["+gate.criteria.x.metric=y"], "+gate.criteria.x.metric=y: an entry like this cannot be added on the command line;"),
        ([f"eval.context={'x' * 900}"], "... (913 characters): "),
        (["exempt.lm_head.match=[[a]]"], "exempt.lm_head.match=['a']: is not a text; give one"),
    ],
)  # fmt: skip
def test_what_hydra_refuses_is_said_in_one_line(overrides: list[str], said: str) -> None:
    with pytest.raises((HydraException, OmegaConfBaseException, ValueError)) as refused:
        compose(CONF, *overrides)
    assert said in message(refused.value)
    assert "\n" not in message(refused.value)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.hub=a b"], "model.hub='a b': is not the name of a repository; use OWNER/NAME"),
        (["model.revision=main"], "model.revision=main: is of model.hub alone"),
        (["model.structure=/nope"], "model.structure=/nope: no such file"),
        (["model.gguf.sha256=abc"], "model.gguf.sha256='abc': is not a SHA-256"),
        (["model.gguf.packages=[numpy]"], "model.gguf.packages: 'numpy' is not a pinned package; use NAME==VERSION"),
        (["+model.deviations={lm_head: 1}"], "model.deviations: is of random weights alone; add model.random=true"),
        (
            ["model=qwen3_omni_tiny", "model.processor.package=dashscope"],
            "model.processor.package: 'dashscope' is not a pinned package; use NAME==VERSION",
        ),
        (
            ["model=qwen3_omni_tiny", "model.processor.folder=data"],
            "model.processor.folder=data: has no tokenizer_config.json; give a folder that has one",
        ),
        (["method.env=null"], "method.env=None: method.function needs the environment that it runs in"),
        (["method.fallback=nope"], "method.fallback='nope': there is no conf/method/nope.yaml"),
        (["+hw.tflops.fp12=3"], "hw.tflops.fp12: no plan reads it; choose from bf16, fp8, fp4, int8"),
        (["+runtime.environ={a-b: c}"], "runtime.environ.'a-b': is no name of a variable"),
        (["eval.task_data=/nope"], "eval.task_data=/nope: no such folder"),
        (["model.architecture=/nope.json"], "model.architecture=/nope.json: /nope.json: no such file; give the config.json"),
        (["rescore=4"], "rescore=4: is of verify alone; add verify=PATH, or leave rescore out"),
        (["verify=/x", "artifact=/y"], "verify=/x artifact: verify checks an artifact and does nothing else"),
    ],
)  # fmt: skip
def test_what_a_job_names_must_be_there(overrides: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        checks.check(job(*overrides))


def test_auto_is_this_machine_also_in_a_sweep_and_in_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "detect", lambda: "cpu")
    given = ["hw=auto", "hw=h100,auto", "hw=cpu,auto", "hw=[auto,h100]", "hw=h100"]
    assert cli.expand(given) == ["hw=cpu", "hw=h100,cpu", "hw=cpu", "hw=[cpu,h100]", "hw=h100"]


def test_a_list_of_one_hardware_is_that_hardware(cli: Cli) -> None:
    done = cli.inside("hw=[h100]", "plan_only=true", "model=qwen3_8b")
    assert done.code == 0, done.output
    assert "on h100 with vllm" in done.output


def test_an_unknown_format_is_refused(cli: Cli) -> None:
    done = cli.inside("method.format=nope", "plan_only=true")
    assert done.code == 2
    assert "method.format=nope: unknown; choose from bf16, int4, int4_asym" in done.output


def test_verify_takes_a_path_below_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x").mkdir()
    assert cli.expand(["verify=~/x", "store=~/y", "a=b~/c"]) == [
        f"verify={tmp_path}/x",
        f"store={tmp_path}/y",
        "a=b~/c",
    ]
    with pytest.raises(ValueError, match=re.escape(f"verify={tmp_path}/x: no qforge/hashes.json in it")):
        verify(replace(job(), verify="~/x"), tmp_path)
