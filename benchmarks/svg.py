"""A plot of points and lines as an SVG that needs nothing else: readable in a repository's web page, light or dark."""

from __future__ import annotations

from pathlib import Path

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 300, 60, 44, 16
RIGHT = 150  # of the plot's edge, for the names of the lines
COLOURS = ("#2f6fb3", "#c2571a", "#3a8a4d", "#8a4da3", "#777777")
FAMILIES = ("nvfp4", "gptq", "awq", "rtn")
NAMES = 190  # as RIGHT, for the names of points
APART = 15  # between names of a column
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
        again = number >= len(COLOURS)  # of a colour that another line has: dashed, which its name says
        dashes = ' stroke-dasharray="5 4"' if again else ""
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{colour}"/>' for a, b in places]
        parts.append(
            _text(WIDTH - RIGHT + 12, TOP + 12 + 18 * number, f"{name} (- -)" if again else name, "start", colour)
        )
    parts += [_text(LEFT + wide / 2, HEIGHT - 8, x, "middle"), _text(LEFT, TOP - 4, y, "start")]
    _write(file, parts, HEIGHT)


def scatter(file: Path, points: dict[str, tuple[float, float]], x: str, y: str, start: float = 0) -> None:
    """Draw the named points, their names in a column at the right, highest first; `x` from `start`, `y` from zero."""
    far, high = (max(point[axis] for point in points.values()) * 1.05 for axis in (0, 1))
    tall = max(HEIGHT, TOP + BOTTOM + APART * len(points))
    wide, deep = WIDTH - LEFT - NAMES, tall - TOP - BOTTOM
    parts = []
    for value in [tick for tick in ticks(far) if tick >= start]:
        parts.append(_text(LEFT + wide * (value - start) / (far - start), tall - BOTTOM + 16, f"{value:g}", "middle"))
    for value in ticks(high):
        down = TOP + deep * (1 - value / high)
        parts += [_text(LEFT - 8, down + 4, f"{value:g}", "end"), _rule(down, wide)]
    place = float(TOP)
    left = len(points)
    for name, (across, up) in sorted(points.items(), key=lambda point: -point[1][1]):
        a, b = LEFT + wide * (across - start) / (far - start), TOP + deep * (1 - up / high)
        left -= 1
        place = min(max(place, b), tall - BOTTOM - APART * left)
        colour = COLOURS[_family(name)]
        parts.append(
            f'<path d="M{a:.1f},{b:.1f}L{WIDTH - NAMES + 8},{place:.1f}" stroke="{colour}" stroke-opacity="0.35"/>'
        )
        parts.append(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="4" fill="{colour}"/>')
        parts.append(_text(WIDTH - NAMES + 12, place + 4, name, "start", colour))
        place += APART
    parts += [_text(LEFT + wide / 2, tall - 8, x, "middle"), _text(LEFT, TOP - 4, y, "start")]
    _write(file, parts, tall)


def ticks(most: float) -> list[float]:
    """Round numbers from zero, at most seven."""
    scale = 10.0 ** (len(str(int(most))) - 2)
    step = next(s * scale for s in STEPS if most / (s * scale) <= 6)
    return [step * i for i in range(int(most / step) + 1)]


def _family(name: str) -> int:
    """Names of one beginning have one colour."""
    return next((number for number, start in enumerate(FAMILIES) if name.startswith(start)), len(COLOURS) - 1)


def _write(file: Path, parts: list[str], tall: int) -> None:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {tall}" font-family="sans-serif" font-size="12">'
    )
    file.write_text("\n".join([head, *parts, "</svg>"]) + "\n")


def _text(x: float, y: float, said: str, anchor: str, colour: str = "#777777") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{said}</text>'


def _rule(y: float, wide: float) -> str:
    return f'<line x1="{LEFT}" x2="{LEFT + wide}" y1="{y:.1f}" y2="{y:.1f}" stroke="#777777" stroke-opacity="0.3"/>'
