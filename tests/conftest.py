# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""Makes the flat root importable as the package `pvc`, offline, and models that are tiny and random."""

import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import pytest


ROOT = Path(__file__).resolve().parent.parent

# Before the library is imported: it reads both once.
_modules_cache = tempfile.TemporaryDirectory(prefix="pvc_modules_")
os.environ.update(HF_HUB_OFFLINE="1", HF_MODULES_CACHE=_modules_cache.name)

if "pvc" not in sys.modules:
    package = ModuleType("pvc")
    package.__path__ = [str(ROOT)]
    sys.modules["pvc"] = package


VOCAB_SIZE, IMAGE_TOKEN_ID, VIDEO_TOKEN_ID = 64, 60, 61


def _tiny_config(text=None, **overrides):
    """A PVC of 4 tokens per step and 2 progressive layers of 4; `vision` and `text` settings may be overridden."""
    from pvc.configuration_pvc import PVCConfig

    vision = {
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "layer_scale_init_value": 1.0,
        "image_size": 16,
        "patch_size": 4,
        "downsample_factor": 2,
        "time_embed_dim": 16,
        "projection_dim": 32,
        **overrides.pop("vision", {}),
    }
    text = {
        "model_type": "llama",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "intermediate_size": 64,
        "vocab_size": VOCAB_SIZE,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        **(text or {}),
    }
    ids = {"image_token_id": IMAGE_TOKEN_ID, "video_token_id": VIDEO_TOKEN_ID}
    return PVCConfig(vision_config=vision, text_config=text, **{**ids, **overrides})


def _randomise(model, seed=0):
    """
    Draws every parameter anew, so that the parts that start at zero act and no two channels are alike.

    Matrices keep the size of what passes through them; vectors (biases, norms, LayerScale) are moved from their start.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
            else:
                parameter.add_(0.1 * noise)
    return model.eval()


@pytest.fixture(scope="session")
def tiny_config():
    return _tiny_config


@pytest.fixture(scope="session")
def randomise():
    return _randomise


@pytest.fixture(scope="session")
def tiny_model():
    """Makes a randomised model: `tiny_model(text=..., vision=..., attn_implementation=..., **config)`."""
    from pvc.modeling_pvc import PVCForConditionalGeneration

    def make(attn_implementation="sdpa", **overrides):
        config = _tiny_config(**overrides)
        return _randomise(PVCForConditionalGeneration._from_config(config, attn_implementation=attn_implementation))

    return make


@pytest.fixture(scope="session")
def tiny_tower():
    """Makes a randomised vision tower: `tiny_tower(attn_implementation=..., **vision_config)`."""
    from pvc.modeling_pvc import PVCVisionModel

    def make(attn_implementation="sdpa", **vision):
        config = _tiny_config(vision=vision).vision_config
        return _randomise(PVCVisionModel._from_config(config, attn_implementation=attn_implementation))

    return make
