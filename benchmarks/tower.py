# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""
The vision tower at InternViT-300M size against transformers' own `InternVLVisionModel` of the same size.

    python benchmarks/tower.py                   # some layers, as all would take long on a CPU
    python benchmarks/tower.py --layers 24

Random weights; half of the layers are progressive, as in PVC-InternVL2-8B, and the compressor is part of the tower.
"""

import statistics

import torch
from measuring import alternate, parser, prepare, ratio, report
from pvc.cache_pvc import PVCTemporalCache
from pvc.configuration_pvc import PVCVisionConfig
from pvc.modeling_pvc import PVCVisionModel
from transformers import InternVLVisionConfig, InternVLVisionModel


CACHE_LENGTHS = (1, 16, 32, 64)
IMAGE_STEPS = (1, 2, 4, 8)


def towers(layers: int, device, dtype):
    """PVC's and the native one, of `layers` layers, in evaluation mode."""
    ours = PVCVisionModel._from_config(PVCVisionConfig(num_hidden_layers=layers), attn_implementation="sdpa")
    config = InternVLVisionConfig(
        num_hidden_layers=layers, image_size=[448, 448], patch_size=[14, 14], attention_bias=True
    )
    native = InternVLVisionModel._from_config(config, attn_implementation="sdpa")
    for model in (ours, native):
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
    return ours.to(device, dtype).eval(), native.to(device, dtype).eval()


def matrix_products(layers: int, steps: int, config, device, dtype):
    """The matrix products of a plain tower's layers, as `torch.mm` of the same shapes: how many flops, and a run."""
    rows, d, hidden = steps * (1 + config.grid_size**2), config.hidden_size, config.intermediate_size
    states, wide = (torch.randn(rows, width, device=device, dtype=dtype) for width in (d, hidden))
    square, up, down = (torch.randn(*s, device=device, dtype=dtype) for s in ((d, d), (d, hidden), (hidden, d)))

    def run():
        for _ in range(layers):
            for _ in range(4):
                torch.mm(states, square)
            torch.mm(states, up)
            torch.mm(wide, down)

    return 2 * layers * rows * (4 * d * d + 2 * d * hidden), run


def flops_of_attention(layers: int, steps: int, config) -> int:
    return 4 * layers * steps * (1 + config.grid_size**2) ** 2 * config.hidden_size


def filled_cache(tower, steps: int, device, dtype) -> PVCTemporalCache:
    """A cache as it is after `steps` frames, filled with noise, as encoding them would take long."""
    config, cache = tower.config, PVCTemporalCache(num_steps=steps + 16)
    shape = (
        1 + config.grid_size**2,
        config.num_attention_heads,
        steps,
        config.hidden_size // config.num_attention_heads,
    )
    for layer in range(config.num_temporal_layers):
        cache.update(
            torch.randn(shape, device=device, dtype=dtype), torch.randn(shape, device=device, dtype=dtype), layer
        )
    return cache


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--layers", type=int, default=24)
    arguments.add_argument(
        "--stream-layers", type=int, default=12, help="fewer, as a float32 cache of 24 takes 100 MB a frame"
    )
    arguments.add_argument("--frames", type=int, default=2)
    args = arguments.parse_args()
    device, dtype = prepare(args)
    ours, native = towers(args.layers, device, dtype)
    clip = torch.randn(args.frames, 3, 448, 448, device=device, dtype=dtype)
    tile = clip[:1]
    shapes = {"layers": args.layers, "frames": args.frames, "patches": 1025, "width": 1024, "dtype": str(dtype)}
    figures = {}

    flops, run_products = matrix_products(args.layers, args.frames, ours.config, device, dtype)
    seconds = alternate(
        {
            "pvc": lambda: ours(clip, frames_per_clip=[args.frames]),
            "native": lambda: native(clip),
            "mm": run_products,
        },
        args.repeats,
        device,
    )
    figures["video: time of a frame, PVC / plain ViT"] = {**ratio(seconds, "pvc", "native"), "goal": "at most 1.20"}
    products_only = products(ours.config, args.frames)
    figures["  of which matrix products alone"] = {"ratio": products_only}
    rates = {
        "mm": [flops / value for value in seconds["mm"]],
        "pvc": [
            (flops + flops_of_attention(args.layers, args.frames, ours.config)) * products_only / value
            for value in seconds["pvc"]
        ],
        "native": [
            (flops + flops_of_attention(args.layers, args.frames, ours.config)) / value for value in seconds["native"]
        ],
    }
    for name in ("pvc", "native"):
        figure = {"ratio": statistics.median(rates[name]) / statistics.median(rates["mm"])}
        figure["gflops"] = {key: statistics.median(rates[key]) / 1e9 for key in (name, "mm")}
        figures[f"rate of all products, {name} / torch.mm"] = figure
    figures["rate of all products, pvc / torch.mm"]["goal"] = "at least 0.90"

    seconds = alternate(
        {"pvc": lambda: ours(tile, num_repeats=4), "native": lambda: native(tile)}, args.repeats, device
    )
    figures["image: a tile in 4 steps, PVC / one plain pass"] = {
        **ratio(seconds, "pvc", "native"),
        "goal": "at most 3.4",
    }
    figures["  of which matrix products"] = {"ratio": products(ours.config, 1, 4)}

    ours, native = towers(args.stream_layers, device, dtype)
    shapes["layers of streams and of the cost of steps"] = args.stream_layers
    growth = {}
    for length in CACHE_LENGTHS:
        cache = filled_cache(ours, length, device, dtype)
        stream = {"temporal_cache": [cache], "num_steps": [10_000]}
        peers = {
            "pvc": lambda stream=stream: ours(tile, frames_per_clip=[1], **stream),
            "native": lambda: native(tile),
        }
        growth[length] = ratio(alternate(peers, args.repeats, device), "pvc", "native")
        figures[f"stream: a frame after {length}, PVC / one plain frame"] = growth[length]
    growth[64]["goal"] = "at most 1.35"
    costs = {}
    for steps in IMAGE_STEPS:
        peers = {"pvc": lambda steps=steps: ours(tile, num_repeats=steps), "native": lambda: native(tile)}
        costs[steps] = ratio(alternate(peers, min(3, args.repeats), device), "pvc", "native")["ratio"]
    series = {
        "stream": {"length": list(growth), "ratio": [figure["ratio"] for figure in growth.values()]},
        "image": {"steps": list(costs), "ratio": list(costs.values())},
        "limits": {
            "stream": [products(ours.config, 1, 1, past) for past in CACHE_LENGTHS],
            "image": [products(ours.config, 1, steps) for steps in IMAGE_STEPS],
            "naive": [steps * products(ours.config, 1, 1) for steps in IMAGE_STEPS],
        },
    }
    report("tower", args, shapes, figures, series)


def products(config, frames: int, repeats: int = 1, past: int = 0) -> float:
    """
    Multiplications of PVC's tower over those of a plain one that sees the same frames once.

    Temporal attention is counted as it is computed: every step against every step, and those of the past.
    """
    patches, d = 1 + config.grid_size**2, config.hidden_size
    layer = patches * (4 * d * d + 2 * d * config.intermediate_size + 2 * patches * d)
    temporal = patches * (4 * d * d + 2 * (frames * repeats + past) * d)
    merged = d * config.downsample_factor**2
    compressor = config.tokens_per_frame * (merged * config.projection_dim + config.projection_dim**2)
    shared = config.num_hidden_layers - config.num_temporal_layers
    ours = shared * layer + repeats * (config.num_temporal_layers * (layer + temporal) + compressor)
    return ours / (config.num_hidden_layers * layer)


if __name__ == "__main__":
    main()
