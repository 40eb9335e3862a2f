# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""
The properties that the model promises, each as a test that can fail.

Models are tiny and randomised, parts that start at zero included, so that time acts in every layer that knows it.
"""

import itertools
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pvc.cache_pvc import PVCTemporalCache
from pvc.modeling_pvc import (
    FREQUENCY_DIM,
    PVCAdaptiveLayerNorm,
    PVCAutoModel,
    PVCForConditionalGeneration,
    PVCModel,
    PVCTimeEmbedding,
    PVCVisionModel,
    fold_clips,
    relative_timestamps,
    rows_per_item,
    unfold_clips,
)
from pvc.processing_pvc import PVCProcessor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode
from torch.nn import functional
from transformers import DynamicCache, GenerationConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling


ROOT = Path(__file__).resolve().parent.parent
IMAGE, VIDEO, VOCAB = 60, 61, 64
TOKENS, STEPS = 4, 4
LENGTHS = [3, 1, 4, 4, 2]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tower(tiny_tower):
    return tiny_tower()


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model()


def frames(number, size=16, seed=0):
    return torch.randn(number, 3, size, size, generator=torch.Generator().manual_seed(seed))


def features(outputs):
    """What the tower gives before and after compression, by step."""
    return torch.cat([outputs.last_hidden_state.flatten(1), outputs.pooler_output.flatten(1)], dim=1)


def assert_close(actual, expected, tolerance=1e-5):
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def prompt(*parts, seed=0):
    """Placeholders and random text: ("image", tiles), ("video", rows) and ("text", tokens) -> `int[s]`."""
    generator = torch.Generator().manual_seed(seed)
    pieces = {
        "image": lambda tiles: torch.full((tiles * STEPS * TOKENS,), IMAGE),
        "video": lambda rows: torch.full((rows * TOKENS,), VIDEO),
        "text": lambda number: torch.randint(3, IMAGE, (number,), generator=generator),
    }
    return torch.cat([pieces[kind](number) for kind, number in parts])


def mixed_inputs():
    """One row: text, an image of two tiles, text, a video of three frames, text."""
    return {
        "input_ids": prompt(("text", 2), ("image", 2), ("text", 3), ("video", 3), ("text", 4))[None],
        "pixel_values": frames(2, seed=1),
        "image_grid_thw": [[2, 1, 1]],
        "pixel_values_videos": frames(3, seed=2),
        "video_grid_thw": [[3, 1, 1]],
    }


def peak_memory(function, *args, **kwargs):
    """Most bytes that were allocated at once while a function ran, above those before it."""
    with torch.no_grad(), torch.profiler.profile(profile_memory=True) as profile:
        function(*args, **kwargs)
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate(event.nbytes() for event in events))


class TestTime:
    def test_relative_timestamps(self):
        tau = relative_timestamps([4, 2, 3], [0, 6, 1], [4, 8, 4], torch.device("cpu"))
        assert tau.tolist() == [0, 0.25, 0.5, 0.75, 0.75, 0.875, 0.25, 0.5, 0.75]
        assert tau.dtype == torch.float32

    @pytest.mark.parametrize(
        ("clips", "repeats", "expected"),
        [
            ([1, 1], 4, [0, 1 / 4, 2 / 4, 3 / 4] * 2),
            ([2, 5], 1, [0, 1 / 2, 0, 1 / 5, 2 / 5, 3 / 5, 4 / 5]),
            ([2], 2, [0, 1 / 4, 2 / 4, 3 / 4]),
        ],
    )
    def test_layers_and_compressor_are_told_i_over_t(self, tower, clips, repeats, expected):
        seen = []
        hooks = [
            module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
            for module in (tower.time_embedding, tower.compressor.time_embedding)
        ]
        tower(frames(sum(clips)), frames_per_clip=clips, num_repeats=repeats)
        for hook in hooks:
            hook.remove()
        assert len(seen) == 2
        for timestamps in seen:
            assert_close(timestamps, torch.tensor(expected), 1e-7)

    def test_time_embedding_is_dit_s(self, tower):
        tau = 0.3
        angles = [1000 * tau * 10000 ** (-i / 128) for i in range(128)]
        sinusoid = torch.tensor([*np.cos(angles), *np.sin(angles)], dtype=torch.float32)
        embedding = tower.time_embedding
        expected = embedding.fc2(functional.silu(embedding.fc1(sinusoid)))
        assert FREQUENCY_DIM == 256
        assert_close(embedding(torch.tensor([tau]))[0], expected, 1e-4)

    def test_adaptive_norm_is_its_formula(self, tower):
        norm = tower.progressive_layers[0].temporal_norm
        hidden, embeds = torch.randn(5, 17, 32), torch.randn(5, 16)
        scale, shift = norm.modulation(functional.silu(embeds)).split(32, dim=-1)
        base = functional.layer_norm(hidden, (32,), norm.norm.weight, norm.norm.bias, eps=1e-6)
        for step in range(5):
            assert_close(norm(hidden, embeds)[step], base[step] * (1 + scale[step]) + shift[step], 1e-6)

    def test_adaptive_norm_starts_as_layer_norm(self, tiny_config):
        tower = PVCVisionModel(tiny_config().vision_config)
        norms = [module for module in tower.modules() if isinstance(module, PVCAdaptiveLayerNorm)]
        assert len(norms) == 3
        for norm in norms:
            hidden = torch.randn(5, 7, *norm.norm.normalized_shape)
            assert torch.equal(norm(hidden, torch.randn(5, 16)), norm.norm(hidden))

    def test_norms_have_the_base_s_epsilons(self, tower):
        epsilons = {module.eps for name, module in tower.named_modules() if name.endswith(("norm1", "norm2"))}
        assert epsilons == {1e-6}
        assert tower.compressor.norm.norm.eps == 1e-5

    def test_the_steps_of_an_image_differ(self, tower):
        outputs = tower(frames(1), num_repeats=STEPS)
        for tokens in (outputs.last_hidden_state, outputs.pooler_output):
            for first in range(STEPS):
                for second in range(first):
                    assert (tokens[first] - tokens[second]).abs().max() > 1e-3

    @pytest.mark.parametrize("part", ["layers", "compressor", "neither"])
    def test_time_reaches_an_image_by_the_layers_and_by_the_compressor(self, tiny_tower, part):
        tower = tiny_tower()
        still = {"layers": [tower.compressor], "compressor": tower.progressive_layers, "neither": [tower]}[part]
        with torch.no_grad():
            for name, parameter in (item for module in still for item in module.named_parameters()):
                if "modulation" in name or "temporal_attention.o_proj" in name:
                    parameter.zero_()
        outputs = tower(frames(1), num_repeats=STEPS)
        spread = [(x - x[:1]).abs().max().item() for x in (outputs.last_hidden_state, outputs.pooler_output)]
        assert (spread[0] > 1e-3) == (part == "layers")
        assert (spread[1] > 1e-3) == (part != "neither")

    def test_folding_is_by_patch_position(self):
        hidden = torch.arange(2 * 3 * 5).view(6, 5, 1)
        folded = fold_clips(hidden, 2)
        assert folded.shape == (10, 3, 1)
        for clip in range(2):
            for patch in range(5):
                assert torch.equal(folded[clip * 5 + patch], hidden[clip * 3 : clip * 3 + 3, patch])
        assert torch.equal(unfold_clips(folded, 2), hidden)


class TestTower:
    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    @pytest.mark.parametrize("changed", range(5))
    def test_causal(self, tiny_tower, attention, changed):
        tower, clip = tiny_tower(attention), frames(5)
        other = clip.clone()
        other[changed] += 0.1 * frames(1, seed=1)[0]
        before, after = (tower(x, frames_per_clip=[5]) for x in (clip, other))
        for kind in ("last_hidden_state", "pooler_output"):
            assert torch.equal(before[kind][:changed], after[kind][:changed])
            for step in range(changed, 5):
                assert (before[kind][step] - after[kind][step]).abs().max() > 1e-4

    @pytest.mark.parametrize("make_cache", [DynamicCache, PVCTemporalCache])
    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    @pytest.mark.parametrize("split", [[1] * 7, [3, 3, 1], [7], [1, 6], [5, 2], "random"])
    def test_any_chunking_through_the_cache(self, tiny_tower, attention, split, make_cache):
        tower, clip, rng = tiny_tower(attention), frames(7), random.Random(0)
        whole = features(tower(clip, frames_per_clip=[7]))
        splits = [random_split(rng, 7) for _ in range(5)] if split == "random" else [split]
        for sizes in splits:
            cache = [make_cache()]
            parts = [
                features(tower(part, frames_per_clip=[len(part)], temporal_cache=cache, num_steps=[7]))
                for part in clip.split(sizes)
            ]
            assert_close(torch.cat(parts), whole)
            assert cache[0].get_seq_length() == 7

    @pytest.mark.parametrize("repeats", [1, 2])
    @pytest.mark.parametrize("split", ["ones", "halves", "whole", "random"])
    def test_any_chunking_of_several_clips_at_once(self, tower, split, repeats):
        rng, clips = random.Random(1), [frames(length, seed=length) for length in (5, 2, 7, 7)]
        whole = [features(tower(clip, [len(clip)], num_repeats=repeats)) for clip in clips]
        sizes = {
            "ones": lambda length: [1] * length,
            "halves": lambda length: [length // 2, length - length // 2],
            "whole": lambda length: [length],
            "random": lambda length: random_split(rng, length),
        }[split]
        pending = [list(clip.split(sizes(len(clip)))) for clip in clips]
        caches, parts = [PVCTemporalCache() for _ in clips], [[] for _ in clips]
        while any(pending):
            live = [index for index, chunks in enumerate(pending) if chunks]
            chunks = [pending[index].pop(0) for index in live]
            outputs = tower(
                torch.cat(chunks),
                frames_per_clip=[len(chunk) for chunk in chunks],
                num_repeats=repeats,
                temporal_cache=[caches[index] for index in live],
                num_steps=[len(clips[index]) * repeats for index in live],
            )
            for index, part in zip(live, features(outputs).split([len(chunk) * repeats for chunk in chunks])):
                parts[index].append(part)
        for index, expected in enumerate(whole):
            assert_close(torch.cat(parts[index]), expected)

    @pytest.mark.parametrize("repeats", [1, 3])
    def test_ragged_clips_are_what_each_is_alone(self, tower, repeats):
        clips = [frames(length, seed=index) for index, length in enumerate(LENGTHS)]
        together = tower(torch.cat(clips), frames_per_clip=LENGTHS, num_repeats=repeats)
        alone = [tower(clip, frames_per_clip=[len(clip)], num_repeats=repeats) for clip in clips]
        assert_close(features(together), torch.cat([features(outputs) for outputs in alone]))

    @pytest.mark.parametrize("size", [1, 3, 7, 14, 100])
    @pytest.mark.parametrize("repeats", [1, 3])
    def test_chunks_of_steps_give_the_features_of_all(self, tower, size, repeats):
        pixels = frames(14)
        whole, chunked = (
            tower(pixels, frames_per_clip=LENGTHS, num_repeats=repeats, encoder_chunk_size=chunk)
            for chunk in (1000, size)
        )
        assert_close(features(chunked), features(whole))

    def test_chunks_are_those_that_fit_the_memory_budget(self, tiny_tower):
        tower, rows = tiny_tower(), []
        hook = tower.progressive_layers[0].mlp.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
        tower(frames(8), frames_per_clip=[8])
        # 17 patches of 3 * 32 + 2 * 64 values of 4 bytes: 15,232 bytes a step.
        tower.config.memory_budget = 3 * 15232
        tower(frames(8), frames_per_clip=[8])
        tower.config.memory_budget = 1
        tower(frames(2), frames_per_clip=[2])
        hook.remove()
        assert rows == [8, 3, 3, 2, 1, 1]

    def test_a_budget_for_each_kind_of_device(self, tiny_config):
        vision = tiny_config(vision={"hidden_size": 1024, "intermediate_size": 4096, "image_size": 64}).vision_config
        sizes = []
        for device, dtype in (("cpu", torch.float32), ("meta", torch.float32), ("meta", torch.bfloat16)):
            with torch.device("meta"):
                tower = PVCVisionModel._from_config(vision, dtype=dtype)
            tower = tower.to_empty(device=device) if device == "cpu" else tower
            sizes.append(tower.steps_that_fit())
        a_step = 257 * (3 * 1024 + 2 * 4096) * 4
        assert sizes == [2**27 // a_step, 2**31 // a_step, 2**32 // a_step]

    def test_no_part_of_the_tower_is_given_more_than_a_chunk(self, tower):
        rows = {name: [] for name in ("embeddings", "compressor")}
        hooks = [
            getattr(tower, name).register_forward_pre_hook(lambda _, args, name=name: rows[name].append(len(args[0])))
            for name in rows
        ]
        tower(frames(5), frames_per_clip=[5], num_repeats=2, encoder_chunk_size=4)
        for hook in hooks:
            hook.remove()
        assert rows == {"embeddings": [4, 1], "compressor": [4, 4, 2]}

    def test_attentions_are_recorded_once_a_layer(self, tiny_tower):
        tower = tiny_tower("eager")
        expected = tower(frames(4), frames_per_clip=[4], output_attentions=True).attentions
        recorded = tower(frames(4), frames_per_clip=[4], output_attentions=True, encoder_chunk_size=1).attentions
        assert [x.shape for x in recorded] == [x.shape for x in expected]

    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    def test_memory_is_that_of_a_chunk_however_long_the_video(self, tiny_tower, attention):
        """Besides four copies of the hidden states, and the tokens that come out."""
        tower = tiny_tower(attention, image_size=32, hidden_size=64, intermediate_size=256, num_attention_heads=4)
        a_step = 4 * (65 * (3 * 64 + 2 * 256) + (2 * 4 * 65**2 if attention == "eager" else 0))
        for number in (16, 32, 64, 128):
            pixels, outside = frames(number, 32), 4 * number * (4 * 65 * 64 + 16 * 32)
            assert peak_memory(tower, pixels, [number], encoder_chunk_size=4) <= outside + 4 * a_step
        assert peak_memory(tower, pixels, [number], encoder_chunk_size=128) > outside + 64 * a_step

    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    def test_the_memory_budget_is_kept_and_used(self, tiny_tower, attention):
        settings = {"image_size": 64, "hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 4}
        budget = 8 * 2**20
        tower = tiny_tower(attention, memory_budget=budget, **settings)
        pixels, hidden, tokens = frames(128, 64), 4 * 128 * 257 * 64, 4 * 128 * 64 * 32
        assert 2 <= tower.steps_that_fit() <= 64
        assert 3 * hidden + budget / 2 < peak_memory(tower, pixels, [128]) <= 4 * hidden + tokens + budget

    def test_each_frame_may_have_its_own_repeats(self, tower):
        pixels, repeats = frames(4), [2, 1, 3, 1]
        repeated = torch.cat([frame.expand(number, -1, -1, -1) for frame, number in zip(pixels.split(1), repeats)])
        expected = tower(repeated, frames_per_clip=[3, 4])
        assert_close(features(tower(pixels, frames_per_clip=[2, 2], num_repeats=repeats)), features(expected))

    def test_every_frame_is_its_own_clip_if_nothing_is_said(self, tower):
        pixels = frames(3)
        alone = [features(tower(frame[None], frames_per_clip=[1])) for frame in pixels]
        assert_close(features(tower(pixels)), torch.cat(alone))

    def test_an_image_is_the_clip_of_its_own_repeated_pixels(self, tower):
        pixels = frames(2)
        image = tower(pixels, num_repeats=STEPS)
        clip = tower(pixels.repeat_interleave(STEPS, dim=0), frames_per_clip=[STEPS, STEPS])
        assert_close(features(image), features(clip))

    def test_shared_layers_run_once_per_tile(self, tower):
        rows, hooks = {}, []
        for name in ("embeddings", "shared_layers.0", "shared_layers.1", "progressive_layers.0", "compressor"):
            hook = tower.get_submodule(name).register_forward_pre_hook(
                lambda _, args, name=name: rows.update({name: rows.get(name, 0) + len(args[0])})
            )
            hooks.append(hook)
        tower(frames(3), num_repeats=STEPS)
        for hook in hooks:
            hook.remove()
        assert list(rows.values()) == [3, 3, 3, 12, 12]

    @pytest.mark.parametrize(("image_size", "factor", "expected"), [(16, 2, 4), (16, 4, 1), (16, 1, 16), (32, 2, 16)])
    def test_tokens_per_frame(self, tiny_tower, image_size, factor, expected):
        tower = tiny_tower(image_size=image_size, downsample_factor=factor)
        outputs = tower(frames(3, image_size), num_repeats=2)
        assert tower.config.tokens_per_frame == expected
        assert outputs.pooler_output.shape == (6, expected, 32)
        assert outputs.last_hidden_state.shape == (6, 1 + tower.config.grid_size**2, 32)

    def test_pixel_shuffle_is_internvl_s_v2(self, tower):
        grid, factor, width = 4, 2, 32
        patches = torch.randn(3, grid * grid, width)
        expected = torch.empty(3, 4, factor * factor * width)
        for row in range(grid // factor):
            for column in range(grid // factor):
                token = [
                    patches[:, (row * factor + r) * grid + column * factor + s]
                    for r in range(factor)
                    for s in range(factor)
                ]
                expected[:, row * (grid // factor) + column] = torch.cat(token, dim=-1)
        assert torch.equal(tower.compressor.pixel_shuffle(patches), expected)
        assert torch.equal(internvl_pixel_shuffle(patches, 1 / factor), expected)

    def test_eager_and_sdpa_agree(self, tiny_tower):
        outputs = [tiny_tower(kind)(frames(14), frames_per_clip=LENGTHS) for kind in ("eager", "sdpa")]
        assert_close(features(outputs[0]), features(outputs[1]))

    @pytest.mark.parametrize(("clips", "repeats"), [([1, 1], STEPS), ([3, 2], 1)])
    def test_compiles_to_one_graph(self, tiny_tower, clips, repeats):
        torch._dynamo.reset()
        tower, pixels = tiny_tower(), frames(sum(clips))
        compiled = torch.compile(tower, fullgraph=True, backend="aot_eager", dynamic=False)
        expected = tower(pixels, frames_per_clip=clips, num_repeats=repeats)
        with torch.no_grad():
            outputs = compiled(pixels, frames_per_clip=clips, num_repeats=repeats)
        assert_close(features(outputs), features(expected))

    def test_dtype_of_the_weights(self, tiny_tower):
        outputs = tiny_tower().to(torch.bfloat16)(frames(2), frames_per_clip=[2])
        assert outputs.last_hidden_state.dtype == outputs.pooler_output.dtype == torch.bfloat16

    def test_hidden_states_are_those_of_every_layer(self, tower):
        outputs = tower(frames(2), num_repeats=STEPS, output_hidden_states=True)
        assert [len(x) for x in outputs.hidden_states] == [2, 2, 2, 8, 8]
        assert torch.equal(outputs.hidden_states[-1], outputs.last_hidden_state)
        assert torch.equal(outputs.hidden_states[0], tower.embeddings(frames(2)))
        assert tower(frames(2)).hidden_states is None

    def test_attentions_are_causal_in_time_and_full_in_space(self, tiny_tower):
        outputs = tiny_tower("eager")(frames(3), frames_per_clip=[3], output_attentions=True)
        space, time = (3, 2, 17, 17), (17, 2, 3, 3)
        assert [tuple(x.shape) for x in outputs.attentions] == [space, space, time, space, time, space]
        for weights in outputs.attentions:
            assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
            if weights.shape == time:
                assert not weights.triu(1).any()
                assert (weights.tril() > 0).sum() == 17 * 2 * 6
            else:
                assert (weights > 0).all()

    def test_gives_a_tuple_when_asked(self, tower):
        outputs = tower(frames(2), return_dict=False)
        assert torch.equal(outputs[0], tower(frames(2)).last_hidden_state)

    def test_a_tower_without_progressive_layers_refuses_a_cache(self, tiny_tower):
        """Nothing would fill the cache, and the compressor would be told that every chunk is the first."""
        with pytest.raises(ValueError, match="num_temporal_layers=0"):
            tiny_tower(num_temporal_layers=0)(frames(1), [1], temporal_cache=[DynamicCache()], num_steps=[3])


def random_split(rng, total):
    sizes = []
    while sum(sizes) < total:
        sizes.append(rng.randint(1, total - sum(sizes)))
    return sizes


def internvl_pixel_shuffle(patches, scale):
    """InternVLChatModel's `extract_feature` and `pixel_shuffle`, `ps_version` "v2", as published."""
    side = int(patches.shape[1] ** 0.5)
    x = patches.reshape(patches.shape[0], side, side, -1)
    n, w, h, c = x.size()
    x = x.view(n, w, int(h * scale), int(c / scale))
    x = x.permute(0, 2, 1, 3).contiguous()
    x = x.view(n, int(h * scale), int(w * scale), int(c / (scale * scale)))
    x = x.permute(0, 2, 1, 3).contiguous()
    return x.reshape(x.shape[0], -1, x.shape[-1])


@pytest.fixture(scope="module")
def fresh(tiny_config, randomise):
    """A tower whose base weights are anything, and whose new parts are as `_init_weights` leaves them."""
    tower = PVCVisionModel(tiny_config().vision_config)
    new = {
        name: value.clone()
        for name, value in tower.state_dict().items()
        if any(part in name for part in ("modulation", "temporal_attention", "time_embedding"))
    }
    assert len(new) == 2 * 3 + 8 * 2 + 4 * 2
    randomise(tower).load_state_dict({**tower.state_dict(), **new})
    return tower


class TestIdentityAtTheStart:
    """A PVC freshly made from InternVL weights computes InternVL's features."""

    @staticmethod
    def intern_vit(tower, pixels):
        """InternViT from its equations, with the tower's weights: `float[f, 3, H, W] -> float[f, 1 + n, d]`."""
        weights, config = tower.state_dict(), tower.config
        width, heads = config.hidden_size, config.num_attention_heads

        def linear(x, name):
            return functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

        def norm(x, name):
            return functional.layer_norm(x, (width,), weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6)

        embed = "embeddings.patch_embedding"
        x = functional.conv2d(pixels, weights[f"{embed}.weight"], weights[f"{embed}.bias"], stride=config.patch_size)
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([weights["embeddings.class_embedding"].expand(len(x), -1, -1), x], dim=1)
        x = x + weights["embeddings.position_embedding"]
        for layer in ("shared_layers.0", "shared_layers.1", "progressive_layers.0", "progressive_layers.1"):
            y = norm(x, f"{layer}.norm1")
            q, k, v = (
                linear(y, f"{layer}.attention.{name}_proj").view(*y.shape[:2], heads, -1).transpose(1, 2)
                for name in "qkv"
            )
            y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            x = x + weights[f"{layer}.ls1"] * linear(y, f"{layer}.attention.o_proj")
            y = linear(functional.gelu(linear(norm(x, f"{layer}.norm2"), f"{layer}.mlp.fc1")), f"{layer}.mlp.fc2")
            x = x + weights[f"{layer}.ls2"] * y
        return x

    @staticmethod
    def mlp1(tower, patches):
        """InternVL's projector: pixel shuffle, LayerNorm, Linear, GELU, Linear."""
        compressor = tower.compressor
        x = internvl_pixel_shuffle(patches, 0.5)
        x = functional.layer_norm(x, x.shape[-1:], compressor.norm.norm.weight, compressor.norm.norm.bias, 1e-5)
        return compressor.fc2(functional.gelu(compressor.fc1(x)))

    @torch.no_grad()
    def test_a_video_is_intern_vit_frame_by_frame(self, fresh):
        outputs, expected = fresh(frames(5), frames_per_clip=[3, 2]), self.intern_vit(fresh, frames(5))
        assert (outputs.last_hidden_state - expected).abs().max() == 0
        assert (outputs.pooler_output - self.mlp1(fresh, expected[:, 1:])).abs().max() == 0

    @torch.no_grad()
    def test_the_steps_of_an_image_are_intern_vit_s_features(self, fresh):
        outputs = fresh(frames(1), num_repeats=STEPS)
        expected = self.intern_vit(fresh, frames(1)).expand(STEPS, -1, -1)
        assert_close(outputs.last_hidden_state, expected, 1e-5)
        assert_close(outputs.pooler_output, self.mlp1(fresh, expected[:, 1:]), 1e-5)

    def test_layer_scale_starts_at_its_setting(self, tiny_config):
        tower = PVCVisionModel(tiny_config(vision={"layer_scale_init_value": 0.25}).vision_config)
        scales = [value for name, value in tower.named_parameters() if name.endswith(("ls1", "ls2"))]
        assert len(scales) == 8
        assert all((scale == 0.25).all() for scale in scales)

    def test_everything_is_initialised(self, tiny_config):
        model = PVCForConditionalGeneration(tiny_config())
        for name, parameter in model.named_parameters():
            assert parameter.isfinite().all(), name
            if "modulation" in name or "temporal_attention.o_proj" in name or name.endswith("bias"):
                assert not parameter.any(), name
            else:
                assert parameter.any() and parameter.abs().max() < 2, name


class TestFeatures:
    def test_images_come_tile_after_tile_and_step_after_step(self, model):
        pixels, tower = frames(4), model.model.vision_tower
        items = model.get_image_features(pixels, [[1, 1, 1], [3, 1, 1]]).pooler_output
        assert [len(item) for item in items] == [STEPS * TOKENS, 3 * STEPS * TOKENS]
        tiles = [tower(tile[None], num_repeats=STEPS).pooler_output.flatten(0, 1) for tile in pixels]
        assert_close(torch.cat(items), torch.cat(tiles))

    def test_every_tile_is_an_image_and_all_frames_one_video_if_nothing_is_said(self, model):
        images = model.get_image_features(frames(3)).pooler_output
        assert [len(item) for item in images] == [STEPS * TOKENS] * 3
        videos = model.get_video_features(frames(3)).pooler_output
        expected = model.model.vision_tower(frames(3), frames_per_clip=[3]).pooler_output
        assert len(videos) == 1
        assert_close(videos[0], expected.flatten(0, 1))

    @pytest.mark.parametrize("as_tensor", [True, False])
    def test_videos_come_frame_after_frame(self, model, as_tensor):
        pixels, grid = frames(5), [[2, 1, 1], [3, 1, 1]]
        items = model.get_video_features(pixels, torch.tensor(grid) if as_tensor else grid).pooler_output
        for item, clip in zip(items, pixels.split([2, 3])):
            expected = model.model.vision_tower(clip, frames_per_clip=[len(clip)]).pooler_output
            assert_close(item, expected.flatten(0, 1))

    @pytest.mark.parametrize("grid", [[3, 2, 1], [3, 1, 2]])
    def test_each_tile_position_of_a_video_is_a_clip(self, model, grid):
        pixels, before = frames(6), frames(2, seed=1)
        items = model.get_video_features(torch.cat([before, pixels]), [[2, 1, 1], grid]).pooler_output
        tower = model.model.vision_tower
        positions = [tower(pixels[k::2], frames_per_clip=[3]).pooler_output for k in range(2)]
        expected = torch.cat([positions[k][t] for t in range(3) for k in range(2)])
        assert_close(items[1], expected)
        assert_close(items[0], tower(before, frames_per_clip=[2]).pooler_output.flatten(0, 1))

    def test_rows_per_item(self):
        grid = [[4, 1, 1], [3, 2, 2]]
        for form in (grid, torch.tensor(grid)):
            assert rows_per_item("video_grid_thw", form, 16) == [[4, 1], [3, 4]]
        with pytest.raises(ValueError, match=r"Expected 16 rows .* video_grid_thw .* got 15"):
            rows_per_item("video_grid_thw", grid, 15)

    def test_both_classes_give_the_same(self, model):
        for name in ("get_image_features", "get_video_features"):
            outer, inner = getattr(model, name)(frames(2)), getattr(model.model, name)(frames(2))
            assert torch.equal(outer.pooler_output[0], inner.pooler_output[0])
            assert torch.equal(outer.last_hidden_state, inner.last_hidden_state)
        ids = prompt(("image", 2), ("text", 3))[None]
        arguments = ids, model.get_input_embeddings()(ids), torch.zeros(int((ids == IMAGE).sum()), 32), IMAGE
        mask = model.get_placeholder_mask(*arguments)
        assert mask.any() and torch.equal(mask, model.model.get_placeholder_mask(*arguments))

    def test_encoders_and_decoder_are_found(self, model):
        for outer in (model, model.model):
            assert outer.get_encoder("image") is outer.get_encoder("video") is model.model.vision_tower
            assert outer.get_decoder() is model.model.language_model
            assert outer.get_input_embeddings() is model.model.language_model.embed_tokens
        assert model.get_output_embeddings() is model.lm_head

    def test_input_embeddings_can_be_set(self, tiny_model):
        model, embeddings = tiny_model(), torch.nn.Embedding(VOCAB, 32)
        model.set_input_embeddings(embeddings)
        assert model.model.language_model.embed_tokens is embeddings
        assert model.model.vision_tower.get_input_embeddings() is model.model.vision_tower.embeddings


class TestForward:
    def test_features_replace_their_placeholders_in_order(self, model):
        inputs, seen = mixed_inputs(), {}
        hook = model.model.language_model.register_forward_pre_hook(
            lambda _, args, kwargs: seen.update(kwargs), with_kwargs=True
        )
        outputs = model(**inputs)
        hook.remove()
        ids, embeds = inputs["input_ids"][0], seen["inputs_embeds"][0]
        image = model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"]).pooler_output[0]
        video = model.get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"]).pooler_output[0]
        text = (ids != IMAGE) & (ids != VIDEO)
        assert torch.equal(embeds[ids == IMAGE], image)
        assert torch.equal(embeds[ids == VIDEO], video)
        assert torch.equal(embeds[text], model.get_input_embeddings()(ids[text]))
        assert torch.equal(outputs.image_hidden_states, image)
        assert torch.equal(outputs.video_hidden_states, video)

    @pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3"])
    def test_any_language_model(self, tiny_model, model_type):
        model, inputs = tiny_model(text={"model_type": model_type}), mixed_inputs()
        logits = model(**inputs).logits
        assert logits.shape == (*inputs["input_ids"].shape, VOCAB)
        inputs["pixel_values"] = frames(2, seed=9)
        assert (model(**inputs).logits[:, -1] - logits[:, -1]).abs().max() > 1e-4

    def test_embeddings_do_for_ids(self, model):
        inputs = mixed_inputs()
        expected = model(**inputs).logits
        inputs["inputs_embeds"] = model.get_input_embeddings()(inputs.pop("input_ids"))
        assert torch.equal(model(**inputs).logits, expected)

    def test_encoder_outputs_do_for_pixels(self, model):
        inputs = mixed_inputs()
        expected = model(**inputs)
        encoded = {
            "image": model.get_image_features(inputs.pop("pixel_values"), inputs.pop("image_grid_thw")),
            "video": model.get_video_features(inputs.pop("pixel_values_videos"), inputs.pop("video_grid_thw")),
        }
        outputs = model(**inputs, mm_encoder_outputs=encoded)
        assert torch.equal(outputs.logits, expected.logits)
        assert set(encoded) == {"image", "video"}
        one_by_one = model(
            **inputs, mm_encoder_outputs={"image": encoded["image"], "video": encoded["video"], "audio": None}
        )
        assert torch.equal(one_by_one.logits, expected.logits)

    def test_encoder_outputs_may_hold_one_modality(self, model):
        inputs = mixed_inputs()
        expected = model(**inputs).logits
        encoded = {"image": model.get_image_features(inputs.pop("pixel_values"), inputs.pop("image_grid_thw"))}
        assert torch.equal(model(**inputs, mm_encoder_outputs=encoded).logits, expected)
        assert set(encoded) == {"image"}

    def test_loss_is_the_cross_entropy_of_the_labels(self, model):
        inputs = mixed_inputs()
        labels = inputs["input_ids"].clone()
        labels[:, :-3] = -100
        outputs = model(**inputs, labels=labels)
        log_probs = outputs.logits[0].double().log_softmax(-1)
        length = labels.shape[1]
        expected = -sum(log_probs[i - 1, labels[0, i]] for i in range(length - 3, length)) / 3
        assert_close(outputs.loss.double(), expected)
        assert model(**inputs).loss is None

    def test_loss_is_of_the_average_token_over_the_batch(self, model):
        ids = torch.stack([prompt(("text", 6)), prompt(("text", 6), seed=1)])
        labels = ids.clone()
        labels[0, :5], labels[1, :3] = -100, -100
        outputs = model(input_ids=ids, labels=labels)
        log_probs = outputs.logits.double().log_softmax(-1)
        picked = [log_probs[row, i - 1, ids[row, i]] for row, i in ((0, 5), (1, 3), (1, 4), (1, 5))]
        assert_close(outputs.loss.double(), -sum(picked) / 4)
        summed = model(input_ids=ids, labels=labels, num_items_in_batch=8).loss
        assert_close(summed.double(), -sum(picked) / 8)

    def test_logits_to_keep(self, model):
        inputs = mixed_inputs()
        logits = model(**inputs).logits
        for kept in (1, 3):
            assert_close(model(**inputs, logits_to_keep=kept).logits, logits[:, -kept:])
        positions = torch.tensor([0, 5, 9])
        assert_close(model(**inputs, logits_to_keep=positions).logits, logits[:, positions])

    def test_language_model_states_are_passed_on(self, tiny_model):
        inputs = mixed_inputs()
        length = inputs["input_ids"].shape[1]
        outputs = tiny_model("eager")(**inputs, output_hidden_states=True, output_attentions=True)
        assert [tuple(x.shape) for x in outputs.hidden_states] == [(1, length, 32)] * 3
        assert [tuple(x.shape) for x in outputs.attentions] == [(1, 2, length, length)] * 2

    def test_gives_a_tuple_when_asked(self, model):
        inputs = mixed_inputs()
        outputs = model(**inputs, return_dict=False)
        assert isinstance(outputs, tuple)
        assert torch.equal(outputs[0], model(**inputs).logits)

    def test_constructs_on_the_meta_device(self, tiny_config):
        with torch.device("meta"):
            for model in (PVCForConditionalGeneration(tiny_config()), PVCAutoModel(tiny_config())):
                assert {parameter.device.type for parameter in model.parameters()} == {"meta"}

    def test_tied_embeddings(self, tiny_model, tmp_path):
        model = tiny_model(tie_word_embeddings=True, text={"tie_word_embeddings": True})
        model.tie_weights()
        assert model.lm_head.weight is model.get_input_embeddings().weight
        model.save_pretrained(tmp_path)
        loaded = PVCForConditionalGeneration.from_pretrained(tmp_path)
        assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
        assert torch.equal(loaded(**mixed_inputs()).logits, model(**mixed_inputs()).logits)

    def test_vocabulary_can_grow(self, tiny_model):
        model = tiny_model()
        model.resize_token_embeddings(VOCAB + 8)
        assert model.config.text_config.vocab_size == VOCAB + 8
        inputs = mixed_inputs()
        outputs = model(**inputs, labels=inputs["input_ids"])
        assert outputs.logits.shape[-1] == VOCAB + 8
        assert outputs.loss.isfinite()

    def test_auto_model_s_body_has_no_head(self, tiny_config):
        names = {name for name, _ in PVCAutoModel(tiny_config()).named_parameters()}
        assert names == {name for name, _ in PVCModel(tiny_config()).named_parameters()}
        assert not any("lm_head" in name for name in names)
        assert {name.split(".")[0] for name in names} == {"vision_tower", "language_model"}


class TestErrors:
    """Every message says what was expected and what was received."""

    @pytest.mark.parametrize("shape", [(2, 3, 16, 20), (2, 1, 16, 16), (3, 16, 16), (1, 2, 3, 16, 16)])
    def test_shape_of_frames(self, tower, shape):
        with pytest.raises(ValueError, match=r"Expected pixel_values of shape \(num_frames, 3, 16, 16\)") as error:
            tower(torch.zeros(shape))
        assert f"got {shape}" in str(error.value)

    @pytest.mark.parametrize("clips", [[2], [2, 2], [3, 0], [4, -1], []])
    def test_clips_add_up_to_the_frames(self, tower, clips):
        with pytest.raises(ValueError, match="sum to the 3 frames given") as error:
            tower(frames(3), frames_per_clip=clips)
        assert f"got {clips}" in str(error.value)

    @pytest.mark.parametrize("name", ["temporal_cache", "num_steps"])
    def test_one_entry_per_clip(self, tower, name):
        settings = {"temporal_cache": [DynamicCache(), DynamicCache()], "num_steps": [3, 3]}
        settings[name] = settings[name] * 2
        with pytest.raises(ValueError, match=f"one entry of {name} for each of the 2 clips, got 4"):
            tower(frames(3), frames_per_clip=[1, 2], **settings)

    @pytest.mark.parametrize("repeats", [[1], [1, 0], [1, 1, 1]])
    def test_repeats_are_one_for_each_frame(self, tower, repeats):
        with pytest.raises(ValueError, match="one for each of the 2 frames, got"):
            tower(frames(2), num_repeats=repeats)

    @pytest.mark.parametrize("size", [0, -1])
    def test_a_chunk_holds_steps(self, tower, size):
        with pytest.raises(ValueError, match=f"encoder_chunk_size of at least 1, got {size}"):
            tower(frames(2), encoder_chunk_size=size)

    def test_a_clip_ends_at_its_horizon(self, tower):
        cache = PVCTemporalCache()
        tower(frames(3), [3], temporal_cache=[cache], num_steps=[4])
        with pytest.raises(ValueError, match="at most num_steps = 4 steps of a clip, got 5"):
            tower(frames(2), [2], temporal_cache=[cache], num_steps=[4])
        assert cache.get_seq_length() == 3

    def test_a_cache_comes_with_a_horizon(self, tower):
        with pytest.raises(ValueError, match="Expected num_steps, the horizon T of each clip.* got None"):
            tower(frames(1), [1], temporal_cache=[DynamicCache()])

    @pytest.mark.parametrize("kind", ["image", "video"])
    @pytest.mark.parametrize("rows", [1, 3])
    def test_grid_describes_the_rows(self, model, kind, rows):
        encode = getattr(model, f"get_{kind}_features")
        with pytest.raises(ValueError, match=rf"Expected {rows} rows .* {kind}_grid_thw describes, got 2;"):
            encode(frames(2), [[rows, 1, 1]])

    @pytest.mark.parametrize(("kind", "token"), [("image", IMAGE), ("video", VIDEO)])
    @pytest.mark.parametrize("difference", [-2, 1])
    @pytest.mark.parametrize("embedded", [False, True])
    def test_placeholders_are_as_many_as_features(self, model, kind, token, difference, embedded):
        needed = {"image": STEPS * TOKENS, "video": TOKENS}[kind]
        ids = torch.tensor([[3, 4, *[token] * (needed + difference), 5]])
        text = {"inputs_embeds": model.get_input_embeddings()(ids)} if embedded else {"input_ids": ids}
        pixels = {"image": "pixel_values", "video": "pixel_values_videos"}[kind]
        with pytest.raises(ValueError, match=f"Expected {needed} placeholders of token id {token}") as error:
            model(**text, **{pixels: frames(1)})
        assert f"got {needed + difference};" in str(error.value)

    def test_placeholders_without_features_of_the_other_modality_do_not_count(self, model):
        ids = prompt(("video", 4), ("text", 2))[None]
        with pytest.raises(ValueError, match=f"Expected 16 placeholders of token id {IMAGE}.* got 0;"):
            model(input_ids=ids, pixel_values=frames(1))

    @pytest.mark.parametrize(("kind", "token"), [("image", IMAGE), ("video", VIDEO)])
    def test_placeholders_without_any_features(self, model, kind, token):
        ids = prompt((kind, 4), ("text", 2))[None]
        for call in (model, model.generate):
            with pytest.raises(ValueError, match=f"Expected 0 placeholders of token id {token}"):
                call(input_ids=ids)

    @pytest.mark.parametrize("kind", ["image", "video"])
    def test_pixels_or_features_but_not_both(self, model, kind):
        inputs = mixed_inputs()
        encoded = {kind: BaseModelOutputWithPooling(pooler_output=(torch.zeros(4, 32),))}
        with pytest.raises(ValueError, match=f"pixels or mm_encoder_outputs of {kind}s, got both"):
            model(**inputs, mm_encoder_outputs=encoded)

    @pytest.mark.parametrize("both", [True, False])
    def test_ids_or_embeddings(self, model, both):
        ids = prompt(("text", 3))[None]
        text = {"input_ids": ids, "inputs_embeds": model.get_input_embeddings()(ids)} if both else {}
        with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
            model(**text)


def test_both_grids_are_read_before_a_tower_is_launched(model, monkeypatch):
    """Read later, the grid of the videos would wait on an accelerator for the images."""
    inputs, happened, to_list = mixed_inputs(), [], torch.Tensor.tolist
    for name in ("image_grid_thw", "video_grid_thw"):
        inputs[name] = torch.tensor(inputs[name])
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: happened.append("grid") or to_list(tensor))
    hook = model.model.vision_tower.register_forward_pre_hook(lambda *_: happened.append("tower"))
    model(**inputs)
    hook.remove()
    assert happened == ["grid", "grid", "tower", "tower"]


class TestDevice:
    """
    Nothing in a forward waits for the accelerator.

    Under `FakeTensorMode` tensors have a device and no values: whatever reads a value on the host raises.
    """

    @pytest.fixture
    def fake(self):
        with FakeTensorMode() as mode:
            yield mode

    @staticmethod
    def fake_model(tiny_config, body=PVCModel):
        with torch.device("cuda"):
            return body(tiny_config()).eval()

    @staticmethod
    def assert_on_device(tensor, shape):
        assert isinstance(tensor, FakeTensor)
        assert tensor.device.type == "cuda"
        assert tuple(tensor.shape) == shape

    @pytest.mark.parametrize(
        "sync", [lambda x: x.item(), lambda x: x.tolist(), lambda x: bool(x > 0), lambda x: int(x)]
    )
    def test_a_hidden_sync_would_be_caught(self, fake, sync):
        with pytest.raises(DataDependentOutputException, match="_local_scalar_dense"):
            sync(torch.ones((), device="cuda"))

    def test_a_hidden_copy_to_the_host_would_be_caught(self, fake, tiny_config, monkeypatch):
        model = self.fake_model(tiny_config)
        original = PVCTimeEmbedding.forward
        monkeypatch.setattr(PVCTimeEmbedding, "forward", lambda self, tau: original(self, tau.cpu()))
        with pytest.raises(RuntimeError, match="device"):
            model.vision_tower(torch.empty(2, 3, 16, 16, device="cuda"))

    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    def test_tower_and_compressor(self, fake, tiny_config, attention):
        model = self.fake_model(tiny_config)
        model.vision_tower.set_attn_implementation(attention)
        outputs = model.vision_tower(torch.empty(5, 3, 16, 16, device="cuda"), [2, 3], num_repeats=2)
        self.assert_on_device(outputs.last_hidden_state, (10, 17, 32))
        self.assert_on_device(outputs.pooler_output, (10, 4, 32))
        patches, tau = torch.empty(3, 16, 32, device="cuda"), torch.empty(3, device="cuda")
        self.assert_on_device(model.vision_tower.compressor(patches, tau), (3, 4, 32))

    @pytest.mark.parametrize("make_cache", [DynamicCache, PVCTemporalCache])
    def test_stream(self, fake, tiny_config, make_cache):
        tower, cache = self.fake_model(tiny_config).vision_tower, [make_cache()]
        for steps in (1, 3):
            pixels = torch.empty(steps, 3, 16, 16, device="cuda")
            outputs = tower(pixels, [steps], temporal_cache=cache, num_steps=[8])
            self.assert_on_device(outputs.pooler_output, (steps, 4, 32))
        assert cache[0].get_seq_length() == 4

    def test_bounded_stream(self, fake, tiny_config):
        tower, cache = self.fake_model(tiny_config).vision_tower, PVCTemporalCache(sink=1, window=2)
        for _ in range(5):
            tower(torch.empty(1, 3, 16, 16, device="cuda"), [1], temporal_cache=[cache], num_steps=[8])
        self.assert_on_device(cache.layers[0].keys, (17, 2, 3, 16))

    def test_chunks_and_repeats(self, fake, tiny_config):
        tower = self.fake_model(tiny_config).vision_tower
        pixels = torch.empty(3, 3, 16, 16, device="cuda")
        outputs = tower(pixels, [3], num_repeats=[1, 4, 2], encoder_chunk_size=2)
        self.assert_on_device(outputs.pooler_output, (7, 4, 32))

    def test_features(self, fake, tiny_config):
        model, pixels = self.fake_model(tiny_config), torch.empty(6, 3, 16, 16, device="cuda")
        images = model.get_image_features(pixels, [[1, 1, 1], [5, 1, 1]]).pooler_output
        self.assert_on_device(images[1], (5 * STEPS * TOKENS, 32))
        videos = model.get_video_features(pixels, [[2, 1, 1], [2, 2, 1]]).pooler_output
        self.assert_on_device(videos[1], (4 * TOKENS, 32))

    @pytest.mark.parametrize("embedded", [False, True])
    def test_splice(self, fake, tiny_config, embedded):
        model = self.fake_model(tiny_config, PVCForConditionalGeneration)
        ids = torch.empty(2, 40, dtype=torch.long, device="cuda")
        text = {"inputs_embeds": model.get_input_embeddings()(ids)} if embedded else {"input_ids": ids}
        outputs = model(
            **text,
            pixel_values=torch.empty(2, 3, 16, 16, device="cuda"),
            image_grid_thw=[[2, 1, 1]],
            pixel_values_videos=torch.empty(3, 3, 16, 16, device="cuda"),
            video_grid_thw=[[3, 1, 1]],
        )
        self.assert_on_device(outputs.logits, (2, 40, VOCAB))


class TestTraining:
    @staticmethod
    def loss(model):
        inputs = mixed_inputs()
        labels = inputs["input_ids"].clone()
        labels[:, :-4] = -100
        return model(**inputs, labels=labels).loss

    def test_every_parameter_learns(self, tiny_model):
        model = tiny_model().train()
        self.loss(model).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            # A key's bias shifts all scores of a query alike, which softmax does not see.
            assert parameter.grad.abs().max() > 0 or name.endswith("k_proj.bias"), name

    def test_new_parts_leave_the_identity(self, tiny_config):
        model = PVCForConditionalGeneration(tiny_config()).train()
        self.loss(model).backward()
        for name, parameter in model.named_parameters():
            if "modulation" in name and "compressor" in name or "temporal_attention.o_proj" in name:
                assert parameter.grad.abs().max() > 0, name

    @pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
    @pytest.mark.parametrize("reentrant", [False, True])
    def test_gradient_checkpointing_gives_the_same_gradients(self, tiny_model, reentrant):
        model = tiny_model().train()
        self.loss(model).backward()
        expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
        model.zero_grad()
        calls, tower = [], model.model.vision_tower
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        if reentrant:
            model.enable_input_require_grads()
        hook = tower.progressive_layers[0].attention.register_forward_hook(lambda *_: calls.append(1))
        self.loss(model).backward()
        hook.remove()
        # Image and video, each once in the forward and once again in the backward.
        assert len(calls) == 4
        for name, parameter in model.named_parameters():
            if reentrant and parameter.grad is None:
                assert "embeddings" in name
                continue
            assert_close(parameter.grad, expected[name])


ANSWER = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}


@pytest.fixture(scope="module")
def processor():
    return PVCProcessor.from_pretrained(ROOT, trust_remote_code=True)


@pytest.fixture(scope="module")
def talker(tiny_model, processor):
    """A model that the processor of this repository fits."""
    tokenizer = processor.tokenizer
    return tiny_model(
        text={"vocab_size": 968, "eos_token_id": None},
        vision={"image_size": 64, "patch_size": 8, "num_hidden_layers": 2, "num_temporal_layers": 1},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<VID_CONTEXT>"),
    )


class TestGeneration:
    """A tiny random model behind the processor of this repository."""

    @staticmethod
    def pictures():
        rng = np.random.default_rng(0)
        sizes = [(64, 64), (60, 120), (130, 70), (64, 50), (40, 160)]
        return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]

    @classmethod
    def rows(cls):
        """Text only, one image, two images, a video, an image and a video."""
        pictures = cls.pictures()
        clips = [np.random.default_rng(n).integers(0, 256, (n, 48, 64, 3), dtype=np.uint8) for n in (3, 2)]
        return [
            ("no picture at all", [], []),
            ("one", pictures[:1], []),
            ("two of them", pictures[1:3], []),
            ("moving", [], clips[:1]),
            ("all kinds", pictures[4:], clips[1:]),
        ]

    @staticmethod
    def inputs(processor, rows):
        texts = []
        for text, images, videos in rows:
            parts = [*[{"type": "image"}] * len(images), *[{"type": "video"}] * len(videos)]
            message = {"role": "user", "content": [*parts, {"type": "text", "text": text}]}
            texts.append(processor.apply_chat_template([message], tokenize=False, add_generation_prompt=True))
        images = [image for row in rows for image in row[1]] or None
        videos = [video for row in rows for video in row[2]] or None
        return processor(text=texts, images=images, videos=videos, padding=True, return_tensors="pt")

    @staticmethod
    def new_tokens(model, inputs, **settings):
        return model.generate(**inputs, **{**ANSWER, **settings})[:, inputs["input_ids"].shape[1] :]

    @pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [3, 2, 4, 0, 1]])
    @torch.no_grad()
    def test_a_row_of_a_batch_is_the_row_alone(self, talker, processor, order):
        rows = [self.rows()[index] for index in order]
        batch = self.inputs(processor, rows)
        assert (batch["attention_mask"][:, 0] == 0).any()
        logits, tokens = talker(**batch).logits, self.new_tokens(talker, batch)
        for index, row in enumerate(rows):
            single = self.inputs(processor, [row])
            length = single["input_ids"].shape[1]
            assert torch.equal(single["input_ids"][0], batch["input_ids"][index, -length:])
            assert_close(logits[index, -length:], talker(**single).logits[0], 1e-4)
            assert torch.equal(tokens[index], self.new_tokens(talker, single)[0])

    def test_cached_generation_is_uncached_generation(self, talker, processor):
        inputs = self.inputs(processor, self.rows())
        runs = [
            talker.generate(**inputs, **ANSWER, use_cache=cache, output_logits=True, return_dict_in_generate=True)
            for cache in (True, False)
        ]
        assert torch.equal(runs[0].sequences, runs[1].sequences)
        assert_close(torch.stack(runs[0].logits), torch.stack(runs[1].logits), 1e-4)
        assert len({tuple(row) for row in runs[0].sequences[:, -6:].tolist()}) > 1

    def test_generation_is_greedy_over_forward(self, talker, processor):
        inputs = self.inputs(processor, self.rows()[4:])
        expected = []
        ids = inputs["input_ids"]
        pixels = {name: value for name, value in inputs.items() if "pixel" in name or "grid" in name}
        for _ in range(3):
            expected.append(talker(input_ids=ids, **pixels).logits[:, -1].argmax(-1))
            ids = torch.cat([ids, expected[-1][:, None]], dim=1)
        assert torch.equal(self.new_tokens(talker, inputs, max_new_tokens=3)[0], torch.cat(expected))

    def test_pixels_are_encoded_once_per_generation(self, talker, processor):
        calls = []
        hook = talker.model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
        self.new_tokens(talker, self.inputs(processor, self.rows()), num_beams=2)
        hook.remove()
        assert len(calls) == 2

    @pytest.mark.parametrize(
        "settings",
        [
            {"num_beams": 3},
            {"num_beams": 3, "num_return_sequences": 2},
            {"do_sample": True, "top_k": 1, "num_return_sequences": 2},
        ],
    )
    def test_several_sequences_of_each_row_are_what_the_row_gets_alone(self, talker, processor, settings):
        rows, number = self.rows(), settings.get("num_return_sequences", 1)
        together = self.new_tokens(talker, self.inputs(processor, rows), **settings)
        assert len(together) == len(rows) * number
        for index, row in enumerate(rows):
            alone = self.new_tokens(talker, self.inputs(processor, [row]), **settings)
            assert torch.equal(together[index * number : (index + 1) * number], alone)

    def test_generation_encodes_in_chunks(self, talker, processor):
        sizes, mlp = [], talker.model.vision_tower.shared_layers[0].mlp
        hook = mlp.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
        inputs = self.inputs(processor, self.rows())
        whole = self.new_tokens(talker, inputs)
        assert max(sizes) > 2
        sizes.clear()
        assert torch.equal(self.new_tokens(talker, inputs, encoder_chunk_size=2), whole)
        hook.remove()
        assert max(sizes) == 2

    def test_generation_takes_encoder_outputs(self, talker, processor):
        inputs = self.inputs(processor, self.rows())
        expected = self.new_tokens(talker, inputs)
        encoded = {
            "image": talker.get_image_features(inputs.pop("pixel_values"), inputs.pop("image_grid_thw")),
            "video": talker.get_video_features(inputs.pop("pixel_values_videos"), inputs.pop("video_grid_thw")),
        }
        assert torch.equal(self.new_tokens(talker, inputs, mm_encoder_outputs=encoded), expected)


class TestChat:
    """The published way to ask, over `generate`."""

    SETTINGS = {"max_new_tokens": 5, "do_sample": False}

    @staticmethod
    def spy(model, monkeypatch):
        """The arguments with which `chat` called `generate`."""
        seen, generate = [], model.generate
        monkeypatch.setattr(model, "generate", lambda **kwargs: seen.append(kwargs) or generate(**kwargs))
        return seen

    @staticmethod
    def template(processor, question, visuals, history=()):
        """The ids that the processor gives for the same conversation."""
        messages = [{"role": "user", "content": question}]
        for index, (asked, answer) in enumerate(history):
            messages[index * 2 : index * 2] = [
                {"role": "user", "content": asked},
                {"role": "assistant", "content": answer},
            ]
        text = processor.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        for visual in visuals:
            assert text.count("@") >= 1
            text = text.replace("@", visual, 1)
        return processor.tokenizer(text, return_tensors="pt")["input_ids"]

    def test_text(self, talker, processor, monkeypatch):
        seen = self.spy(talker, monkeypatch)
        answer, history = talker.chat(processor.tokenizer, None, "how are you", self.SETTINGS, return_history=True)
        assert torch.equal(seen[0]["input_ids"], self.template(processor, "how are you", []))
        assert history == [("how are you", answer)]
        assert talker.chat(processor.tokenizer, None, "how are you", self.SETTINGS) == answer
        expected = self.template(processor, "and now", [], history)
        talker.chat(processor.tokenizer, None, "and now", self.SETTINGS, history=history)
        assert torch.equal(seen[-1]["input_ids"], expected)

    @pytest.mark.parametrize("question", ["<image>\nwhat is it", "what is it"])
    def test_one_image(self, talker, processor, monkeypatch, question):
        seen = self.spy(talker, monkeypatch)
        pixels = frames(3, 64)
        talker.chat(processor.tokenizer, pixels, question, self.SETTINGS, data_flag=torch.tensor([1]))
        visual = f"<img>{'<IMG_CONTEXT>' * 3 * STEPS * 16}</img>"
        assert torch.equal(seen[0]["input_ids"], self.template(processor, "@\nwhat is it", [visual]))
        assert torch.equal(seen[0]["pixel_values"], pixels)
        assert torch.as_tensor(seen[0]["image_grid_thw"]).tolist() == [[3, 1, 1]]

    def test_several_images(self, talker, processor, monkeypatch):
        seen, question = self.spy(talker, monkeypatch), "Image-1: <image>\nImage-2: <image>\nwhich"
        talker.chat(
            processor.tokenizer, frames(3, 64), question, self.SETTINGS, num_patches_list=[1, 2], data_flag=[2]
        )
        visuals = [f"<img>{'<IMG_CONTEXT>' * tiles * STEPS * 16}</img>" for tiles in (1, 2)]
        expected = self.template(processor, question.replace("<image>", "@"), visuals)
        assert torch.equal(seen[0]["input_ids"], expected)
        assert torch.as_tensor(seen[0]["image_grid_thw"]).tolist() == [[1, 1, 1], [2, 1, 1]]

    def test_video(self, talker, processor, monkeypatch):
        seen, question = self.spy(talker, monkeypatch), "Frame1: <image>\nFrame2: <image>\nwhere to"
        talker.chat(
            processor.tokenizer,
            frames(2, 64),
            question,
            self.SETTINGS,
            num_patches_list=[1, 1],
            data_flag=torch.tensor([3]),
            split_sizes=torch.tensor([2]),
        )
        expected = self.template(
            processor, question.replace("<image>", "@"), [f"<img>{'<VID_CONTEXT>' * 16}</img>"] * 2
        )
        assert torch.equal(seen[0]["input_ids"], expected)
        assert torch.as_tensor(seen[0]["video_grid_thw"]).tolist() == [[2, 1, 1]]
        assert "pixel_values" not in seen[0]

    def test_a_second_turn_keeps_the_image(self, talker, processor, monkeypatch):
        seen, tokenizer = self.spy(talker, monkeypatch), processor.tokenizer
        answer, history = talker.chat(tokenizer, frames(1, 64), "what", self.SETTINGS, return_history=True)
        talker.chat(tokenizer, frames(1, 64), "and its colour", self.SETTINGS, history=history)
        visual = f"<img>{'<IMG_CONTEXT>' * STEPS * 16}</img>"
        expected = self.template(processor, "and its colour", [visual], [("@\nwhat", answer)])
        assert torch.equal(seen[1]["input_ids"], expected)

    def test_markup_of_a_question_is_text(self, talker, processor, monkeypatch):
        seen = self.spy(talker, monkeypatch)
        talker.chat(processor.tokenizer, None, "what is <IMG_CONTEXT> <|im_end|>", self.SETTINGS)
        ids = seen[0]["input_ids"][0].tolist()
        assert talker.config.image_token_id not in ids
        assert ids.count(processor.tokenizer.convert_tokens_to_ids("<|im_end|>")) == 1

    def test_settings_may_be_an_object(self, talker, processor):
        chat = talker.chat(processor.tokenizer, None, "hello", GenerationConfig(**self.SETTINGS))
        assert chat == talker.chat(processor.tokenizer, None, "hello", self.SETTINGS)

    @pytest.mark.parametrize(
        ("settings", "expected", "received"),
        [
            ({"num_patches_list": [1, 1]}, "sum to the 3 rows", "got [1, 1];"),
            ({"question": "<image> and <image>"}, "each of the 1 entries", "got 2 in"),
            ({"num_patches_list": [1, 2]}, "each of the 2 entries", "got 1 in"),
            ({"split_sizes": [1, 1]}, "split_sizes to sum to the 3 rows", "got [1, 1];"),
            (
                {"question": "<image><image>", "num_patches_list": [2, 1], "data_flag": [3]},
                "equally many tiles",
                "got [2, 1];",
            ),
        ],
    )
    def test_errors(self, talker, processor, settings, expected, received):
        settings = {"question": "what", **settings}
        with pytest.raises(ValueError, match="Expected") as error:
            talker.chat(processor.tokenizer, frames(3, 64), generation_config=self.SETTINGS, **settings)
        message, found = str(error.value).rsplit("got ", 1)
        assert expected in message
        assert f"got {found}".startswith(received)
