# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""
The vision tower at InternViT-300M size against transformers' own `InternVLVisionModel` of the same size.

    python benchmarks/tower.py                             # a quarter of the layers
    python benchmarks/tower.py --layers 24 --repeats 5     # all; long on a CPU, right for an accelerator

Random weights; half of the layers are progressive, as in PVC-InternVL2-8B. The compressor is part of the tower, and
narrowed with the number of layers: it weighs in a part of the tower what it weighs in the whole, to 0.3 % of all
products. Many short turns make a steadier median than a few long ones, as the speed of a shared machine drifts within
seconds and what is compared should meet the same moment.
"""

import statistics

import torch
from measuring import alternate, parser, prepare, ratio, report
from pvc.cache_pvc import PVCTemporalCache
from pvc.configuration_pvc import PVCVisionConfig
from pvc.modeling_pvc import PVCVisionModel
from transformers import InternVLVisionConfig, InternVLVisionModel


WHOLE = PVCVisionConfig()
CACHE_LENGTHS = (1, 16, 32, 64)
IMAGE_STEPS = (1, 2, 4, 8)


def towers(layers: int, device, dtype):
    """PVC's and the native one, of `layers` layers, in evaluation mode."""
    width = WHOLE.projection_dim * layers // WHOLE.num_hidden_layers
    config = PVCVisionConfig(num_hidden_layers=layers, projection_dim=width)
    ours = PVCVisionModel._from_config(config, attn_implementation="sdpa")
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
    """A cache as it is after `steps` frames, filled with noise, as encoding takes long, with room for one more."""
    config, cache = tower.config, PVCTemporalCache(num_steps=steps + 1)
    head_dim = config.hidden_size // config.num_attention_heads
    shape = (1 + config.grid_size**2, config.num_attention_heads, steps, head_dim)
    for layer in range(config.num_temporal_layers):
        keys, values = (torch.randn(shape, device=device, dtype=dtype) for _ in range(2))
        cache.update(keys, values, layer)
    return cache


def of_videos(ours, native, clip, repeats: int) -> dict[str, dict]:
    """A clip in both towers, and the rate at which each gets its products done beside that of `torch.mm`."""
    frames, layers, config = len(clip), ours.config.num_hidden_layers, ours.config
    flops, run_products = matrix_products(layers, frames, config, clip.device, clip.dtype)
    peers = {
        "pvc": lambda: ours(clip, frames_per_clip=[frames]),
        "native": lambda: native(clip),
        "mm": run_products,
    }
    seconds = alternate(peers, repeats, clip.device)
    figures = {
        "video: time of a frame, PVC / plain ViT": {**ratio(seconds, "pvc", "native"), "goal": "at most 1.20"},
        "  of which matrix products alone": {"ratio": products(config, frames)},
    }
    of_native = flops + flops_of_attention(layers, frames, config)
    work = {"pvc": of_native * products(config, frames), "native": of_native, "mm": flops}
    gflops = {name: work[name] / statistics.median(seconds[name]) / 1e9 for name in peers}
    for name, goal in (("pvc", {"goal": "at least 0.90"}), ("native", {})):
        rates = {"ratio": gflops[name] / gflops["mm"], "gflops": {key: gflops[key] for key in (name, "mm")}}
        figures[f"rate of all products, {name} / torch.mm"] = {**rates, **goal}
    return figures


def of_images(ours, native, tile, repeats: int) -> tuple[dict[str, dict], dict[str, list]]:
    """A tile in several steps: the figures, and what each number of `IMAGE_STEPS` costs in plain passes."""
    names = {steps: f"{steps} steps" for steps in IMAGE_STEPS}
    peers = {names[steps]: lambda steps=steps: ours(tile, num_repeats=steps) for steps in IMAGE_STEPS}
    seconds = alternate({"native": lambda: native(tile), **peers}, repeats, tile.device)
    costs = {steps: ratio(seconds, names[steps], "native") for steps in IMAGE_STEPS}
    figures = {
        "image: a tile in 4 steps, PVC / one plain pass": {**costs[4], "goal": "at most 3.4"},
        "  of which matrix products": {"ratio": products(ours.config, 1, 4)},
    }
    return figures, {"steps": list(costs), "ratio": [cost["ratio"] for cost in costs.values()]}


def of_streams(ours, native, tile, repeats: int) -> tuple[dict[str, dict], dict[str, list]]:
    """A frame after `CACHE_LENGTHS` others: the figures, and what each length costs in plain passes."""
    caches = {length: filled_cache(ours, length, tile.device, tile.dtype) for length in CACHE_LENGTHS}
    names = {length: f"after {length}" for length in CACHE_LENGTHS}

    def encode(cache):
        ours(tile, frames_per_clip=[1], temporal_cache=[cache], num_steps=[10_000])
        for layer in cache.layers:
            layer.crop(-1)

    def read(cache):
        for layer in cache.layers:
            layer.keys.sum()
            layer.values.sum()

    peers = {names[length]: lambda cache=cache: encode(cache) for length, cache in caches.items()}
    longest = CACHE_LENGTHS[-1]
    peers["read"] = lambda: read(caches[longest])
    seconds = alternate({"native": lambda: native(tile), **peers}, repeats, tile.device)
    costs = {length: ratio(seconds, names[length], "native") for length in CACHE_LENGTHS}
    figures = {f"stream: a frame after {length}, PVC / one plain frame": cost for length, cost in costs.items()}
    costs[longest]["goal"] = "at most 1.35"
    reading = ratio(seconds, "read", "native")
    figures[f"  of which reading {longest} frames' keys and values once"] = reading
    series = {
        "length": list(costs),
        "ratio": [cost["ratio"] for cost in costs.values()],
        "reading": [reading["ratio"] * length / longest for length in costs],
    }
    return figures, series


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--layers", type=int, default=WHOLE.num_hidden_layers // 4, help="half are progressive")
    arguments.add_argument("--frames", type=int, default=2)
    arguments.set_defaults(repeats=12)
    args = arguments.parse_args()
    device, dtype = prepare(args)
    ours, native = towers(args.layers, device, dtype)
    clip = torch.randn(args.frames, 3, 448, 448, device=device, dtype=dtype)
    figures = of_videos(ours, native, clip, args.repeats)
    of_image, image = of_images(ours, native, clip[:1], args.repeats)
    of_stream, stream = of_streams(ours, native, clip[:1], args.repeats)
    series = {
        "stream": stream,
        "image": image,
        "limits": {
            "stream": [products(ours.config, 1, 1, past) for past in CACHE_LENGTHS],
            "image": [products(ours.config, 1, steps) for steps in IMAGE_STEPS],
            "naive": [steps * products(ours.config, 1, 1) for steps in IMAGE_STEPS],
        },
    }
    layers = f"{args.layers} of {WHOLE.num_hidden_layers}"
    shapes = {"layers": layers, "frames": args.frames, "patches": 1025, "width": 1024, "dtype": str(dtype)}
    report("tower", args, shapes, {**figures, **of_image, **of_stream}, series)


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
