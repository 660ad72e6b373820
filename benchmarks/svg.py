"""A plot of points and lines as an SVG that needs nothing else: readable in a repository's web page, light or dark."""

from __future__ import annotations

from pathlib import Path

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 300, 60, 44, 16
RIGHT = 150  # of the plot's edge, for the names of the lines
COLOURS = ("#2f6fb3", "#c2571a", "#3a8a4d", "#8a4da3", "#777777")
STEPS = (1, 2, 5, 10, 20, 50)

Line = list[tuple[float, float]]


def plot(file: Path, lines: dict[str, Line], x: str, y: str) -> None:
    """Draw the named lines, both axes from zero."""
    far, high = (max(point[axis] for line in lines.values() for point in line) * 1.05 for axis in (0, 1))
    wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at(point: tuple[float, float]) -> tuple[float, float]:
        return LEFT + wide * point[0] / far, TOP + tall * (1 - point[1] / high)

    parts = []
    for value in ticks(far):
        across, down = at((value, 0))
        parts.append(_text(across, down + 16, f"{value:g}", "middle"))
    for value in ticks(high):
        across, down = at((0, value))
        parts += [_text(across - 8, down + 4, f"{value:g}", "end"), _rule(down, wide)]
    for number, (name, line) in enumerate(lines.items()):
        colour, places = COLOURS[number % len(COLOURS)], [at(point) for point in sorted(line)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{colour}"/>' for a, b in places]
        parts.append(_text(WIDTH - RIGHT + 12, TOP + 12 + 18 * number, name, "start", colour))
    parts += [_text(LEFT + wide / 2, HEIGHT - 8, x, "middle"), _text(LEFT, TOP - 4, y, "start")]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">'
    file.write_text("\n".join([head, *parts, "</svg>"]) + "\n")


def ticks(most: float) -> list[float]:
    """Round numbers from zero, at most seven."""
    scale = 10.0 ** (len(str(int(most))) - 2)
    step = next(s * scale for s in STEPS if most / (s * scale) <= 6)
    return [step * i for i in range(int(most / step) + 1)]


def _text(x: float, y: float, said: str, anchor: str, colour: str = "#777777") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{said}</text>'


def _rule(y: float, wide: float) -> str:
    return f'<line x1="{LEFT}" x2="{LEFT + wide}" y1="{y:.1f}" y2="{y:.1f}" stroke="#777777" stroke-opacity="0.3"/>'
