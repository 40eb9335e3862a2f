# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""What the benchmarks count and compare, at sizes that take no time; their figures are no tests."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode


ROOT = Path(__file__).resolve().parent.parent
pytest.importorskip("psutil", reason="the benchmarks need requirements-dev.txt")
sys.path.insert(0, str(ROOT / "benchmarks"))

import first_token  # noqa: E402
import long_stream  # noqa: E402
import measuring  # noqa: E402
import plot  # noqa: E402
import preprocessing  # noqa: E402
import tower as tower_benchmark  # noqa: E402


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    """Where figures go; the threads and the gradient mode that a benchmark sets are set back."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(measuring, "RESULTS", tmp_path)
    monkeypatch.setattr(plot, "RESULTS", tmp_path)
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
    theirs, own = map(sum, zip(*first_token.products_of_parts(whole, 16, vision).values()))
    assert theirs / own == pytest.approx(2.6, abs=0.1)


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
    monkeypatch.setattr(long_stream, "WINDOW", 1)
    monkeypatch.setattr(long_stream, "ASK_EVERY", 10)
    monkeypatch.setattr(long_stream, "NUM_READINGS", 10)
    # It takes long where many tests have left objects.
    monkeypatch.setattr(long_stream.gc, "collect", lambda: 0)
    long_stream.main()
    written = json.loads((results / "stream.json").read_text())
    assert "resident memory, frame 40 / frame 4" in written["figures"]
    assert written["series"]["bounded"]["frames"] == list(range(4, 41, 4))
    assert len(written["series"]["exact"]["frames"]) > 4
    assert max(written["series"]["bounded"]["tokens"]) < max(written["series"]["exact"]["tokens"])


def test_a_stream_too_short_to_settle_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["stream.py", "--frames", "649"])
    with pytest.raises(SystemExit):
        long_stream.main()
    assert "expected --frames of at least 650, for memory to settle in a tenth, got 649" in capsys.readouterr().err


def test_the_figures_of_the_tower(tiny_tower, monkeypatch):
    """Every run takes its step back, so that all of them see as many cached frames."""
    ours, native, pixels = tiny_tower(), tiny_tower(num_temporal_layers=0), torch.randn(2, 3, 16, 16)
    caches, filled = {}, tower_benchmark.filled_cache

    def remember(tower, length, *args):
        caches[length] = filled(tower, length, *args)
        return caches[length]

    monkeypatch.setattr(tower_benchmark, "filled_cache", remember)
    with torch.no_grad():
        videos = tower_benchmark.of_videos(ours, native, pixels, 1)
        images, image = tower_benchmark.of_images(ours, native, pixels[:1], 1)
        streams, stream = tower_benchmark.of_streams(ours, native, pixels[:1], 2)
    assert sum("goal" in figure for figure in (videos | images | streams).values()) == 4
    assert image["steps"] == [1, 2, 4, 8]
    assert stream["length"] == [cache.get_seq_length() for cache in caches.values()] == [1, 16, 32, 64]
    assert {len(values) for values in stream.values()} == {4}


def test_a_part_of_the_tower_stands_for_the_whole():
    from pvc.configuration_pvc import PVCVisionConfig

    part = tower_benchmark.towers(2, "meta", torch.float32)[0].config
    for settings in ((2,), (1, 4), (1, 1, 64)):
        whole = tower_benchmark.products(PVCVisionConfig(), *settings)
        assert tower_benchmark.products(part, *settings) == pytest.approx(whole, rel=0.005)


def test_published_tiles_are_ours_within_grey_levels():
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((400, 300), Image.Resampling.BICUBIC)
    processor = preprocessing.PVCImageProcessor(max_tiles=preprocessing.MAX_TILES)
    mean, std = processor.image_mean, processor.image_std
    ours = processor([image], return_tensors="pt")["pixel_values"]
    theirs = preprocessing.published([image], mean, std)
    assert theirs.shape == ours.shape
    assert preprocessing.grey_levels(ours, theirs, std).max() <= preprocessing.GREY_LEVELS


def test_readers_of_a_video_give_its_frames(tmp_path, monkeypatch):
    """Each in its own pixels, yet of the same frames: another frame would be farther away."""
    monkeypatch.setattr(preprocessing, "NUM_FRAMES", 12)
    monkeypatch.setattr(preprocessing, "NUM_SAMPLED", 3)
    path = tmp_path / "video.mp4"
    preprocessing.write_video(path)
    processor = preprocessing.PVCVideoProcessor(num_frames=3, video_backend="pyav")
    std, ours = processor.image_std, processor(path, return_tensors="pt")["pixel_values_videos"]
    readers = preprocessing.readers(str(path), processor.image_mean, std)
    assert "pyav" in readers
    for read in readers.values():
        theirs = read()
        assert theirs.shape == ours.shape
        distance = preprocessing.grey_levels(ours, theirs, std).mean()
        assert distance < preprocessing.grey_levels(ours, theirs.roll(1, 0), std).mean() / 2


@pytest.mark.parametrize("encode", [False, True])
def test_resident_memory_is_read_while_a_video_is_streamed(encode):
    assert preprocessing.resident_peak(str(ROOT / "assets" / "order.mp4"), 9, encode) > 1


def test_tables_are_written_between_their_marks(results, tmp_path):
    args = SimpleNamespace(threads=1, device="cpu")
    page = "# Title\n"
    for name in ("tower", "preprocessing", "first_token", "stream"):
        figure = {"ratio": 1.0, "ratio_quartiles": [0.5, 2.0], "goal": "at most 1.2"}
        measuring.report(name, args, {"frames": 3}, {f"  {name}'s figure": figure})
        page += f"before {name}\n<!-- {name} -->\nan old table\n<!-- end of {name} -->\nafter {name}\n"
    path = tmp_path / "page.md"
    path.write_text(page)
    plot.write_tables(path)
    written = path.read_text()
    assert "| tower's figure | 1.000 | 0.50 to 2.00 | at most 1.2 |\n<!-- end of tower -->\nafter tower\n" in written
    assert "old" not in written
    assert [line for line in page.splitlines() if "old" not in line] == [
        line for line in written.splitlines() if not line.startswith(("|", "frames 3;")) and line
    ]
    plot.write_tables(path)
    assert path.read_text() == written


def test_plots_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(plot, "DOCS", tmp_path)
    path = plot.draw("name", "x", "y", {"a line": ([1, 2], [3, 4])}, logx=True)
    assert path == tmp_path / "performance_name.png"
    assert Image.open(path).size == (660, 396)
