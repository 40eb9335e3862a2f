# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""
How figures are taken: peers alternate in one process, and a ratio is of the medians of that run.

Every benchmark prints a table and writes the same as JSON, with shapes, versions and the machine. The root of the
repository is importable as the package `pvc` once this module is.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
import transformers


ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
if "pvc" not in sys.modules:
    sys.modules["pvc"] = ModuleType("pvc")
    sys.modules["pvc"].__path__ = [str(ROOT)]
sys.path.insert(0, str(ROOT))


def parser(description: str) -> argparse.ArgumentParser:
    """A parser with what every benchmark can be told."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of torch (default: all cores)")
    made.add_argument("--repeats", type=int, default=5, help="runs of each peer, after one that does not count")
    made.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return made


def prepare(args) -> tuple[torch.device, torch.dtype]:
    """Threads, device and dtype: float32 on a CPU, bfloat16 on an accelerator."""
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    device = torch.device(args.device)
    return device, torch.float32 if device.type == "cpu" else torch.bfloat16


def alternate(peers: dict[str, Callable], repeats: int, device: torch.device | None = None) -> dict[str, list[float]]:
    """Seconds of each run of each peer, taking turns so that a slow moment of the machine meets them all."""
    seconds = {name: [] for name in peers}
    for number in range(repeats + 1):
        for name, run in peers.items():
            synchronise(device)
            start = time.perf_counter()
            run()
            synchronise(device)
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def synchronise(device: torch.device | None):
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


def ratio(seconds: dict[str, list[float]], name: str, peer: str) -> dict:
    """
    The median of one over that of its peer.

    The spread is that of the ratios of neighbouring runs, from the lower to the upper quartile: what moves both alike
    moves it little.
    """
    pairs = sorted(ours / theirs for ours, theirs in zip(seconds[name], seconds[peer]))
    quartiles = statistics.quantiles(pairs, n=4) if len(pairs) > 1 else [pairs[0]] * 3
    return {
        "ratio": statistics.median(seconds[name]) / statistics.median(seconds[peer]),
        "ratio_quartiles": [quartiles[0], quartiles[2]],
        "seconds": {key: statistics.median(seconds[key]) for key in (name, peer)},
    }


def machine(args) -> dict:
    """What ran it."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(": ")[1] for line in lines if line.startswith("model name")), name)
    if args.device.startswith("cuda"):
        name = torch.cuda.get_device_name(args.device)
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return {"hardware": name, "cores": os.cpu_count(), "threads": args.threads, **versions}


def report(name: str, args, shapes: dict, figures: dict[str, dict], series: dict | None = None) -> None:
    """Print figures, each with its goal where it has one; write them and what is plotted to `results/NAME.json`."""
    result = {
        "benchmark": name,
        "shapes": shapes,
        "machine": machine(args),
        "figures": figures,
        "series": series or {},
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"{name}: {', '.join(f'{key} {value}' for key, value in shapes.items())}")
    print(", ".join(f"{key} {value}" for key, value in result["machine"].items()))
    for label, figure in figures.items():
        print(f"  {label:<58} {described(figure)}")
    print(flush=True)


def described(figure: dict) -> str:
    parts = [f"{figure['ratio']:.3f}"]
    if "ratio_quartiles" in figure:
        parts.append("({:.3f} to {:.3f})".format(*figure["ratio_quartiles"]))
    if "goal" in figure:
        at_most = figure["goal"].startswith("at most")
        goal = float(figure["goal"].split()[-1])
        met = figure["ratio"] <= goal if at_most else figure["ratio"] >= goal
        parts.append(f"goal {figure['goal']}: {'met' if met else 'missed'}")
    parts += [f"{name} {1000 * value:.1f} ms" for name, value in figure.get("seconds", {}).items()]
    return "  ".join(parts)
