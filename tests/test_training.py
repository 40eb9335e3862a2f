# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""Batches, labels, the schedule of levels, and the training command itself: a run that is cut off and goes on."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from transformers import AutoProcessor

from training.data import PATCH_SAMPLES, Collator, DrawnSamples, Pages, Schedule, conversation, cut_labels
from training.scenes import WHAT_CLASSES, tile_grid
from training.tasks import LAST_LEVEL, TASKS, VIDEO_TASKS, draw
from training.train import TASK_WEIGHTS


POINTS = 8 * PATCH_SAMPLES


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(ROOT, trust_remote_code=True)


def test_only_answers_carry_loss(processor):
    samples = [draw(task, seed, "train") for seed, task in enumerate(TASKS)]
    batch = Collator(processor, 8)(samples)
    end = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    for sample, ids, labels in zip(samples, batch["input_ids"], batch["labels"]):
        kept = labels[labels != -100]
        assert processor.tokenizer.decode(kept[:-1]) == sample.answer
        assert kept[-1] == end
        assert torch.equal(ids[-len(labels) :][labels != -100], kept)
        assert labels[0] == -100


def test_every_turn_of_an_assistant_carries_loss(processor):
    samples = [draw(task, seed, "train") for seed, task in enumerate(("page", "objects"))]
    batch = Collator(processor, 8)([*samples, None])
    assert len(batch["labels"]) == 2
    for sample, labels in zip(samples, batch["labels"]):
        answers = [sample.answer, *(answer for _, answer in sample.turns)]
        assert len(answers) > 2
        assert processor.tokenizer.decode(labels[labels != -100]) == "".join(f"{a}<|im_end|>" for a in answers)


def test_a_batch_trains_on_what_a_question_looks_like_when_asked(processor):
    sample = draw("number", 3, "train")
    asked = processor.apply_chat_template(conversation(sample, False), tokenize=False, add_generation_prompt=True)
    taught = processor.apply_chat_template(conversation(sample, True), tokenize=False)
    assert taught == asked + sample.answer + "<|im_end|>\n"


@pytest.mark.parametrize("size", [(64, 64), (200, 70), (70, 200), (160, 160), (300, 90)])
def test_the_generator_tiles_as_the_processor_does(processor, size):
    width, height = size
    columns, rows = tile_grid(width, height)
    tiles = processor.image_processor.get_number_of_image_patches(height, width)
    assert tiles == columns * rows + (columns * rows > 1)


def test_labels_are_cut_as_pixels_are(processor):
    """Paint each label as a grey level: what the processor cuts from that picture is what `cut_labels` cuts."""
    height, width = 120, 250
    grid = tile_grid(width, height)
    labels = np.zeros((height, width, 2), np.uint8)
    labels[: height // 2, : width // 3, 0] = 40
    labels[height // 2 :, width // 2 :, 0] = 200
    picture = np.repeat(labels[..., :1], 3, axis=2)
    tiles = processor.image_processor(
        [picture], do_normalize=False, do_rescale=False, return_tensors="pt", input_data_format="channels_last"
    )["pixel_values"][:, 0]
    cut = cut_labels(labels, grid, POINTS, thumbnail=True)
    assert len(cut) == len(tiles) == grid[0] * grid[1] + 1
    centres = tiles.unflatten(1, (POINTS, -1)).unflatten(3, (POINTS, -1))[:, :, 2, :, 2]
    agreement = (torch.from_numpy(cut[..., 0]) == centres.round()).float().mean()
    assert agreement > 0.9


def test_patch_labels_are_ordered_by_patch(processor):
    samples = [draw("number", seed, "train", 0) for seed in range(4)]
    labels = Collator(processor, 8)(samples)["patch_labels"]
    for sample, points in zip(samples, labels):
        expected = cut_labels(sample.labels[0], (1, 1), POINTS, thumbnail=True)[0]
        for patch in (0, 27, 36, 63):
            row, column = divmod(patch, 8)
            block = expected[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].reshape(-1, 2)
            assert np.array_equal(points[4 * patch : 4 * patch + 4].numpy(), block)
        seen = {WHAT_CLASSES[index] for index in points[:, 0].tolist()} - {"background"}
        assert seen == set(sample.answer)


def test_an_index_alone_decides_a_sample():
    schedule = Schedule(TASK_WEIGHTS)
    first, again = (DrawnSamples(640, 64, 7, schedule)[260] for _ in range(2))
    other_seed = DrawnSamples(640, 64, 8, schedule)[260]
    assert (first.question, first.answer) == (again.question, again.answer)
    assert all(np.array_equal(a, b) for a, b in zip(first.labels, again.labels))
    assert not all(np.array_equal(a, b) for a, b in zip(first.labels, other_seed.labels))
    assert np.array_equal(Pages(10, 7)[3].labels[0], Pages(10, 7)[3].labels[0])


def test_levels_rise_and_batches_are_of_one_kind():
    schedule = Schedule(TASK_WEIGHTS, settled=0.5)
    rng = np.random.default_rng(0)
    levels = [np.mean([schedule.level(progress, rng) for _ in range(300)]) for progress in (0.0, 0.2, 0.4, 1.0)]
    assert levels == sorted(levels)
    assert levels[0] == 0 and levels[-1] == LAST_LEVEL
    samples = DrawnSamples(6400, 16, 1, schedule)
    for batch in range(6):
        kinds = {samples[16 * batch + index].task in VIDEO_TASKS for index in range(4)}
        assert len(kinds) == 1
    full = [sum(samples[16 * batch + index] is not None for index in range(16)) for batch in range(20)]
    assert set(full) == {6, 16}


@pytest.mark.slow
def test_the_command_resumes_and_finishes(tmp_path):
    """Two tiny runs of the whole recipe, one of them cut off after its first stage, leave the same model."""
    command = [sys.executable, "-m", "training.train", "--batch-size", "4", "--workers", "0", "--no-compile"]
    command += ["--steps-scale", "0.001", "--save-steps", "1", "--logging-steps", "1"]
    for name in ("whole", "parts"):
        if name == "parts":
            subprocess.run([*command, "--output", tmp_path / name, "--stages", "patches"], cwd=ROOT, check=True)
        subprocess.run([*command, "--output", tmp_path / name], cwd=ROOT, check=True)
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert weights[0] == weights[1]
    log = json.loads((tmp_path / "whole" / "curriculum" / "log.json").read_text())
    assert {"answer_loss", "patch_loss"} <= set(log[0])
