"""How the place of a format changes with the number of streams: where it is faster than bf16, as measured on such hardware."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qforge.plan.guide import Choice


@dataclass(frozen=True)
class Load:
    """Of one layout on one hardware tokens/s over bf16's by streams, and at which of them it is surely above 1: its slowest
    repeat over bf16's fastest."""

    hw: str
    layout: str
    methods: list[str]
    speed: dict[int, float]
    faster: list[int]

    @property
    def said(self) -> str:
        """In words."""
        figures = ", ".join(f"{ratio:.2f} at {streams}" for streams, ratio in self.speed.items())
        return f"{self._where} ({figures})"

    @property
    def _where(self) -> str:
        measured = list(self.speed)
        if self.faster == measured:
            return "faster than bf16 at every number of streams measured"
        if not self.faster:
            return "not surely faster than bf16 at any number of streams measured"
        if self.faster == measured[: len(self.faster)]:
            most = self.faster[-1]
            return f"faster than bf16 {f'up to {most} streams' if most > 1 else 'at one stream'}, not surely at more"
        return f"faster than bf16 at {', '.join(map(str, self.faster))} streams"


def loads(choices: Sequence[Choice]) -> Iterator[Load]:
    """One for each layout and hardware of which speed was measured with the vLLM that will serve."""
    alike: dict[tuple[str, str], list[Choice]] = {}
    for choice in choices:
        if choice.plan and choice.measurements:
            alike.setdefault((choice.hw, choice.plan.layout), []).append(choice)
    for (hw, layout), of in alike.items():
        streams = sorted({s for m in of[0].measurements for s in m.speed})
        speed = {s: ratio for s in streams if (ratio := of[0].speed(s)) is not None}
        faster = [s for s in streams if (of[0].speed(s, least=True) or 0) > 1]
        yield Load(hw, layout, [choice.method for choice in of], speed, faster)
