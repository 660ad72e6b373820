"""Scoring, progress: the small parts, on their own."""

from __future__ import annotations

import gc
import importlib
import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from qforge.console import Pace, fraction
from qforge.envs.lifetime import importing
from qforge.inspect import scales
from qforge.inspect.equality import same
from qforge.json_files import to_json
from qforge.models.checkpoint import Stored
from qforge.runtimes import vllm
from qforge.runtimes.vllm import not_language

# -- progress


@pytest.mark.parametrize(
    ("line", "done", "what"),
    [
        ("(3/31): Calibrating:  50%|█████     | 32/64 [00:01<00:01, 30.1it/s]", (2 + 0.25) / 31, "calibrating 3/31"),
        ("(31/31): Propagating: 100%|██████████| 64/64 [00:01<00:00]", 1.0, "propagating 31/31"),
        ("perplexity wikitext:  25%|██▌       | 5/20 [00:10<00:30,  2.0s/it]", 0.25, "perplexity wikitext"),
        ("Requesting API:   3%|▎  | 12/400 [00:01<00:30]", 0.03, "requesting api"),
    ],
)  # fmt: skip
def test_progress_is_read_from_the_libraries_bars(line: str, done: float, what: str) -> None:
    found = fraction(line)
    assert found
    assert found[0] == pytest.approx(done)
    assert found[1] == what


def test_the_time_left_is_of_the_bar_that_is_shown() -> None:
    pace = Pace(100, 0.0, 100, 0.0)
    assert pace.left(110) is None, "it has not moved"
    quarter = pace.at(160, 0.25)
    assert (quarter.left(160), quarter.left(200), quarter.left(900)) == (180, 140, 0)
    following = quarter.at(340, 1.0).at(345, 0.0)
    assert following.left(350) is None
    assert following.at(355, 0.5).left(355) == 10


def test_other_output_is_no_progress() -> None:
    assert fraction("INFO 11-21 GPU KV cache usage: 3.1%") is None
    assert fraction("") is None


# -- the server's words


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("The capital of France is Paris.", None),
        ("Paris", None),
        ("", "empty"),
        ("\n" * 9 + " you you you you" + "\n" * 35, "mostly blank"),
        ("!!!!####@@@@$$$$%%%%", "mostly symbols"),
        ("the the the the the the the the the the the the the", "the same words repeated"),
        ("the capital of the country of France. It is " * 5, None),  # Gemma 3 270M, a base model, in bf16
    ],
)
def test_the_canary_knows_language_from_garbage(text: str, fault: str | None) -> None:
    assert not_language(text) == fault


@pytest.mark.parametrize(
    ("line", "said"),
    [  # of vLLM 0.26 and 0.33 on an H200
        (
            "[nvfp4.py:285] Using 'MARLIN' NvFp4 MoE backend out of potential backends: ['VLLM_CUTLASS', 'MARLIN'].",
            "'MARLIN' NvFp4 MoE backend",
        ),
        ("[int_wna16.py:206] Using 'MARLIN' WNA16 MoE backend.", "'MARLIN' WNA16 MoE backend"),
        ("[unquantized.py:375] Using TritonExperts MoE backend", "TritonExperts MoE backend"),
        (
            "[int8.py:166] Using TRITON Int8 MoE backend out of potential backends: ['TRITON', 'HUMMING', 'CPU'].",
            "TRITON Int8 MoE backend",
        ),
        (
            "[fp8.py:401] Using VLLM_CUTLASS Fp8 MoE backend out of potential backends: ['AITER', 'CPU'].",
            "VLLM_CUTLASS Fp8 MoE backend",
        ),
        ("[unquantized.py:301] Using TRITON Unquantized MoE backend out of potential backends: ['TRITON'].", None),
    ],
)
def test_the_kernel_of_experts_is_read_from_the_log(line: str, said: str | None) -> None:
    assert vllm._kernel(line) == said


def test_a_largest_weight_is_found_by_its_bits(tmp_path: Path) -> None:
    """Of either sign, and a NaN is larger than all."""
    values = np.array([0.5, -3.25, 1.0, -0.0], ml_dtypes.bfloat16)
    (tmp_path / "w").write_bytes(values.tobytes())
    assert scales._largest(Stored("BF16", (4,), tmp_path / "w", 0)) == 3.25
    values[0] = np.nan
    (tmp_path / "w").write_bytes(values.tobytes())
    assert np.isnan(scales._largest(Stored("BF16", (4,), tmp_path / "w", 0)))


def test_the_kernel_of_a_modelopt_checkpoint_is_read_from_its_warning() -> None:
    """vLLM 0.26 on an H200 names it nowhere else."""
    line = (
        "WARNING 11-22 00:37:57 [marlin.py:34] Your GPU does not have native support for FP4 computation but FP4 "
        "quantization is being used. Weight-only FP4 compression will be used leveraging the Marlin kernel. This may "
        "degrade performance for compute-heavy workloads."
    )
    assert vllm._kernel(line) == "Marlin kernel for FP4 weights"


def test_a_tensor_of_another_shape_is_another_tensor(tmp_path: Path) -> None:
    """An expert that was packed where it should not be, against its source: it is named, nothing breaks."""
    (tmp_path / "w").write_bytes(bytes(64))
    assert not same(Stored("U8", (4, 4), tmp_path / "w", 0), Stored("BF16", (4, 8), tmp_path / "w", 0))


def test_a_list_of_numbers_is_one_line_of_json() -> None:
    """Thousands of token counts, one per line, would be all that a person sees."""
    value = {
        "sent": {"a": [1, 2, 3], "b": [0.5, -1e-9]},
        "names": ["[\n  1\n]", "x"],
        "none": [],
        "deep": [[1], [2, 3]],
    }
    written = to_json(value)
    assert '"a": [1, 2, 3],\n' in written
    assert json.loads(written) == value


def test_python_s_collector_rests_while_libraries_are_imported() -> None:
    gc.unfreeze()
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ModuleNotFoundError), importing():
        importlib.import_module("no_such_library")
    assert gc.isenabled()
    assert gc.get_freeze_count()
    gc.unfreeze()
