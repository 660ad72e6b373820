"""A model whose losses are NaN, infinite, or beyond all guessing is garbage; this says so, and where that begins."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from qforge.envs.request import Failed

MOST = 700.0  # nats per token: exp of more is no number. Who guesses among 260,000 tokens loses 12.5


def refuse(what: str, windows: Sequence[list[int]], losses: Sequence[list[float]], scorer: Any) -> None:
    """Raises Failed where a window's losses are no numbers, or above MOST on average. `what`: the text's name."""
    for number, (window, lost) in enumerate(zip(windows, losses, strict=True), 1):
        bad = next((i for i, loss in enumerate(lost, 1) if not math.isfinite(loss)), None)
        if bad is not None:
            what_loss = f"the loss is {lost[bad - 1]} from token {bad} of window {number} of {what} on"
        elif sum(lost) > MOST * len(lost):
            what_loss = f"window {number} of {what} has a loss of {sum(lost) / len(lost):.0f} nats per token"
        else:
            continue
        raise Failed(f"the model is garbage: {what_loss}; {scorer.origin(window)}")


def refuse_task(name: str, metrics: dict[str, float]) -> None:
    """Raises Failed where a metric of a task is NaN or infinite."""
    for metric, value in metrics.items():
        if not math.isfinite(value):
            raise Failed(f"eval.tasks: {metric} of {name} is {value}: the model is garbage, or the task's metric is")


def in_model(model: Any, window: list[int]) -> str | None:
    """The first module, in the order of computing, that makes NaN or infinity of finite inputs; none where none does.

    `model`: a model of transformers in memory, `window`: token ids that it is garbage for.
    """
    import torch

    first: list[str] = []

    def watch(name: str) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            if not first and _finite(inputs) and not _finite(output):
                first.append(name)

        return hook

    with ExitStack() as hooks, torch.inference_mode():
        for name, module in model.named_modules():
            hooks.callback(module.register_forward_hook(watch(name)).remove)
        model(torch.tensor([window], device=model.device))
    return first[0] if first else None


def in_checkpoint(folder: Path) -> str | None:
    """The first tensor of the checkpoint, in its blocks' order, that holds NaN or infinity; none where none does."""
    from safetensors import safe_open

    broken = []
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            broken += [name for name in tensors.keys() if not _finite(tensors.get_tensor(name))]  # noqa: SIM118
    return min(broken, key=_order, default=None)


def _order(name: str) -> list[Any]:
    """Block 10 after block 9: text and numbers in turn."""
    parts: list[Any] = re.split(r"(\d+)", name)
    parts[1::2] = map(int, parts[1::2])
    return parts


def _finite(value: Any) -> bool:
    return all(bool(tensor.float().isfinite().all()) for tensor in _floats(value))


def _floats(value: Any) -> Iterator[Any]:
    import torch

    if isinstance(value, torch.Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _floats(part)
    elif isinstance(value, dict):
        yield from _floats(list(value.values()))
