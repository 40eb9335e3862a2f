# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""
A video to the first token of the answer: PVC's 64 tokens a frame against InternVL's 256, at the same shapes.

    python benchmarks/first_token.py

The peer is transformers' `InternVLForConditionalGeneration`. Both have the same share of their layers, as a whole 8B
model does not fit a laptop; random weights, and a vocabulary of 1,000. What is measured is held against the ratio that
the matrix products allow, counted from the shapes; and against what they allow at the rates of InternVL's tower and
decoder, each timed alone: attention and activations make that of a tower lower.
"""

from dataclasses import dataclass
from statistics import median

import torch
from measuring import alternate, parser, prepare, ratio, report
from pvc.configuration_pvc import PVCConfig
from pvc.modeling_pvc import PVCForConditionalGeneration
from tower import products
from transformers import InternVLConfig, InternVLForConditionalGeneration
from transformers.initialization import no_init_weights


VOCABULARY, IMAGE, VIDEO = 1000, 998, 999
NUM_TEXT = 16


@dataclass
class Shape:
    """Shapes of a language model (internlm2-chat-1.8b, internlm2_5-7b-chat), and how many layers are timed."""

    width: int
    heads: int
    intermediate: int
    decoder_layers: int
    vision_layers: int

    def text_config(self) -> dict:
        return {
            "model_type": "llama",
            "hidden_size": self.width,
            "num_hidden_layers": self.decoder_layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": 8,
            "head_dim": self.width // self.heads,
            "intermediate_size": self.intermediate,
            "vocab_size": VOCABULARY,
            "pad_token_id": 0,
        }


SHAPES = {"2B": Shape(2048, 16, 8192, 4, 4), "8B": Shape(4096, 32, 14336, 4, 3)}


def models(shape: Shape, device, dtype):
    """PVC and InternVL of one shape."""
    vision = {"num_hidden_layers": shape.vision_layers, "projection_dim": shape.width}
    ours = PVCConfig(vision_config=vision, text_config=shape.text_config(), image_token_id=IMAGE, video_token_id=VIDEO)
    vision = {"num_hidden_layers": shape.vision_layers, "attention_bias": True}
    native = InternVLConfig(vision_config=vision, text_config=shape.text_config(), image_token_id=IMAGE)
    made = []
    for kind, config in ((PVCForConditionalGeneration, ours), (InternVLForConditionalGeneration, native)):
        with torch.device(device), no_init_weights():
            model = kind._from_config(config, attn_implementation="sdpa", dtype=dtype).eval()
        # Which numbers does not matter, and these come fast.
        for parameter in model.parameters():
            parameter.uniform_(-0.02, 0.02)
        model.generation_config.eos_token_id = None
        made.append(model)
    return made


def products_of_decoder(shape: Shape, tokens: int) -> int:
    """Multiplications of reading a prompt, causal attention counted as it is computed: half."""
    key_value = 8 * shape.width // shape.heads
    a_token = 2 * shape.width**2 + 2 * shape.width * key_value + 3 * shape.width * shape.intermediate
    return shape.decoder_layers * (tokens * a_token + tokens**2 * shape.width)


def products_of_parts(shape: Shape, frames: int, vision) -> dict[str, list[int]]:
    """Multiplications of InternVL and of PVC, in the tower with what follows it, and in the decoder."""
    patches, d = 1 + vision.grid_size**2, vision.hidden_size
    plain = frames * shape.vision_layers * patches * (4 * d * d + 2 * d * vision.intermediate_size + 2 * patches * d)
    projector = frames * 256 * (4 * d * shape.width + shape.width**2)
    return {
        "tower": [plain + projector, plain * products(vision, frames)],
        "decoder": [products_of_decoder(shape, tokens * frames + NUM_TEXT) for tokens in (256, 64)],
    }


def compare(name: str, shape: Shape, frames: int, args) -> dict[str, dict]:
    """The figures of one shape."""
    device, dtype = prepare(args)
    ours, native = models(shape, device, dtype)
    pixels = torch.randn(frames, 3, 448, 448, device=device, dtype=dtype)
    text = torch.randint(1, IMAGE, (1, NUM_TEXT), device=device)
    shown = torch.cat([torch.full((1, 64 * frames), VIDEO, device=device), text], dim=1)
    native_shown = torch.cat([torch.full((1, 256 * frames), IMAGE, device=device), text], dim=1)
    grid = [[frames, 1, 1]]
    settings = {"max_new_tokens": 1, "do_sample": False, "return_dict_in_generate": True}
    embeds = torch.randn(*native_shown.shape, shape.width, device=device, dtype=dtype)
    runs = {
        "pvc": lambda: ours.generate(shown, pixel_values_videos=pixels, video_grid_thw=grid, **settings),
        "internvl": lambda: native.generate(native_shown, pixel_values=pixels, **settings),
    }
    held = {kind: run().past_key_values.get_seq_length() - NUM_TEXT for kind, run in runs.items()}
    parts = {
        "tower": lambda: native.model.get_image_features(pixels),
        "decoder": lambda: native.model.language_model(inputs_embeds=embeds, use_cache=True),
    }
    seconds = alternate({**runs, **parts}, args.repeats, device)
    measured = ratio(seconds, "internvl", "pvc")
    work = products_of_parts(shape, frames, ours.config.vision_config)
    theirs, own = (sum(counts[kind] for counts in work.values()) for kind in (0, 1))
    times = {part: median(seconds[part]) for part in parts}
    at_rates = sum(times.values()) / sum(times[part] * work[part][1] / work[part][0] for part in parts)
    return {
        f"{name}: time to first token, InternVL / PVC": measured,
        f"{name}: matrix products allow": {"ratio": theirs / own},
        f"{name}: measured / allowed": {"ratio": measured["ratio"] * own / theirs, "goal": "at least 0.95"},
        f"{name}: allowed at the rates of InternVL's parts": {"ratio": at_rates, "seconds": times},
        f"{name}: measured / allowed at these": {"ratio": measured["ratio"] / at_rates},
        f"{name}: keys and values of a frame, PVC / InternVL": {
            "ratio": held["pvc"] / held["internvl"],
            "goal": "at most 0.25",
        },
    }


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--frames", type=int, default=6)
    args = arguments.parse_args()
    figures = {}
    for name, shape in SHAPES.items():
        figures.update(compare(name, shape, args.frames, args))
    shapes = {name: f"{s.decoder_layers} decoder and {s.vision_layers} vision layers" for name, s in SHAPES.items()}
    report("first_token", args, {"frames": args.frames, **shapes}, figures)


if __name__ == "__main__":
    main()
