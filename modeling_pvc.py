# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT  # trf-ignore: TRF028 (the licence is MIT)
"""
PVC, Progressive Visual Token Compression (CVPR 2025, arXiv 2412.09613), on InternViT and any decoder of transformers.

Every visual input is a clip of frames. An image tile is a static clip of `num_image_steps` equal frames, a video a
clip of its sampled frames. The design in five decisions:

- The vision tower is *progressive*: in its last layers each patch also attends, causally, to the same place in earlier
  frames (`PVCProgressiveLayer`), so a step can be encoded as what the earlier steps have not already said.
- A step knows when it is: `PVCTimeEmbedding` of the relative timestamp tau = i / T drives `PVCAdaptiveLayerNorm`,
  without which the equal frames of an image could not tell each other apart.
- `PVCCompressor`, inside the tower, leaves `tokens_per_frame` tokens of each step (64 at 448 pixels).
- New parts start at identity: a PVC made from InternVL weights computes InternVL's features until it is trained.
- One encoder for images and videos; they differ only in `num_repeats` and `frames_per_clip`, host-side integers.

Docstrings are written out: what `auto_docstring` would add to a module of the Hub has holes (hence `TRF057` below).
Axis letters: b clip, t step, n patch (CLS included), d channel, s text position; f unique frame.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from transformers import AutoModel, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    BaseModelOutputWithPooling,
    CausalLMOutputWithPast,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, torch_compilable_check
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .chat_pvc import PVCChatMixin
from .configuration_pvc import PVCConfig, PVCVisionConfig
from .streaming_pvc import PVCStream, encode_video


# Width of the sinusoid and its longest wavelength over 2 pi, as in DiT (arXiv 2212.09748, `TimestepEmbedder`).
FREQUENCY_DIM = 256
MAX_PERIOD = 10_000.0
# tau in [0, 1) is stretched to the range of diffusion timesteps, for which those wavelengths were chosen.
TIME_SCALE = 1000.0
# InternVL's `mlp1.0` is an `nn.LayerNorm` with torch's default epsilon, unlike the layers of its vision tower.
COMPRESSOR_NORM_EPS = 1e-5
# Bytes of activations at a time. Beyond 32 MB a block, glibc gives memory that is fetched page by page at first touch.
MEMORY_BUDGET, CPU_MEMORY_BUDGET = 2**31, 2**27


def relative_timestamps(
    steps_per_clip: Sequence[int], past_steps: Sequence[int], num_steps: Sequence[int], device: torch.device
) -> torch.Tensor:
    """
    tau_i = i / T of every step, clip after clip: `int[b], int[b], int[b] -> float32[sum of steps_per_clip]`.

    Built on the device from host integers, so no transfer waits for it. A stream that outlives its horizon stays at
    its last timestamp, as tau is below 1.
    """
    return torch.cat(
        [
            torch.arange(past, past + steps, dtype=torch.float32, device=device).clamp(max=horizon - 1) / horizon
            for steps, past, horizon in zip(steps_per_clip, past_steps, num_steps)
        ]
    )


def count_steps(frames_per_clip: Sequence[int], num_repeats: int | Sequence[int]) -> list[int]:
    """Steps of each clip, whose frames are repeated all alike or each for itself."""
    if isinstance(num_repeats, int):
        return [num_frames * num_repeats for num_frames in frames_per_clip]
    repeats = iter(num_repeats)
    return [sum(itertools.islice(repeats, num_frames)) for num_frames in frames_per_clip]


def fold_clips(hidden_states: torch.Tensor, num_clips: int) -> torch.Tensor:
    """`(b t) n d -> (b n) t d`: one row per patch position, which temporal attention runs along."""
    return hidden_states.unflatten(0, (num_clips, -1)).transpose(1, 2).flatten(0, 1)


def unfold_clips(hidden_states: torch.Tensor, num_clips: int) -> torch.Tensor:
    """`(b n) t d -> (b t) n d`: the inverse of `fold_clips`."""
    return hidden_states.unflatten(0, (num_clips, -1)).transpose(1, 2).flatten(0, 1)


def in_chunks(function: Callable, size: int | None, *states: torch.Tensor, dim: int = 0) -> torch.Tensor:
    """`function(*states)`, on `size` entries of `dim` at a time (None: all), so that its memory is that of `size`."""
    if size is None or size >= states[0].shape[dim]:
        return function(*states)
    return torch.cat([function(*parts) for parts in zip(*(x.split(size, dim) for x in states))], dim)


def on_host(grid_thw: torch.Tensor | Sequence[Sequence[int]] | None) -> Sequence[Sequence[int]] | None:
    """A `grid_thw` as integers of the host, which wait for an accelerator if it is there."""
    return grid_thw.tolist() if isinstance(grid_thw, torch.Tensor) else grid_thw


def rows_per_item(name: str, grid_thw: torch.Tensor | Sequence[Sequence[int]], num_rows: int) -> list[list[int]]:
    """
    `[rows of time, rows per time]` of each item of a `grid_thw`, as the host integers the tower is described with.

    Pass a list to spare the fetch of a grid from an accelerator.
    """
    items = [[frames, height * width] for frames, height, width in on_host(grid_thw)]
    described = sum(frames * rows for frames, rows in items)
    if described != num_rows:
        raise ValueError(
            f"Expected {described} rows of pixel values, the number that {name} describes, got {num_rows}; pass both "
            "as PVCProcessor returned them."
        )
    return items


def is_prefill(past_key_values: Cache | None) -> bool:
    """Whether a prompt begins here, as far as the host knows without waiting for an accelerator."""
    length = 0 if past_key_values is None else past_key_values.get_seq_length()
    return isinstance(length, int) and length == 0


# trf-ignore: TRF057
@dataclass
class PVCModelOutputWithPast(BaseModelOutputWithPast):
    """
    Output of [`PVCModel`]: that of the language model, and

    Args:
        image_hidden_states, video_hidden_states (`torch.Tensor` of shape `(num_tokens, hidden_size)`, *optional*):
            Compressed tokens that replaced the placeholders, item after item.
    """

    image_hidden_states: torch.Tensor | None = None
    video_hidden_states: torch.Tensor | None = None


# trf-ignore: TRF057
@dataclass
class PVCCausalLMOutputWithPast(CausalLMOutputWithPast):
    """Output of [`PVCForConditionalGeneration`]: loss and logits, and what [`PVCModelOutputWithPast`] adds."""

    image_hidden_states: torch.Tensor | None = None
    video_hidden_states: torch.Tensor | None = None


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float | int = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention written out: `float[b, heads, q, d], float[b, heads, k, d] x 2 -> float[b, q, heads, d]`."""
    attention_weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        attention_weights = attention_weights + attention_mask
    attention_weights = attention_weights.softmax(dim=-1)
    attention_weights = nn.functional.dropout(attention_weights, p=dropout, training=module.training)
    attention_output = torch.matmul(attention_weights, value)
    return attention_output.transpose(1, 2).contiguous(), attention_weights


class PVCVisionEmbeddings(nn.Module):
    """Patches, CLS and learned positions of InternViT: `float[f, 3, H, W] -> float[f, 1 + n, d]`."""

    def __init__(self, config: PVCVisionConfig):
        super().__init__()
        self.image_size = config.image_size
        self.num_channels = config.num_channels
        self.patch_embedding = nn.Conv2d(
            config.num_channels, config.hidden_size, kernel_size=config.patch_size, stride=config.patch_size
        )
        self.class_embedding = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.position_embedding = nn.Parameter(torch.empty(1, 1 + config.grid_size**2, config.hidden_size))

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        expected = (self.num_channels, self.image_size, self.image_size)
        if pixel_values.ndim != 4 or tuple(pixel_values.shape[1:]) != expected:
            raise ValueError(
                f"Expected pixel_values of shape (num_frames, {', '.join(map(str, expected))}), got "
                f"{tuple(pixel_values.shape)}; PVCProcessor makes frames of that size, load_image and load_video with "
                f"input_size={self.image_size}."
            )
        patches = self.patch_embedding(pixel_values.to(self.patch_embedding.weight.dtype)).flatten(2).transpose(1, 2)
        class_token = self.class_embedding.expand(patches.shape[0], -1, -1)
        return torch.cat([class_token, patches], dim=1) + self.position_embedding


class PVCZeroLinear(nn.Linear):
    """
    A Linear that starts at zero, so that the branch it ends starts as nothing.

    A class of its own, because initialisation reaches custom code only by modules that own parameters.
    """


class PVCAttention(nn.Module):
    """
    Multi-head attention along the second axis: `float[b, n, d] -> float[b, n, d]`.

    One class for space and time. Spatial attention is given one row per frame and no mask, temporal attention one row
    per patch position, a causal mask and, in streams, the cache of earlier steps.
    """

    def __init__(self, config: PVCVisionConfig, is_causal: bool = False, layer_idx: int | None = None):
        super().__init__()
        self.config = config
        self.is_causal = is_causal
        self.layer_idx = layer_idx
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        # Training adds time to a ViT that already sees.
        self.o_proj = (PVCZeroLinear if is_causal else nn.Linear)(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        heads = (-1, self.head_dim)
        query = self.q_proj(hidden_states).unflatten(-1, heads).transpose(1, 2)
        key = self.k_proj(hidden_states).unflatten(-1, heads).transpose(1, 2)
        value = self.v_proj(hidden_states).unflatten(-1, heads).transpose(1, 2)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)

        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attention_output, attention_weights = attention_interface(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.config.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            is_causal=self.is_causal,
        )
        return self.o_proj(attention_output.flatten(2)), attention_weights


class PVCMLP(nn.Module):
    """Two layers with an activation between: `float[..., d] -> float[..., d]`."""

    def __init__(self, config: PVCVisionConfig):
        super().__init__()
        self.activation_fn = ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation_fn(self.fc1(hidden_states)))


class PVCTimeEmbedding(nn.Module):
    """
    Embeds relative timestamps: `float[t] -> float[t, e]`, e = `time_embed_dim`.

    Sinusoid of 1000 tau, then a two-layer MLP, in DiT's form (arXiv 2212.09748). That PVC embeds a relative timestamp
    with 256 sinusoidal dimensions and an MLP is from reading notes of the paper; tau = i / T is this project's choice.
    """

    def __init__(self, config: PVCVisionConfig):
        super().__init__()
        self.fc1 = nn.Linear(FREQUENCY_DIM, config.time_embed_dim)
        self.activation_fn = nn.SiLU()
        self.fc2 = nn.Linear(config.time_embed_dim, config.time_embed_dim)

    def forward(self, timestamps: torch.Tensor) -> torch.Tensor:
        half = FREQUENCY_DIM // 2
        exponents = torch.arange(half, dtype=torch.float32, device=timestamps.device) / half
        angles = TIME_SCALE * timestamps[:, None] * torch.exp(-math.log(MAX_PERIOD) * exponents)
        sinusoid = torch.cat([angles.cos(), angles.sin()], dim=-1).to(self.fc1.weight.dtype)
        return self.fc2(self.activation_fn(self.fc1(sinusoid)))


class PVCAdaptiveLayerNorm(nn.Module):
    """
    AdaLN(x, e) = LayerNorm(x) * (1 + scale) + shift, (scale, shift) = Linear(SiLU(e)).

    `float[t, n, d], float[t, e] -> float[t, n, d]`. The modulation starts at zero, where AdaLN is the base norm. The
    paper names AdaLN and what it is conditioned on; the form is DiT's, without a gate.
    """

    def __init__(self, hidden_size: int, time_embed_dim: int, eps: float):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size, eps=eps)
        self.activation_fn = nn.SiLU()
        self.modulation = PVCZeroLinear(time_embed_dim, 2 * hidden_size)

    def forward(self, hidden_states: torch.Tensor, time_embeds: torch.Tensor) -> torch.Tensor:
        scale, shift = self.modulation(self.activation_fn(time_embeds))[:, None].chunk(2, dim=-1)
        # norm * (1 + scale) + shift in one pass.
        return torch.addcmul(shift, self.norm(hidden_states), 1 + scale)


class PVCVisionLayer(GradientCheckpointingLayer):
    """
    A layer of InternViT, `float[f, n, d] -> float[f, n, d]`:

        x = x + ls1 * Attention(LN(x))
        x = x + ls2 * MLP(LN(x))
    """

    def __init__(self, config: PVCVisionConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = PVCAttention(config)
        self.ls1 = nn.Parameter(torch.empty(config.hidden_size))
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = PVCMLP(config)
        self.ls2 = nn.Parameter(torch.empty(config.hidden_size))

    def forward(self, hidden_states: torch.Tensor, chunk_size: int | None = None) -> torch.Tensor:
        return in_chunks(self.within_frames, chunk_size, hidden_states)

    def within_frames(self, hidden_states: torch.Tensor) -> torch.Tensor:
        attention_output, _ = self.attention(self.norm1(hidden_states))
        hidden_states = hidden_states + self.ls1 * attention_output
        return hidden_states + self.ls2 * self.mlp(self.norm2(hidden_states))


class PVCProgressiveLayer(PVCVisionLayer):
    """
    A progressive layer, `float[(b t), n, d] -> float[(b t), n, d]`; what is new is the first line:

        x = x + TemporalAttention(AdaLN(x, e))
        x = x + ls1 * Attention(LN(x))
        x = x + ls2 * MLP(LN(x))

    Temporal attention runs along t for each patch position, CLS included, causally. For a clip of three steps:

        step 0   1 0 0
        step 1   1 1 0
        step 2   1 1 1

    Its output projection starts at zero, so the layer starts as `PVCVisionLayer`.
    """

    def __init__(self, config: PVCVisionConfig, layer_idx: int):
        super().__init__(config)
        self.temporal_norm = PVCAdaptiveLayerNorm(config.hidden_size, config.time_embed_dim, config.layer_norm_eps)
        self.temporal_attention = PVCAttention(config, is_causal=True, layer_idx=layer_idx)

    def forward(
        self,
        hidden_states: torch.Tensor,
        time_embeds: torch.Tensor,
        clip_runs: Sequence["PVCClipRun"],
        chunk_size: int | None = None,
    ) -> torch.Tensor:
        along_time = partial(self.along_time, time_embeds=time_embeds, clip_runs=clip_runs)
        # As many patch positions of all steps as `chunk_size` steps have patches; a cache takes all positions at once.
        positions = None
        if chunk_size is not None and all(run.cache is None for run in clip_runs):
            positions = max(1, chunk_size * hidden_states.shape[1] // hidden_states.shape[0])
        hidden_states = hidden_states + in_chunks(along_time, positions, hidden_states, dim=1)
        return super().forward(hidden_states, chunk_size)

    def along_time(
        self, hidden_states: torch.Tensor, time_embeds: torch.Tensor, clip_runs: Sequence["PVCClipRun"]
    ) -> torch.Tensor:
        normed = self.temporal_norm(hidden_states, time_embeds)
        outputs = []
        for run, states in zip(clip_runs, normed.split([run.num_clips * run.num_steps for run in clip_runs])):
            # Contiguous once, for three projections.
            states = fold_clips(states, run.num_clips).contiguous()
            # Made where the tower begins; layers may be spread over devices.
            mask = None if run.attention_mask is None else run.attention_mask.to(states.device)
            states, _ = self.temporal_attention(states, mask, run.cache)
            outputs.append(unfold_clips(states, run.num_clips))
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0]


@dataclass
class PVCClipRun:
    """
    Neighbouring clips of equal length, which temporal attention takes together.

    Clips of unlike length are never padded to one another: each run is computed as it would be alone.
    """

    num_clips: int
    num_steps: int
    attention_mask: torch.Tensor | None
    cache: Cache | None


class PVCCompressor(nn.Module):
    """
    PixelShuffle, AdaLN and an MLP (the paper's adaptive compression), `float[t, n, d] -> float[t, n / r^2, D]`.

    For 448-pixel frames 32x32 patches of 1024 channels become 8x8 of 16384, then of the language model's width D. The
    channel order is InternVL's `ps_version` "v2": within a token, row of patches, column of patches, channel.
    """

    def __init__(self, config: PVCVisionConfig):
        super().__init__()
        self.config = config
        merged_size = config.hidden_size * config.downsample_factor**2
        self.time_embedding = PVCTimeEmbedding(config)
        self.norm = PVCAdaptiveLayerNorm(merged_size, config.time_embed_dim, COMPRESSOR_NORM_EPS)
        self.fc1 = nn.Linear(merged_size, config.projection_dim)
        self.activation_fn = nn.GELU()
        self.fc2 = nn.Linear(config.projection_dim, config.projection_dim)

    def pixel_shuffle(self, patches: torch.Tensor) -> torch.Tensor:
        """`t (h r w s) d -> t (h w) (r s d)`, r = s = `downsample_factor`."""
        factor = self.config.downsample_factor
        side = self.config.grid_size // factor
        patches = patches.unflatten(1, (side, factor, side, factor))
        return patches.transpose(2, 3).flatten(3).flatten(1, 2)

    def forward(self, patches: torch.Tensor, timestamps: torch.Tensor) -> torch.Tensor:
        hidden_states = self.norm(self.pixel_shuffle(patches), self.time_embedding(timestamps))
        return self.fc2(self.activation_fn(self.fc1(hidden_states)))


# trf-ignore: TRF057
class PVCPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation shared by the models of this file."""

    config: PVCConfig
    base_model_prefix = "model"
    input_modalities = ("image", "video", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["PVCVisionLayer", "PVCProgressiveLayer", "PVCCompressor"]
    _skip_keys_device_placement = ["past_key_values", "clip_runs"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, PVCVisionEmbeddings):
            init.normal_(module.class_embedding, std=0.02)
            init.normal_(module.position_embedding, std=0.02)
        elif isinstance(module, PVCVisionLayer):
            config = module.attention.config
            init.constant_(module.ls1, config.layer_scale_init_value)
            init.constant_(module.ls2, config.layer_scale_init_value)
        elif isinstance(module, PVCZeroLinear):
            init.zeros_(module.weight)
            init.zeros_(module.bias)


# trf-ignore: TRF057
class PVCVisionModel(PVCPreTrainedModel):
    """
    The vision tower, compressor included: frames in, language model tokens out.

    The layers before the first progressive one see each unique frame once; only then is a frame repeated.
    """

    config: PVCVisionConfig
    main_input_name = "pixel_values"
    input_modalities = ("image", "video")
    _input_embed_layer = "embeddings"
    _can_record_outputs = {"hidden_states": PVCVisionLayer, "attentions": PVCAttention}

    def __init__(self, config: PVCVisionConfig):
        super().__init__(config)
        self.embeddings = PVCVisionEmbeddings(config)
        num_shared_layers = config.num_hidden_layers - config.num_temporal_layers
        self.shared_layers = nn.ModuleList([PVCVisionLayer(config) for _ in range(num_shared_layers)])
        self.time_embedding = PVCTimeEmbedding(config)
        self.progressive_layers = nn.ModuleList(
            [PVCProgressiveLayer(config, layer_idx) for layer_idx in range(config.num_temporal_layers)]
        )
        self.compressor = PVCCompressor(config)
        self.post_init()

    # trf-ignore: TRF057
    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: torch.Tensor,
        frames_per_clip: Sequence[int] | None = None,
        num_repeats: int | Sequence[int] = 1,
        temporal_cache: Sequence[Cache] | None = None,
        num_steps: Sequence[int] | None = None,
        encoder_chunk_size: int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        r"""
        Args:
            pixel_values (`torch.Tensor` of shape `(num_frames, num_channels, height, width)`):
                Unique frames, normalised, clip after clip.
            frames_per_clip (`Sequence[int]`, *optional*):
                Frames of each clip, host integers that sum to `num_frames`. Every frame its own clip if not given.
            num_repeats (`int` or `Sequence[int]`, *optional*, defaults to 1):
                Steps per frame: `num_image_steps` for images, 1 for videos. A sequence gives each frame its own, as
                where neighbouring frames of a video are identical.
            temporal_cache (`Sequence[Cache]`, *optional*):
                One [`PVCTemporalCache`] per clip with the keys and values of its earlier steps; updated in place.
                Frames given in any split through it give the features of the whole clip.
            num_steps (`Sequence[int]`, *optional*):
                The horizon T of each clip, required with a cache. The steps given, if not given.
            encoder_chunk_size (`int`, *optional*):
                Steps of which a layer computes activations at a time; features are the same. Besides them, memory
                holds four times the hidden states of all steps. Those that fit `config.memory_budget`, if not given;
                all of them where attentions are recorded.

        Returns:
            `BaseModelOutputWithPooling` with `last_hidden_state` of shape `(steps, 1 + num_patches, hidden_size)`,
            before compression, and `pooler_output` of shape `(steps, tokens_per_frame, projection_dim)`.

        Raises:
            ValueError: if the clips do not add up to the frames, a description has not one entry per clip, or a cache
                comes without a horizon or has reached it.
        """
        if frames_per_clip is None:
            frames_per_clip = [1] * pixel_values.shape[0]
        self._check_clips(pixel_values.shape[0], frames_per_clip, num_repeats, temporal_cache, num_steps)
        if encoder_chunk_size is not None and encoder_chunk_size < 1:
            raise ValueError(f"Expected encoder_chunk_size of at least 1, got {encoder_chunk_size}; leave it out.")
        steps_per_clip = count_steps(frames_per_clip, num_repeats)
        past_steps = [0] * len(steps_per_clip)
        if temporal_cache is not None:
            past_steps = [cache.get_seq_length() for cache in temporal_cache]
            self._check_horizon(steps_per_clip, past_steps, num_steps, temporal_cache)
        if num_steps is None:
            num_steps = steps_per_clip
        chunk_size = self.steps_that_fit() if encoder_chunk_size is None else encoder_chunk_size
        if kwargs.get("output_attentions", getattr(self.config, "output_attentions", False)):
            # Each call of an attention is recorded as a layer's.
            chunk_size = None

        hidden_states = in_chunks(self.embeddings, chunk_size, pixel_values)
        for layer in self.shared_layers:
            hidden_states = layer(hidden_states, chunk_size)
        if not isinstance(num_repeats, int):
            num_repeats = torch.tensor(num_repeats, device=hidden_states.device)
        hidden_states = hidden_states.repeat_interleave(num_repeats, dim=0, output_size=sum(steps_per_clip))
        timestamps = relative_timestamps(steps_per_clip, past_steps, num_steps, hidden_states.device)
        time_embeds = self.time_embedding(timestamps)
        clip_runs = self._clip_runs(hidden_states, steps_per_clip, temporal_cache)
        for layer in self.progressive_layers:
            hidden_states = layer(hidden_states, time_embeds, clip_runs, chunk_size)

        return BaseModelOutputWithPooling(
            last_hidden_state=hidden_states,
            pooler_output=in_chunks(self.compressor, chunk_size, hidden_states[:, 1:], timestamps),
        )

    def steps_that_fit(self) -> int:
        """Steps whose activations fit `config.memory_budget`, counted where they are widest: in the MLP."""
        config = self.config
        budget = config.memory_budget
        if budget is None:
            budget = CPU_MEMORY_BUDGET if self.device.type == "cpu" else MEMORY_BUDGET
        patches = 1 + config.grid_size**2
        values = patches * (3 * config.hidden_size + 2 * config.intermediate_size)
        if config._attn_implementation == "eager":  # trf-ignore: TRF051 (a count: eager holds all scores at once)
            values += 2 * config.num_attention_heads * patches**2
        return max(1, budget // (values * self.dtype.itemsize))

    @staticmethod
    def _check_horizon(steps_per_clip: Sequence[int], past_steps: Sequence[int], num_steps, temporal_cache):
        for steps, past, horizon, cache in zip(steps_per_clip, past_steps, num_steps, temporal_cache):
            if past + steps > horizon and not getattr(cache, "is_bounded", False):
                raise ValueError(
                    f"Expected at most num_steps = {horizon} steps of a clip, got {past + steps}; give its length, or "
                    "watch what has no end through a PVCTemporalCache with a window."
                )

    def _check_clips(self, num_frames: int, frames_per_clip: Sequence[int], num_repeats, temporal_cache, num_steps):
        if sum(frames_per_clip) != num_frames or min(frames_per_clip, default=0) < 1:
            raise ValueError(
                f"Expected frames_per_clip of positive integers that sum to the {num_frames} frames given, got "
                f"{list(frames_per_clip)}; describe each clip once."
            )
        if not isinstance(num_repeats, int) and (len(num_repeats) != num_frames or min(num_repeats) < 1):
            raise ValueError(
                f"Expected num_repeats, one positive integer or one for each of the {num_frames} frames, got "
                f"{list(num_repeats)}."
            )
        if temporal_cache is not None and not self.progressive_layers:
            raise ValueError(
                "Expected progressive layers, which fill a temporal_cache, got num_temporal_layers=0; give the frames "
                "of a clip at once."
            )
        if temporal_cache is not None and num_steps is None:
            raise ValueError(
                "Expected num_steps, the horizon T of each clip, with a temporal_cache, got None; without it the "
                "split into parts would decide the timestamps."
            )
        for name, value in (("temporal_cache", temporal_cache), ("num_steps", num_steps)):
            if value is not None and len(value) != len(frames_per_clip):
                raise ValueError(
                    f"Expected one entry of {name} for each of the {len(frames_per_clip)} clips, got {len(value)}."
                )

    def _clip_runs(self, hidden_states, steps_per_clip: Sequence[int], temporal_cache) -> list[PVCClipRun]:
        """Neighbouring clips of equal length; with a cache each clip for itself, as each has its own past."""
        caches = [None] * len(steps_per_clip) if temporal_cache is None else temporal_cache
        runs = []
        for (steps, cache), clips in itertools.groupby(zip(steps_per_clip, caches), key=lambda clip: clip):
            # The mask depends on the queries' length and dtype and on the cache alone.
            queries = hidden_states.new_empty(1, steps, 0)
            mask = create_causal_mask(self.config, queries, attention_mask=None, past_key_values=cache)
            runs.append(PVCClipRun(sum(1 for _ in clips), steps, mask, cache))
        return runs


# trf-ignore: TRF057
class PVCModel(PVCPreTrainedModel):
    """Vision tower and language model without a head: the body that serving engines ask `AutoModel` for."""

    def __init__(self, config: PVCConfig):
        super().__init__(config)
        self.vision_tower = PVCVisionModel._from_config(config.vision_config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    # trf-ignore: TRF057
    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        image_grid_thw: torch.Tensor | Sequence[Sequence[int]] | None = None,
        encoder_chunk_size: int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        r"""
        Encodes image tiles as static clips of `num_image_steps` steps.

        Args:
            pixel_values (`torch.Tensor` of shape `(num_tiles, num_channels, height, width)`):
                Tiles, image after image.
            image_grid_thw (`torch.Tensor` of shape `(num_images, 3)` or nested list, *optional*):
                `[tiles, 1, 1]` of each image. Every tile its own image if not given.
            encoder_chunk_size (`int`, *optional*):
                As in [`PVCVisionModel`]; named here, because `generate` passes on what is named.

        Returns:
            `BaseModelOutputWithPooling` whose `pooler_output` holds, per image, `(tokens, hidden_size)`: tile after
            tile, within a tile step after step, within a step row-major.
        """
        num_tiles = pixel_values.shape[0]
        grid = [[1, 1, 1]] * num_tiles if image_grid_thw is None else image_grid_thw
        tiles_per_image = [tiles * rows for tiles, rows in rows_per_item("image_grid_thw", grid, num_tiles)]
        outputs = self.vision_tower(
            pixel_values, num_repeats=self.config.num_image_steps, encoder_chunk_size=encoder_chunk_size, **kwargs
        )
        outputs.pooler_output = outputs.pooler_output.flatten(0, 1).split(
            [tiles * self.config.tokens_per_tile for tiles in tiles_per_image]
        )
        return outputs

    # trf-ignore: TRF057
    @can_return_tuple
    def get_video_features(
        self,
        pixel_values_videos: torch.Tensor,
        video_grid_thw: torch.Tensor | Sequence[Sequence[int]] | None = None,
        encoder_chunk_size: int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        r"""
        Encodes videos, each as one clip (one clip per tile position where frames are tiled).

        Args:
            pixel_values_videos (`torch.Tensor` of shape `(num_rows, num_channels, height, width)`):
                Frames, video after video; the tiles of a frame follow one another.
            video_grid_thw (`torch.Tensor` of shape `(num_videos, 3)` or nested list, *optional*):
                `[frames, 1, 1]` of each video; with k tiles a frame the last two multiply to k. All frames are one
                video if not given.
            encoder_chunk_size (`int`, *optional*):
                As in [`PVCVisionModel`]; named here, because `generate` passes on what is named.

        Returns:
            `BaseModelOutputWithPooling` whose `pooler_output` holds, per video, `(tokens, hidden_size)`: frame after
            frame, within a frame tile after tile, within a tile row-major.
        """
        num_rows = pixel_values_videos.shape[0]
        grid = [[num_rows, 1, 1]] if video_grid_thw is None else video_grid_thw
        videos = rows_per_item("video_grid_thw", grid, num_rows)
        # (t k) -> (k t): the frames of one tile position form a clip.
        clips = [
            rows.unflatten(0, (t, k)).transpose(0, 1).flatten(0, 1) if k > 1 else rows
            for rows, (t, k) in zip(pixel_values_videos.split([t * k for t, k in videos]), videos)
        ]
        frames_per_clip = [t for t, k in videos for _ in range(k)]
        outputs = self.vision_tower(
            torch.cat(clips), frames_per_clip=frames_per_clip, encoder_chunk_size=encoder_chunk_size, **kwargs
        )
        outputs.pooler_output = tuple(
            # (k t) -> (t k)
            tokens.unflatten(0, (k, t)).transpose(0, 1).flatten(0, 2)
            for tokens, (t, k) in zip(outputs.pooler_output.split([t * k for t, k in videos]), videos)
        )
        return outputs

    def get_placeholder_mask(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor,
        features: torch.Tensor,
        token_id: int,
    ) -> torch.Tensor:
        """
        Where the placeholders of one modality are: `int[b, s], float[b, s, D], float[tokens, D] -> bool[b, s, 1]`.

        Raises:
            ValueError: if the prompt holds another number of placeholders than there are features. On an accelerator
                the comparison stays there, so as not to wait for it, and fails as an assertion of the device.
        """
        if input_ids is None:
            token = torch.full((), token_id, dtype=torch.long, device=inputs_embeds.device)
            mask = (inputs_embeds == self.get_input_embeddings()(token)).all(-1)
        else:
            mask = input_ids == token_id
        num_placeholders, num_features = mask.sum(), features.shape[0]
        expected = f"Expected {num_features} placeholders of token id {token_id}, one per visual token, got"
        advice = "pass the text through PVCProcessor, so that placeholders match the features."
        matches = num_placeholders == num_features
        if mask.device.type == "cpu":
            torch_compilable_check(matches, lambda: f"{expected} {num_placeholders}; {advice}")
        else:
            torch._assert_async(matches, f"{expected} another number; {advice}")
        return mask.unsqueeze(-1)

    # trf-ignore: TRF057
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        image_grid_thw: torch.Tensor | Sequence[Sequence[int]] | None = None,
        video_grid_thw: torch.Tensor | Sequence[Sequence[int]] | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        encoder_chunk_size: int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> PVCModelOutputWithPast:
        r"""
        Args:
            pixel_values, image_grid_thw: as in [`~PVCModel.get_image_features`].
            pixel_values_videos, video_grid_thw: as in [`~PVCModel.get_video_features`].
            mm_encoder_outputs (`dict[str, BaseModelOutputWithPooling]`, *optional*):
                What `get_image_features` ("image") and `get_video_features` ("video") returned, to encode once and
                ask many times.
            encoder_chunk_size (`int`, *optional*):
                As in [`PVCVisionModel`].

        Raises:
            ValueError: if not exactly one of `input_ids` and `inputs_embeds` is given, if a modality comes both as
                pixels and as features, or if placeholders and features differ in number.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Expected exactly one of input_ids and inputs_embeds, got both or neither.")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)

        # Both grids before either tower is launched, so that neither waits for the other modality.
        image_grid_thw, video_grid_thw = on_host(image_grid_thw), on_host(video_grid_thw)
        encoded = dict(mm_encoder_outputs or {})
        for modality, pixels in (("image", pixel_values), ("video", pixel_values_videos)):
            if pixels is not None and encoded.get(modality) is not None:
                raise ValueError(f"Expected pixels or mm_encoder_outputs of {modality}s, got both; drop either.")
        settings = {"encoder_chunk_size": encoder_chunk_size, "return_dict": True}
        if pixel_values is not None:
            encoded["image"] = self.get_image_features(pixel_values, image_grid_thw, **settings)
        if pixel_values_videos is not None:
            encoded["video"] = self.get_video_features(pixel_values_videos, video_grid_thw, **settings)

        features = {}
        token_ids = {"image": self.config.image_token_id, "video": self.config.video_token_id}
        for modality, token_id in token_ids.items():
            if encoded.get(modality) is None:
                # A prompt with placeholders and no pixels is a mistake; a model that says a placeholder is not.
                if input_ids is not None and is_prefill(past_key_values):
                    self.get_placeholder_mask(input_ids, inputs_embeds, inputs_embeds[:0, 0], token_id)
                continue
            tokens = torch.cat([item.flatten(0, -2) for item in encoded[modality].pooler_output])
            tokens = tokens.to(inputs_embeds.device, inputs_embeds.dtype)
            mask = self.get_placeholder_mask(input_ids, inputs_embeds, tokens, token_id)
            inputs_embeds = inputs_embeds.masked_scatter(mask, tokens)
            features[modality] = tokens

        outputs = self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        return PVCModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=features.get("image"),
            video_hidden_states=features.get("video"),
        )


# trf-ignore: TRF057
class PVCForConditionalGeneration(PVCPreTrainedModel, GenerationMixin, PVCChatMixin):
    """PVC with a language model head, for questions about images and videos."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: PVCConfig):
        super().__init__(config)
        self.model = PVCModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    # trf-ignore: TRF057
    def get_image_features(self, pixel_values: torch.Tensor, image_grid_thw=None, **kwargs):
        """As [`PVCModel.get_image_features`]."""
        return self.model.get_image_features(pixel_values, image_grid_thw, **kwargs)

    # trf-ignore: TRF057
    def get_video_features(self, pixel_values_videos: torch.Tensor, video_grid_thw=None, **kwargs):
        """As [`PVCModel.get_video_features`]."""
        return self.model.get_video_features(pixel_values_videos, video_grid_thw, **kwargs)

    def get_placeholder_mask(self, *args, **kwargs) -> torch.Tensor:
        """As [`PVCModel.get_placeholder_mask`]."""
        return self.model.get_placeholder_mask(*args, **kwargs)

    # trf-ignore: TRF057
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        image_grid_thw: torch.Tensor | Sequence[Sequence[int]] | None = None,
        video_grid_thw: torch.Tensor | Sequence[Sequence[int]] | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        encoder_chunk_size: int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> PVCCausalLMOutputWithPast:
        r"""
        Args:
            labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Ids to predict; positions of -100 carry no loss. Shifted inside, so they align with `input_ids`.
            logits_to_keep (`int` or `torch.Tensor`, *optional*, defaults to 0):
                Compute logits of the last positions only, or of the positions given; 0 means all.

        The other arguments are those of [`PVCModel`].
        """
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            pixel_values_videos=pixel_values_videos,
            image_grid_thw=image_grid_thw,
            video_grid_thw=video_grid_thw,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            mm_encoder_outputs=mm_encoder_outputs,
            encoder_chunk_size=encoder_chunk_size,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.text_config.vocab_size, **kwargs)
        return PVCCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=outputs.image_hidden_states,
            video_hidden_states=outputs.video_hidden_states,
        )

    def stream(self, processor, **settings) -> PVCStream:
        """A [`PVCStream`]: frames, images and questions as they come. `settings` are its arguments."""
        return PVCStream(self, processor, **settings)

    def encode_video(self, video, **settings) -> Iterator[torch.Tensor]:
        """Features of a file while it is decoded, chunk after chunk: [`encode_video`] with this model's tower."""
        return encode_video(self.model.vision_tower, video, **settings)


# trf-ignore: TRF057
class PVCAutoModel(PVCModel):
    """
    What `AutoModel` gives, to two kinds of callers.

    `AutoModel.from_pretrained` is the published usage, which goes on with `.chat(...)`: it gets
    [`PVCForConditionalGeneration`]. `AutoModel.from_config` is how serving engines ask for the body without a head.
    """

    @classmethod
    def from_pretrained(cls, *args, **kwargs) -> PVCForConditionalGeneration:
        return PVCForConditionalGeneration.from_pretrained(*args, **kwargs)


PVCAutoModel.register_for_auto_class("AutoModel")
PVCForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")

__all__ = ["PVCAutoModel", "PVCForConditionalGeneration", "PVCModel", "PVCPreTrainedModel", "PVCVisionModel"]
