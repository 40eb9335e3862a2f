# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""Defaults, round trips and errors of the configuration."""

import json

import pytest
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from pvc.configuration_pvc import PVCConfig, PVCVisionConfig
from transformers import LlamaConfig, Qwen2Config, Qwen3Config


def test_defaults_are_those_of_the_published_base():
    config = PVCConfig()
    vision = config.vision_config
    assert (vision.hidden_size, vision.num_attention_heads, vision.intermediate_size) == (1024, 16, 4096)
    assert (vision.num_hidden_layers, vision.num_temporal_layers) == (24, 12)
    assert (vision.grid_size, vision.tokens_per_frame) == (32, 64)
    assert (config.num_image_steps, config.tokens_per_tile) == (4, 256)
    assert config.text_config.model_type == "llama"
    assert config.text_config.hidden_size == vision.projection_dim == 4096
    assert not config.tie_word_embeddings


@pytest.mark.parametrize(("layers", "expected"), [(24, 12), (7, 3), (1, 0)])
def test_half_of_the_layers_are_progressive(layers, expected):
    assert PVCVisionConfig(num_hidden_layers=layers).num_temporal_layers == expected


@pytest.mark.parametrize("number", [0, 1, 24])
def test_number_of_progressive_layers_is_kept(number):
    assert PVCVisionConfig(num_temporal_layers=number).num_temporal_layers == number


@pytest.mark.parametrize(
    ("image_size", "patch_size", "factor", "expected"), [(448, 14, 4, 64), (448, 14, 2, 256), (64, 8, 2, 16)]
)
def test_tokens_per_frame(image_size, patch_size, factor, expected):
    config = PVCVisionConfig(image_size=image_size, patch_size=patch_size, downsample_factor=factor)
    assert config.tokens_per_frame == expected


def test_text_width_follows_the_projection_if_no_text_config_is_given():
    assert PVCConfig(vision_config={"projection_dim": 64}).text_config.hidden_size == 64


@pytest.mark.parametrize(
    ("model_type", "config_class"), [("llama", LlamaConfig), ("qwen2", Qwen2Config), ("qwen3", Qwen3Config)]
)
def test_text_config_of_any_decoder(model_type, config_class):
    text = {"hidden_size": 64, "num_attention_heads": 2, "vocab_size": 92554}
    from_dict = PVCConfig(vision_config={"projection_dim": 64}, text_config={"model_type": model_type, **text})
    from_object = PVCConfig(vision_config=PVCVisionConfig(projection_dim=64), text_config=config_class(**text))
    assert type(from_dict.text_config) is type(from_object.text_config) is config_class
    assert from_dict.text_config.to_dict() == from_object.text_config.to_dict()
    assert from_dict.get_text_config() is from_dict.text_config
    assert from_dict.to_dict() == from_object.to_dict()


def test_sub_configurations_are_taken_as_they_are_and_dicts_are_left_alone():
    vision, text = PVCVisionConfig(projection_dim=64), LlamaConfig(hidden_size=64, vocab_size=92554)
    config = PVCConfig(vision_config=vision, text_config=text)
    assert config.vision_config is vision
    assert config.text_config is text
    settings = {"model_type": "qwen2", "hidden_size": 4096}
    before = dict(settings)
    PVCConfig(text_config=settings)
    assert settings == before


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3"])
def test_round_trip_through_a_folder(tiny_config, tmp_path, model_type):
    config = tiny_config(text={"model_type": model_type}, vision={"num_temporal_layers": 3}, num_image_steps=2)
    config.save_pretrained(tmp_path)
    loaded = PVCConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert type(loaded.text_config) is type(config.text_config)
    assert isinstance(loaded.vision_config, PVCVisionConfig)
    assert (loaded.vision_config.num_temporal_layers, loaded.tokens_per_tile) == (3, 8)


def test_derived_numbers_are_not_stored(tiny_config, tmp_path):
    tiny_config().save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert not {"tokens_per_tile", "tokens_per_frame", "grid_size"} & {*saved, *saved["vision_config"]}
    assert saved["vision_config"]["num_temporal_layers"] == 2


def test_vision_config_is_read_out_of_the_whole(tiny_config, tmp_path):
    config = tiny_config(vision={"num_temporal_layers": 1})
    config.save_pretrained(tmp_path)
    assert PVCVisionConfig.from_pretrained(tmp_path).to_dict() == config.vision_config.to_dict()


@pytest.mark.parametrize(
    ("settings", "expected", "received"),
    [
        ({"hidden_size": 100, "num_attention_heads": 16}, "divisible by num_attention_heads", "hidden_size=100"),
        ({"image_size": 450}, "divisible by patch_size * downsample_factor", "image_size=450 and 14 * 4 = 56"),
        ({"downsample_factor": 3}, "divisible by patch_size * downsample_factor", "image_size=448 and 14 * 3 = 42"),
        ({"num_temporal_layers": 25}, "<= num_hidden_layers = 24", "num_temporal_layers=25"),
        ({"num_temporal_layers": -1}, "0 <= num_temporal_layers", "num_temporal_layers=-1"),
    ],
)
def test_vision_errors_say_what_was_expected_and_received(settings, expected, received):
    with pytest.raises(StrictDataclassClassValidationError) as error:
        PVCVisionConfig(**settings)
    message, found = str(error.value.__cause__).split(", got ")
    assert message.startswith("Expected")
    assert expected in message
    assert received in found


@pytest.mark.parametrize(
    ("settings", "expected", "received"),
    [
        ({"vision": {"projection_dim": 48}}, "text_config.hidden_size = 32", "48;"),
        ({"image_token_id": 7, "video_token_id": 7}, "different ids for images and videos", "= 7;"),
        ({"num_image_steps": 0}, "num_image_steps >= 1", "0;"),
        ({"text": {"vocab_size": 7}}, "below text_config.vocab_size = 7", "add the tokens"),
        ({"text": {"tie_word_embeddings": True}}, "tie_word_embeddings=True", "False;"),
    ],
)
def test_errors_say_what_was_expected_and_received(tiny_config, settings, expected, received):
    with pytest.raises(StrictDataclassClassValidationError) as error:
        tiny_config(**settings)
    message, found = str(error.value.__cause__).split(", got ")
    assert message.startswith("Expected")
    assert expected in message
    assert received in found


@pytest.mark.parametrize(
    "settings", [{"hidden_size": "wide"}, {"layer_norm_eps": "small"}, {"num_temporal_layers": 1.5}]
)
def test_types_are_checked(settings):
    with pytest.raises(StrictDataclassFieldValidationError, match=next(iter(settings))):
        PVCVisionConfig(**settings)
