"""The list of exempted modules of a quantized Qwen3-Omni, written so that vLLM and every vLLM-Omni read it alike.

Exact names stay as they are. Beside them stand vLLM-Omni's own names, which it does not map before 0.28 and vLLM maps as the
checkpoint's; and a pattern for each part beside the thinker's text, which is unquantized as a whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qforge.json_files import read_json, write_json
from qforge.models import vllm_names
from qforge.models.checkpoint import OWN_CONFIGS
from qforge.models.core import LISTS

PARTS = ("audio_tower", "visual", "talker", "code2wav")
# By who reads the list: a regular expression from the beginning of a name on, or a wildcard
PATTERNS = {"compressed-tensors": r"re:(.*\.)?{}\..*", "modelopt": "*{}.*"}


def write(artifact: Path) -> None:
    """Complete the lists in the checkpoint's config.json and in the library's own file beside it; leaves other models alone."""
    config = read_json(artifact / "config.json")
    if config.get("model_type") not in vllm_names.OMNI:
        return
    for name in OWN_CONFIGS:
        if name.endswith(".json") and (artifact / name).is_file():
            write_json(artifact / name, _completed(read_json(artifact / name), config, None))


def _completed(content: Any, config: dict[str, Any], method: str | None) -> Any:
    """`content`, with its lists completed; `method`: quant_method of what it is part of."""
    if not isinstance(content, dict):
        return content
    method = content.get("quant_method", method)
    if "quant_algo" in content:  # of ModelOpt's own file, which names no quant_method
        method = "modelopt"
    return {
        key: _both(value, config, PATTERNS[method])
        if key in LISTS and isinstance(value, list) and method in PATTERNS
        else _completed(value, config, method)
        for key, value in content.items()
    }


def _both(listed: list[str], config: dict[str, Any], pattern: str) -> list[str]:
    own = vllm_names.mapped(config, omni=True)
    exact = [entry for entry in listed if not entry.startswith("re:") and "*" not in entry]
    also = {name for entry in exact if (name := own(entry)) is not None}
    return sorted({*listed, *also, *(pattern.format(part) for part in PARTS)})
