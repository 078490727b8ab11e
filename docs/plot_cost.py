"""Draw what an update costs against batch, length and horizon: `python docs/plot_cost.py SWEEP.json... --svg FILE`.

Each SWEEP.json is what `dreamer bench --only update --sweep KEY=V1,V2 --json` printed. Prints the numbers as a table.
"""

import argparse
import json
import math
from pathlib import Path

WIDTH, HEIGHT, PAD = 760, 260, 46
COLORS = ("#3b6ea5", "#c2572b", "#4f8f4a", "#8a5aa8")


def points(path: Path) -> tuple[str, list[tuple[float, float, float]]]:
    """The swept key, and for each value: value, seconds of an update, bytes at most."""
    document = json.loads(path.read_text())
    rows = []
    key = ""
    for run in document["runs"]:
        key, value = run["label"].split("=") if "=" in run["label"] else ("", run["label"])
        rows.append((float(value), run["update"]["seconds"], float(run["update"].get("peak_bytes") or math.nan)))
    return key.split()[-1], rows


def panel(left: int, key: str, rows: list[tuple[float, float, float]], color: str, wide: int) -> list[str]:
    """One chart from the origin: dots, and the straight line through the first and the last of them."""
    most_x, most_y = max(r[0] for r in rows) * 1.08, max(r[1] for r in rows) * 1.15

    def at(x: float, y: float) -> tuple[float, float]:
        return left + x / most_x * wide, HEIGHT - PAD - y / most_y * (HEIGHT - 2 * PAD)

    (x0, y0), (x1, y1) = at(0, 0), at(most_x, most_y)
    parts = [f'<path d="M{x0:.1f} {y1:.1f}V{y0:.1f}H{x1:.1f}" stroke="#888" fill="none"/>']
    first, last = at(*rows[0][:2]), at(*rows[-1][:2])
    line = f"M{first[0]:.1f} {first[1]:.1f}L{last[0]:.1f} {last[1]:.1f}"
    parts.append(f'<path d="{line}" stroke="{color}" stroke-dasharray="4 4"/>')
    for x, y, _ in rows:
        px, py = at(x, y)
        parts.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="4" fill="{color}"/>')
        parts.append(f'<text x="{px:.1f}" y="{y0 + 16:.1f}" text-anchor="middle">{x:g}</text>')
        parts.append(f'<text x="{px:.1f}" y="{py - 9:.1f}" text-anchor="middle">{y:.2f} s</text>')
    parts.append(f'<text x="{(x0 + x1) / 2:.1f}" y="{HEIGHT - 8}" text-anchor="middle" font-weight="bold">{key}</text>')
    return parts


def main() -> None:
    """Read, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweeps", nargs="+", type=Path)
    parser.add_argument("--svg", type=Path, required=True)
    given = parser.parse_args()
    gap = 30
    wide = (WIDTH - 2 * PAD - gap * (len(given.sweeps) - 1)) // len(given.sweeps)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="11" fill="#333"><rect width="100%" height="100%" fill="white"/>'
    ]
    print("| setting | value | seconds | times the first | MB |\n|---|---|---|---|---|")
    for i, path in enumerate(given.sweeps):
        key, rows = points(path)
        for value, seconds, size in rows:
            print(f"| {key} | {value:g} | {seconds:.2f} | {seconds / rows[0][1]:.2f} | {size / 1e6:.0f} |")
        parts += panel(PAD + i * (wide + gap), key, rows, COLORS[i % len(COLORS)], wide)
    given.svg.write_text("\n".join([*parts, "</svg>\n"]))


if __name__ == "__main__":
    main()
