"""What a checkpoint's list of exempted modules means to both engines that serve Qwen3-Omni: vLLM, and vLLM-Omni.

vLLM-Omni before 0.28 does not map the names of the list to its own: the router, which no exact name of the checkpoint then
finds, is built packed, stays zero, and the model loads and answers garbage (vllm-omni issue 5573).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

from qforge.inspect.ignore_list import plain_among
from qforge.models import vllm_names
from qforge.models.modules import Module

METHODS = ("compressed-tensors", "modelopt")  # whose lists are read by name
OLD = "vLLM-Omni before 0.28"


def misread(
    quantization: dict[str, Any], modules: Sequence[Module], config: dict[str, Any], packed: Collection[str]
) -> Iterator[tuple[str, int, list[str]]]:
    """For each engine how many modules it builds by the list, and those that it would build in another form than their tensors
    have: routers, matrices of the thinker and, where it loads that, of the talker. Nothing for other models and lists, and
    nothing of OLD where it would be wrong.

    Raises ValueError for a list that one of them refuses.
    """
    if config.get("model_type") not in vllm_names.OMNI or quantization.get("quant_method") not in METHODS:
        return
    plain, omni = vllm_names.mapped(config), vllm_names.mapped(config, omni=True)
    for engine, own, entry in (("vLLM", False, plain), ("vLLM-Omni", True, omni), (OLD, True, _as_it_is)):
        names = vllm_names.names(config, own)
        built = [named for m in modules if _by_the_list(m) and (named := _named(m, *names(m.name))).fused]
        left = plain_among(quantization, built, entry, packed)
        wrong = sorted(m.name for m in built if (m.name in packed) is (m.name in left))
        if engine != OLD or not wrong:  # somebody else's list need not be for an engine that newer ones replaced
            yield engine, len(built), wrong


def _by_the_list(module: Module) -> bool:
    """Whether an engine asks the list in which form to build it; heads of compressed-tensors and towers it builds plain."""
    return module.linear or module.kind == "router" or module.name.startswith("talker.model.layers.")


def _named(module: Module, served: str | None, fused: str | None) -> Module:
    return replace(module, served=served, fused=fused)


def _as_it_is(entry: str) -> str:
    return entry
