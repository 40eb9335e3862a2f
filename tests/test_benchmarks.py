# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""What the benchmarks count and compare, at sizes that take no time; their figures are no tests."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode


ROOT = Path(__file__).resolve().parent.parent
pytest.importorskip("psutil", reason="the benchmarks need requirements-dev.txt")
sys.path.insert(0, str(ROOT / "benchmarks"))

import first_token  # noqa: E402
import long_stream  # noqa: E402
import measuring  # noqa: E402
import tower as tower_benchmark  # noqa: E402


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    """Where figures go; the threads and the gradient mode that a benchmark sets are set back."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(measuring, "RESULTS", tmp_path)
    yield tmp_path
    torch.set_num_threads(threads)
    torch.set_grad_enabled(True)


def flops(function, *args, **kwargs):
    """Those of the matrix products, as torch counts them."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        function(*args, **kwargs)
    counts = counter.get_flop_counts()["Global"]
    return sum(value for name, value in counts.items() if "convolution" not in str(name))


@pytest.mark.parametrize(("frames", "repeats", "past"), [(1, 1, 0), (3, 1, 0), (1, 4, 0), (1, 1, 5)])
def test_products_are_those_that_torch_counts(tiny_tower, frames, repeats, past):
    tower = tiny_tower("eager", num_hidden_layers=4)
    pixels, settings = torch.randn(frames, 3, 16, 16), {}
    if past:
        cache = tower_benchmark.filled_cache(tower, past, "cpu", torch.float32)
        settings = {"temporal_cache": [cache], "num_steps": [100]}
    ours = flops(tower, pixels, frames_per_clip=[frames], num_repeats=repeats, **settings)
    # Time is embedded once a step, not once a patch: no more than one row of products, which is not counted.
    e, d, steps = tower.config.time_embed_dim, tower.config.hidden_size, frames * repeats
    clock = 256 * e + e * e
    ours -= 2 * steps * (2 * clock + 2 * e * 2 * d + e * 2 * 4 * d)
    plain_tower = tiny_tower("eager", num_hidden_layers=4, num_temporal_layers=0)
    plain = flops(plain_tower, pixels) - flops_of_compressor(plain_tower, frames) - 2 * frames * clock
    expected = tower_benchmark.products(tower.config, frames, repeats, past)
    assert ours / plain == pytest.approx(expected, rel=1e-6)


def flops_of_compressor(tower, steps):
    return flops(tower.compressor, torch.randn(steps, 16, 32), torch.zeros(steps))


def test_the_matrix_products_of_the_peer(tiny_tower):
    config = tiny_tower().config
    expected, run = tower_benchmark.matrix_products(3, 2, config, "cpu", torch.float32)
    assert flops(run) == expected


def test_what_the_shapes_allow():
    """At the sizes of PVC-InternVL2-8B: 2.6 for a video, of which a quarter of the tokens is most."""
    from pvc.configuration_pvc import PVCVisionConfig

    whole = first_token.Shape(4096, 32, 14336, decoder_layers=32, vision_layers=24)
    vision = PVCVisionConfig(projection_dim=4096)
    assert first_token.allowed_ratio(whole, 16, vision) == pytest.approx(2.6, abs=0.1)


def test_a_ratio_is_of_medians():
    figure = measuring.ratio({"a": [2.0, 3.0, 10.0], "b": [1.0, 2.0, 2.0]}, "a", "b")
    assert figure["ratio"] == 1.5
    assert figure["seconds"] == {"a": 3.0, "b": 2.0}
    assert figure["ratio_quartiles"][0] <= 1.5 <= figure["ratio_quartiles"][1]


def test_peers_alternate():
    order = []
    seconds = measuring.alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=2)
    assert order == ["a", "b"] * 3
    assert [len(values) for values in seconds.values()] == [2, 2]


@pytest.mark.parametrize(
    ("goal", "value", "verdict"),
    [
        ("at most 1.2", 1.1, "met"),
        ("at most 1.2", 1.3, "missed"),
        ("at least 2", 2.5, "met"),
        ("at least 2", 1.9, "missed"),
    ],
)
def test_a_figure_says_whether_it_meets_its_goal(goal, value, verdict):
    assert measuring.described({"ratio": value, "goal": goal}).endswith(f"goal {goal}: {verdict}")


def test_a_report_is_written(results, capsys):
    args = SimpleNamespace(threads=1, device="cpu")
    measuring.report("name", args, {"frames": 3}, {"a figure": {"ratio": 1.0}}, {"line": [1, 2]})
    written = json.loads((results / "name.json").read_text())
    assert written["figures"] == {"a figure": {"ratio": 1.0}}
    assert written["machine"]["torch"] == torch.__version__
    assert "a figure" in capsys.readouterr().out


def test_a_short_stream(results, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["stream.py", "--frames", "40", "--threads", "1", "--device", "cpu"])
    monkeypatch.setattr(long_stream, "MARK", 10)
    monkeypatch.setattr(long_stream, "SETTLED", 20)
    long_stream.main()
    series = json.loads((results / "stream.json").read_text())["series"]
    assert series["bounded"]["frames"] == [10, 20, 30, 40]
    assert len(series["exact"]["frames"]) > 4
