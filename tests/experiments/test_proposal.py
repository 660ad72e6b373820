"""A proposal: what its check says of a good one, and why it refuses a bad one."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.command import ROOT

from qforge.experiments import __main__, markdown, proposal
from qforge.json_files import read_json
from qforge.plan import evidence

KEPT = ("a1", "a2", "b1", "b3")  # with fewer to compare with, a check takes less time
ASKS = "experiment: {name: N1, question: 'Why?', expect: Less loss.}"
Propose = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration, where files can be added to it."""
    folder = shutil.copytree(ROOT / "conf", tmp_path_factory.mktemp("proposal") / "conf")
    for file in (folder / "experiment").glob("*.yaml"):
        if file.stem not in KEPT:
            file.unlink()
    return folder


@pytest.fixture
def propose(conf: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Propose:
    """Check a file of these lines, below its first two; gives the exit code and what was printed."""
    numbers = itertools.count()

    def check(*lines: str, head: str = "# @package _global_\n# python run.py experiment={name}\n") -> tuple[int, str]:
        name = re.sub(r"\W", "_", request.node.name.lower()) + f"_{next(numbers)}"  # composed jobs are kept by name
        file = conf / "experiment" / f"{name}.yaml"
        file.write_text(head.format(name=name) + "\n".join(lines) + "\n")
        request.addfinalizer(file.unlink)
        return __main__.main([str(file)]), capsys.readouterr().out

    return check


def test_a_good_proposal_says_what_it_changes_plans_and_owes(propose: Propose) -> None:
    code, said = propose("defaults: [b3, override /exempt: boundary, _self_]", "group_size: 32", ASKS)
    assert code == 0, said
    assert "- asks: Why?\n- expects: Less loss." in said
    differs = said.partition("```diff\n")[2].partition("\n```")[0].splitlines()
    assert "**Differs from experiment=b3**" in said
    assert [line for line in differs if " group_size" in line] == ["- group_size: 64", "+ group_size: 32"]
    assert '+ exempt.first_block.match: ["block:first"]' in differs
    assert not [line for line in differs if "N1" in line], "what it asks is no difference"
    assert "**Plan** for smollm2_135m on cpu" in said
    assert "exempt.first_block: 7 kept in bf16" in said
    assert re.search(
        r"gptq: unsound: perplexity of python_reference \+\d+\.\d %, wanted at most \+5 %\. 0\.\d\d x bf16 at 1", said
    )
    assert re.search(r"its row.json as `results/smollm2_135m-test_a_good\w+-cpu.json`", said)


def test_without_a_base_the_diff_is_against_the_defaults(propose: Propose) -> None:
    _, said = propose("defaults: [override /method: fp8, _self_]", ASKS)
    assert "**Differs from the defaults**" in said
    assert '- method.name: "gptq"\n+ method.name: "fp8"' in said


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["group_size: 32"], "experiment: is missing; write name, question and expect"),
        (["experiment: {name: N1, question: 'Why?'}"], "experiment.expect: is missing; give experiment.expect=VALUE"),
        (["experiment: {name: N1, question: ' ', expect: Less.}"], "experiment.question: is empty; write it before"),
        (["grup_size: 32", ASKS], "Key 'grup_size' not in 'Job'"),
        (["defaults: [override /method: gtpq]", ASKS], "method=gtpq: there is no such option; did you mean gptq?"),
        (["- a1"], "is not a mapping; write `key: value` lines"),
        (["experiment: {name: a: b"], "is not valid YAML"),
        (["experiments: [a1, a9]"], "experiments: a9: no such file in conf/experiment/"),
        (["bench: {repeats: 0}", ASKS], "bench.repeats=0: at least 1 is needed"),
        (["defaults: [override /method: auto]", ASKS], "method=auto ranks the methods and runs none; name the one"),
        (["group_size: 128", ASKS], "cannot be planned: group_size=128: model.layers.0.mlp.gate_proj has 576 inputs"),
        (["defaults: [a1]", "unservable: refuse", ASKS], "cannot be planned: group_size=64 method=nvfp4"),
        (["group_size: 32", ASKS.replace("N1", "B3")], "experiment.name=B3: is that of experiment=b3; use another"),
        (["group_size: 64", ASKS], "plans the same checkpoint under the same conditions as experiment=b3; change"),
        (["defaults: [a2]", ASKS], "plans the same checkpoint under the same conditions as experiment=a1; change"),
    ],
)  # fmt: skip
def test_a_bad_one_is_refused_with_its_reason(propose: Propose, lines: list[str], message: str) -> None:
    code, said = propose(*lines)
    assert code == 2
    assert said.count("**Refused**") == 1
    assert message in said


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("# python run.py experiment={name}\n", "its first line must be `# @package _global_`"),
        ("# @package _global_\n", "does not name its command; add a line `# python run.py experiment="),
        ("# @package _global_\n# python run.py experiment=b3\n", "does not name its command"),
        ("# @package _global_\n# python run.py experiment={name} hw=mi325x\n", "use method=gptq or method=awq"),
    ],
)  # fmt: skip
def test_the_file_says_how_it_is_run_and_that_must_be_possible(propose: Propose, head: str, message: str) -> None:
    code, said = propose("defaults: [override /method: nvfp4_llmc]", ASKS, head=head)
    assert code == 2
    assert message in said


def test_another_question_of_the_same_checkpoint_is_no_duplicate(propose: Propose) -> None:
    assert propose("defaults: [b3, override /eval: quick, _self_]", ASKS)[0] == 0


def test_a_duplicate_that_expects_to_be_one_says_so(propose: Propose) -> None:
    code, said = propose("defaults: [b3, _self_]", ASKS.replace("Less loss.", "The same as B3."))
    assert code == 0, said
    assert "the same checkpoint as experiment=b3, as expected: it runs once" in said


def test_a_list_that_is_part_of_itself_is_refused(propose: Propose) -> None:
    code, said = propose(head="experiments: [a1, {name}]\n")
    assert code == 2
    assert "which it is part of" in said


def test_a_file_of_another_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main([str(tmp_path / "x.yaml")]) == 2
    assert "x.yaml: is not in conf/experiment/, where Hydra looks; move it there" in capsys.readouterr().out


def test_nearest_rows_share_the_scheme_and_first_the_method() -> None:
    found = proposal.read(ROOT / "conf" / "experiment" / "b3.yaml")
    rows = markdown.nearest(found.plan, found.job)
    assert {row.layout for row in rows} <= {"int4", "int4_asym"}
    assert [row.method for row in rows[:2]] == ["gptq", "gptq"]
    assert rows[0].group_size == 64


def test_a_row_is_known_by_its_experiments_name(tmp_path: Path) -> None:
    row = read_json(ROOT / "results" / "smollm2_135m-gptq-cpu.json")
    (tmp_path / "x.json").write_text(json.dumps({**row, "experiment": {"name": "B3", "question": "", "expect": ""}}))
    assert [m.source for m in evidence.judged(tmp_path)] == [
        "results/x.json: smollm2_135m, group 64, B3 on cpu, vLLM 0.32.0"
    ]


@pytest.mark.parametrize(
    ("drawn", "file"),
    [
        ("page()", "results/README.md"),
        ("with_tables('README.md')", "README.md"),
        ("with_tables('docs/measured.md')", "docs/measured.md"),
    ],
)
def test_the_pages_of_results_show_the_rows_that_are_there(drawn: str, file: str) -> None:
    code = f"import sys; sys.path.insert(0, 'benchmarks'); import results_page; print(results_page.{drawn}, end='')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    same = done.stdout == (ROOT / file).read_text()
    assert same, "run python benchmarks/results_page.py"


def test_every_committed_experiment_passes(capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(file) for file in sorted((ROOT / "conf" / "experiment").glob("*.yaml"))]
    code, said = __main__.main(files), capsys.readouterr().out
    assert code == 0, said
    assert len(re.findall("^## ", said, re.M)) == len(files)
    assert "the same checkpoint as experiment=a1, as expected" in said.partition("## a2:")[2].partition("\n## ")[0]


def test_the_command_without_a_file_says_how_it_is_used() -> None:
    done = subprocess.run([sys.executable, "-m", "qforge.experiments"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "python -m qforge.experiments conf/experiment/x.yaml" in done.stderr
