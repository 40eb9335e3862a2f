# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""
Draws `docs/performance_*.png` and writes the tables of `docs/performance.md` from what the benchmarks wrote to
`benchmarks/results`.

    python benchmarks/plot.py
"""

import json
from pathlib import Path

import matplotlib


matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402


ROOT = Path(__file__).resolve().parents[1]
RESULTS, DOCS = ROOT / "benchmarks" / "results", ROOT / "docs"


def series(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())["series"]


def draw(name: str, xlabel: str, ylabel: str, lines: dict[str, tuple[list, list]], logx: bool = False) -> Path:
    """Lines, each labelled, on axes that begin at zero."""
    figure, axes = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    for label, (x, y) in lines.items():
        axes.plot(x, y, marker="o" if len(x) < 12 else None, label=label)
    axes.set(xlabel=xlabel, ylabel=ylabel, xscale="log" if logx else "linear")
    axes.set_ylim(0, 1.1 * max(max(y) for _, y in lines.values()))
    axes.legend(frameon=False)
    path = DOCS / f"performance_{name}.png"
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
    return path


def table(name: str) -> str:
    """The figures of one benchmark in Markdown, with shapes and machine."""
    result = json.loads((RESULTS / f"{name}.json").read_text())
    machine = result["machine"]
    rows = [
        f"{', '.join(f'{key} {value}' for key, value in result['shapes'].items())}; {machine['hardware']}, "
        f"{machine['threads']} threads, torch {machine['torch']}, transformers {machine['transformers']}",
        "",
        "| figure | measured | quartiles | goal |",
        "|---|---|---|---|",
    ]
    for label, figure in result["figures"].items():
        quartiles = " to ".join(f"{value:.2f}" for value in figure.get("ratio_quartiles", []))
        rows.append(f"| {label.strip()} | {figure['ratio']:.3f} | {quartiles} | {figure.get('goal', '')} |")
    return "\n".join(rows)


def write_tables(path: Path) -> None:
    """Each table between the comments that name its benchmark."""
    text = path.read_text()
    for name in ("tower", "preprocessing", "first_token", "stream"):
        opening, closing = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, _, rest = text.partition(opening)
        text = f"{before}{opening}\n{table(name)}\n{closing}{rest.partition(closing)[2]}"
    path.write_text(text)


def main():
    stream, tower = series("stream"), series("tower")
    memory = {kind: (values["frames"], values["resident_mb"]) for kind, values in stream.items()}
    drawn = [draw("memory", "frames watched", "resident memory, MB", memory, logx=True)]
    lengths, limits = tower["stream"]["length"], tower["limits"]
    reading = [sum(pair) for pair in zip(limits["stream"], tower["stream"]["reading"])]
    lines = {"measured": (lengths, tower["stream"]["ratio"]), "matrix products": (lengths, limits["stream"])}
    lines["and reading the cache once"] = (lengths, reading)
    drawn.append(draw("stream", "frames in the temporal cache", "time of a frame / plain ViT", lines))
    steps = tower["image"]["steps"]
    lines = {"measured": (steps, tower["image"]["ratio"]), "matrix products": (steps, limits["image"])}
    lines["naive repetition"] = (steps, limits["naive"])
    drawn.append(draw("image", "steps of an image tile", "time of a tile / plain ViT", lines))
    write_tables(DOCS / "performance.md")
    for path in (*drawn, DOCS / "performance.md"):
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
