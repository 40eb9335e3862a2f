# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT  # trf-ignore: TRF028 (the licence is MIT)
"""Configuration of PVC (Progressive Visual Token Compression, CVPR 2025, arXiv 2412.09613).

Docstrings are written out: what `auto_docstring` would add to a module of the Hub has holes (hence `TRF057` below).
"""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig


# trf-ignore: TRF057
@strict
class PVCVisionConfig(PreTrainedConfig):
    r"""
    Configuration of [`PVCVisionModel`]: InternViT with progressive last layers and the compressor. The defaults are
    those of InternViT-300M-448px, the base of PVC-InternVL2-8B.

    Args:
        num_temporal_layers (`int`, *optional*):
            How many of the last layers are progressive (causal temporal attention). Half of the layers if not given.
        time_embed_dim (`int`, *optional*, defaults to 1024):
            Width of the embedding of a step's relative timestamp, which conditions every adaptive norm.
        downsample_factor (`int`, *optional*, defaults to 4):
            The compressor merges squares of `downsample_factor` x `downsample_factor` patches into one token.
        projection_dim (`int`, *optional*, defaults to 4096):
            Width of a compressed token: the language model's `hidden_size`.
        layer_scale_init_value (`float`, *optional*, defaults to 0.1):
            Initial value of LayerScale on the spatial attention and the MLP.
        memory_budget (`int`, *optional*):
            Bytes that the activations of a layer may take; more steps than fit are computed in chunks. If not given,
            2 GiB on an accelerator, and 128 MiB on a CPU, where small blocks of memory are used again and large ones
            are fetched anew.
    """

    model_type = "pvc_vision"
    base_config_key = "vision_config"

    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    attention_dropout: float | int = 0.0
    initializer_range: float = 0.02
    layer_scale_init_value: float = 0.1
    image_size: int = 448
    patch_size: int = 14
    num_channels: int = 3
    num_temporal_layers: int | None = None
    time_embed_dim: int = 1024
    downsample_factor: int = 4
    projection_dim: int = 4096
    memory_budget: int | None = None

    def __post_init__(self, **kwargs):
        if self.num_temporal_layers is None:
            self.num_temporal_layers = self.num_hidden_layers // 2
        super().__post_init__(**kwargs)

    @property
    def grid_size(self) -> int:
        """Patches along one side of a frame."""
        return self.image_size // self.patch_size

    @property
    def tokens_per_frame(self) -> int:
        """Compressed tokens of one step: 64 for 448-pixel frames, 14-pixel patches and a factor of 4."""
        return (self.grid_size // self.downsample_factor) ** 2

    def validate_architecture(self):
        """Cross-field checks, run by `PreTrainedConfig` after the dataclass is built."""
        if self.hidden_size % self.num_attention_heads != 0:
            raise ValueError(
                f"Expected hidden_size divisible by num_attention_heads, got hidden_size={self.hidden_size} and "
                f"num_attention_heads={self.num_attention_heads}; change either."
            )
        if self.image_size % (self.patch_size * self.downsample_factor) != 0:
            raise ValueError(
                f"Expected image_size divisible by patch_size * downsample_factor, got image_size={self.image_size} "
                f"and {self.patch_size} * {self.downsample_factor} = {self.patch_size * self.downsample_factor}; "
                "change image_size to a multiple of it."
            )
        if not 0 <= self.num_temporal_layers <= self.num_hidden_layers:
            raise ValueError(
                f"Expected 0 <= num_temporal_layers <= num_hidden_layers = {self.num_hidden_layers}, got "
                f"num_temporal_layers={self.num_temporal_layers}; lower it."
            )


# trf-ignore: TRF057
@strict
class PVCConfig(PreTrainedConfig):
    r"""
    Configuration of [`PVCForConditionalGeneration`].

    Args:
        vision_config (`PVCVisionConfig` or `dict`, *optional*):
            The vision tower, compressor included.
        text_config (`PreTrainedConfig` or `dict`, *optional*):
            Any decoder `AutoModel` knows; `model_type` is `"llama"` if not given. InternLM2 weights are Llama's once
            their packed `wqkv` is split, so InternLM2 models use it too.
        image_token_id (`int`, *optional*, defaults to 92546):
            Id of `<IMG_CONTEXT>`, which stands for one token of an image (InternVL2's id).
        video_token_id (`int`, *optional*, defaults to 92553):
            Id of `<VID_CONTEXT>`, which stands for one token of a video frame.
        num_image_steps (`int`, *optional*, defaults to 4):
            `T_img`: an image tile is encoded as a static clip of this many steps.
    """

    model_type = "pvc"
    sub_configs = {"vision_config": PVCVisionConfig, "text_config": AutoConfig}

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    image_token_id: int = 92546
    video_token_id: int = 92553
    num_image_steps: int = 4
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        if self.vision_config is None:
            self.vision_config = PVCVisionConfig()
        elif isinstance(self.vision_config, dict):
            self.vision_config = PVCVisionConfig(**self.vision_config)
        if self.text_config is None or isinstance(self.text_config, dict):
            default = {"hidden_size": self.vision_config.projection_dim, "vocab_size": self.video_token_id + 1}
            text_config = dict(self.text_config or default)
            self.text_config = AutoConfig.for_model(text_config.pop("model_type", "llama"), **text_config)
        super().__post_init__(**kwargs)

    @property
    def tokens_per_tile(self) -> int:
        """Tokens of one image tile in the language model: `num_image_steps * tokens_per_frame`."""
        return self.num_image_steps * self.vision_config.tokens_per_frame

    def validate_architecture(self):
        """Cross-field checks, run by `PreTrainedConfig` after the dataclass is built."""
        if self.vision_config.projection_dim != self.text_config.hidden_size:
            raise ValueError(
                f"Expected vision_config.projection_dim to equal text_config.hidden_size = "
                f"{self.text_config.hidden_size}, got {self.vision_config.projection_dim}; set them to the same width."
            )
        if self.image_token_id == self.video_token_id:
            raise ValueError(
                f"Expected different ids for images and videos, got image_token_id = video_token_id = "
                f"{self.image_token_id}; give <VID_CONTEXT> an id of its own."
            )
        if max(self.image_token_id, self.video_token_id) >= self.text_config.vocab_size:
            raise ValueError(
                f"Expected image_token_id and video_token_id below text_config.vocab_size = "
                f"{self.text_config.vocab_size}, got {self.image_token_id} and {self.video_token_id}; add the "
                "tokens to the vocabulary."
            )
        if getattr(self.text_config, "tie_word_embeddings", False) and not self.tie_word_embeddings:
            raise ValueError(
                "Expected tie_word_embeddings=True of a language model whose text_config ties them, got False; set it "
                "at the top level, where the head is."
            )
        if self.num_image_steps < 1:
            raise ValueError(
                f"Expected num_image_steps >= 1, got {self.num_image_steps}; the published model encodes a tile in 4."
            )


PVCVisionConfig.register_for_auto_class()
PVCConfig.register_for_auto_class()

__all__ = ["PVCConfig", "PVCVisionConfig"]
