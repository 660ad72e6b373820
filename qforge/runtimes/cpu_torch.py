"""PyPI's torchvision and torchaudio, which are CUDA builds, beside a CPU build of torch: their Python is what is needed.

vLLM's multimodal models and vLLM-Omni import them. On PYTHONPATH, SITE sees to it in every Python of a server.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

SITE = Path(__file__).with_name("cpu_site")
OPERATORS = ("nms", "qnms")  # that torchvision registers more of as it is imported, and only its compiled part defines
KEPT: list[Any] = []  # torch's libraries, with which their operators would go


class BesideTorch(MetaPathFinder):
    """Finds nothing, and prepares for torchvision and torchaudio the first time that either is asked for."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        """As the import system calls it."""
        if fullname in ("torchvision", "torchaudio"):
            sys.meta_path.remove(self)
            prepare()


def prepare() -> None:
    """Does nothing beside a build of torch for GPUs."""
    import torch

    if torch.version.cuda or torch.version.hip:
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in OPERATORS:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    KEPT.append(library)
    sys.modules.setdefault("torchaudio._extension", _without_compiled_part())


def _without_compiled_part() -> ModuleType:
    """In place of torchaudio._extension, which would load libraries of CUDA; without their files it says the same."""
    module = ModuleType("torchaudio._extension")
    module.__dict__.update(_IS_TORCHAUDIO_EXT_AVAILABLE=False, _IS_ALIGN_AVAILABLE=False, fail_if_no_align=lambda f: f)
    return module
