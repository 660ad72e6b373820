"""vLLM's own parser, asked in its own environment, says what the server would refuse hours later."""

from __future__ import annotations

import json

import pytest

from qforge.envs import managed
from qforge.envs.ask import ask
from qforge.runtimes import vllm

ASKED = {
    "dtype": "fp12", "nonsense_option": 1, "kv_cache_dtype": "fp7", "max_num_sequences": 4, "max_num_seqs": "many",
    "tensor_parallel": 2, "compilation_config": {"lvel": 3}, "enable_chunked_prefill": False, "enforce_eager": True,
    "hf_overrides": {"rope_theta": 1.0}, "chat_template": "x.jinja", "generation_config": "vllm", "seed": 1,
    "tool_call_parser": "herms", "reasoning_parser": "qwen3",
}  # fmt: skip


@pytest.fixture(scope="module")
def faults() -> dict[str, str]:
    options = [[f"runtime.args.{name}", vllm.flags_of(name, value)] for name, value in ASKED.items()]
    answer = ask(managed.managed("vllm_cpu"), "qforge.runtimes.options", json.dumps(options))
    assert "fault" not in answer, answer
    return {
        fault.removeprefix("runtime.args.").partition(":")[0].partition("=")[0]: fault for fault in answer["faults"]
    }


def test_only_what_it_refuses_is_refused(faults: dict[str, str]) -> None:
    refused = {
        "dtype",
        "nonsense_option",
        "kv_cache_dtype",
        "max_num_sequences",
        "max_num_seqs",
        "tensor_parallel",
        "tool_call_parser",
    }
    assert set(faults) == refused | {"compilation_config"}


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (
            "dtype",
            "runtime.args.dtype=fp12: vLLM 0.32.0 refuses it: invalid choice: 'fp12' (choose from 'auto', 'bfloat16'",
        ),
        ("kv_cache_dtype", "invalid choice: 'fp7' (choose from 'auto', 'bfloat16', 'float16', 'fp8'"),
        ("nonsense_option", "runtime.args.nonsense_option: vLLM 0.32.0 has no option --nonsense-option; leave it out"),
        ("max_num_sequences", "vLLM 0.32.0 has no option --max-num-sequences; use max_num_seqs"),
        ("tensor_parallel", "has no option --tensor-parallel"),  # argparse would take it for tensor_parallel_size
        ("tool_call_parser", "runtime.args.tool_call_parser=herms: vLLM 0.32.0 has no such parser; use hermes"),
        ("max_num_seqs", "invalid int value: 'many'"),
        ("compilation_config", "lvel Unexpected keyword argument"),
    ],
)
def test_a_refusal_names_the_key_and_the_fix(faults: dict[str, str], option: str, words: str) -> None:
    assert words in faults[option]
