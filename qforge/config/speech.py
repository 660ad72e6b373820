"""What lets a model speak: vLLM-Omni, which serves its three stages (thinker, talker, code2wav), as configured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qforge.config.bounds import bounded, line, unbounded

MISSING: Any = "???"  # OmegaConf's mark of a value that must be given; spelled out, for stages have no OmegaConf
RATE = 24000  # samples per second of what code2wav makes (vllm_omni/entrypoints/openai/serving_chat.py:2917)
THINKER, TALKER, CODE2WAV = STAGES = ("thinker", "talker", "code2wav")  # in vLLM-Omni's order
EVERY = "every"  # options of all stages


@dataclass
class Speech:
    """vLLM-Omni beside the runtime's own engine: it lets the model speak, and that one scores its text, for which vLLM-Omni
    has no log probabilities of a prompt."""

    env: str = line(MISSING)  # managed environment; never one that plain vLLM is served from
    devices: int = bounded(1, at_least=1)  # 1: all stages share it; more: the last is of the talker and code2wav
    context: int = bounded(MISSING, at_least=1)  # tokens of a question and its answer
    seconds: float = bounded(MISSING, above=0)  # of sound that an answer may have
    sequences: int = bounded(MISSING, at_least=1)  # answers at once
    # vLLM's own options of a stage, by its name, or of all three as `every`; what qforge plans comes first
    stages: dict[str, dict[str, Any]] = unbounded(factory=dict)
    environ: dict[str, str] = unbounded(factory=dict)  # variables of its processes, besides the runtime's
