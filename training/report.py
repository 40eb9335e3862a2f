# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""
The training log as the README's table.

    python -m training.report runs

One row per quarter of each stage that has finished, with losses averaged over it.
"""

import argparse
import json
from pathlib import Path

from training.train import STAGES


def mean(rows: list[dict], name: str) -> str:
    values = [row[name] for row in rows if name in row]
    return f"{sum(values) / len(values):.3f}" if values else ""


def quarters(log: list[dict]) -> list[list[dict]]:
    rows = [row for row in log if "loss" in row]
    return [rows[len(rows) * quarter // 4 : len(rows) * (quarter + 1) // 4] for quarter in range(4)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="the folder that training.train wrote")
    args = parser.parse_args()
    print("| stage | up to step | token loss | answer loss |\n|---|---|---|---|")
    for stage in STAGES:
        file = args.output / stage.name / "log.json"
        if not file.exists():
            continue
        log = json.loads(file.read_text())
        for rows in filter(None, quarters(log)):
            token_loss = mean(rows, "token_loss")
            print(f"| {stage.name} | {rows[-1]['step']} | {token_loss} | {mean(rows, 'answer_loss')} |")


if __name__ == "__main__":
    main()
