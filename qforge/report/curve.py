"""What a choice of formats could have been: loss against bits per weight, drawn without a script."""

from __future__ import annotations

from typing import Any

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 300, 60, 40, 16, 120  # of the drawing; margins
TICKS = 4


def drawn(said: dict[str, Any]) -> dict[str, Any]:
    """Places for the page: the curve of the best choices, the formats alone, each with the boundary in bf16, the chosen one,
    and the ticks of both axes.

    `said`: budget.json; those of before 2026-11-30 have no boundary. The loss is KL to bf16 of each part by itself, added up,
    in nats per token.
    """
    boundary = said.get("boundary", [])
    points = [*said["curve"], *said["uniform"], *boundary, said["chosen"]]
    low, high = (float(end(p["bits"] for p in points)) for end in (min, max))
    most = float(max(p["added"] for p in points)) or 1.0

    def x(bits: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (bits - low) / ((high - low) or 1)

    def y(loss: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * loss / most

    def at(point: dict[str, Any]) -> dict[str, Any]:
        return {"x": x(point["bits"]), "y": y(point["added"]), "bits": point["bits"], "added": point["added"]}

    return {
        "width": WIDTH, "height": HEIGHT, "left": LEFT, "floor": HEIGHT - BOTTOM, "right": WIDTH - RIGHT,
        "line": " ".join(f"{p['x']:.1f},{p['y']:.1f}" for p in map(at, said["curve"])),
        "uniform": [{**at(point), "name": point["format"], "kl": point["kl"]} for point in said["uniform"]],
        "boundary": [{**at(point), "name": point["format"]} for point in boundary],
        "chosen": at(said["chosen"]),
        "across": [{"x": x(bits), "text": f"{bits:.3g}"} for bits in _ticks(low, high)],
        "up": [{"y": y(loss), "text": f"{loss:.2g}"} for loss in _ticks(0, most)],
    }  # fmt: skip


def _ticks(low: float, high: float) -> list[float]:
    return [low + (high - low) * n / TICKS for n in range(TICKS + 1)]
