# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""Batches, labels, the schedule of levels, and the training command itself: a run that is cut off and goes on."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor, TrainingArguments

from training.data import (
    ALBUM_TASKS,
    IMAGE_TASKS,
    POINTS,
    Collator,
    DrawnAhead,
    DrawnSamples,
    Schedule,
    conversation,
    cut_labels,
    cut_middles,
    split_questions,
)
from training.scenes import FIRST_SHAPE, UNKNOWN, WHAT_CLASSES, tile_grid
from training.tasks import LAST_LEVEL, VIDEO_TASKS, draw
from training.train import (
    STAGES,
    TASK_WEIGHTS,
    MuonWithAdamW,
    TwoLossTrainer,
    build_model,
    choose_trained_parts,
)


TOKENS_PER_SIDE = 4
SIDE = TOKENS_PER_SIDE * POINTS


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(ROOT, trust_remote_code=True)


@pytest.mark.parametrize("tasks", [IMAGE_TASKS + ALBUM_TASKS, VIDEO_TASKS], ids=["images", "videos"])
def test_only_answers_carry_loss(processor, tasks):
    samples = [replace(draw(task, seed, "train"), turns=[]) for seed, task in enumerate(tasks)]
    batch = Collator(processor, TOKENS_PER_SIDE)(samples)
    texts = [processor.apply_chat_template(conversation(sample, True), tokenize=False) for sample in samples]
    images = [image for sample in samples for image in sample.images] or None
    videos = [np.stack(sample.frames) for sample in samples if sample.frames] or None
    for name, value in processor(text=texts, images=images, videos=videos, padding=True, return_tensors="pt").items():
        assert torch.equal(batch[name], value), name
    end = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    for sample, ids, labels in zip(samples, batch["input_ids"], batch["labels"]):
        kept = labels[labels != -100]
        assert processor.tokenizer.decode(kept[:-1]) == sample.answer
        assert kept[-1] == end
        assert torch.equal(ids[-len(labels) :][labels != -100], kept)
        assert labels[0] == -100


def test_every_turn_of_an_assistant_carries_loss(processor):
    samples = [draw(task, seed, "train") for seed, task in enumerate(("page", "objects"))]
    batch = Collator(processor, TOKENS_PER_SIDE)([*samples, None])
    assert len(batch["labels"]) == 2
    for sample, labels in zip(samples, batch["labels"]):
        answers = [sample.answer, *(answer for _, answer in sample.turns)]
        assert len(answers) > 2
        assert processor.tokenizer.decode(labels[labels != -100]) == "".join(f"{a}<|im_end|>" for a in answers)


@pytest.mark.parametrize(("tasks", "level"), [(("objects", "number"), 4), (("multi_image",) * 3, 4), (("order",), 2)])
def test_questions_apart_are_rows_of_their_own(processor, tasks, level):
    """The same pixels, one question after the other with the visuals it is about: the loss of each asked alone."""
    samples = [draw(task, seed, "train", level) for seed, task in enumerate(tasks, start=1)]
    batch = Collator(processor, TOKENS_PER_SIDE, questions_apart=3)(samples)
    rows = [row for sample in samples for row in split_questions(sample, 3)]
    assert len(batch["labels"]) == len(rows) > len(samples)
    pixels = "pixel_values_videos" if samples[0].frames else "pixel_values"
    assert torch.equal(batch[pixels], Collator(processor, TOKENS_PER_SIDE)(samples)[pixels])
    model = build_model(0, ROOT)
    together, alone, tokens = model(**batch)["answer_loss"], 0.0, 0
    for row, labels in zip(rows, batch["labels"]):
        kept = labels[labels != -100]
        assert processor.tokenizer.decode(kept) == f"{row.answer}<|im_end|>"
        alone += model(**Collator(processor, TOKENS_PER_SIDE)([row]))["answer_loss"] * len(kept)
        tokens += len(kept)
    assert together.item() == pytest.approx(alone.item() / tokens, rel=1e-4)


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
    labels = np.zeros((height, width, 4), np.uint8)
    labels[: height // 2, : width // 3, 0] = 40
    labels[height // 2 :, width // 2 :, 0] = 200
    picture = np.repeat(labels[..., :1], 3, axis=2)
    tiles = processor.image_processor(
        [picture], do_normalize=False, do_rescale=False, return_tensors="pt", input_data_format="channels_last"
    )["pixel_values"][:, 0]
    cut = cut_labels(labels, grid, SIDE)
    assert len(cut) == len(tiles) == grid[0] * grid[1] + 1
    centres = tiles.unflatten(1, (SIDE, -1)).unflatten(3, (SIDE, -1))[:, :, 2, :, 2]
    agreement = (torch.from_numpy(cut[..., 0]) == centres.round()).float().mean()
    assert agreement > 0.9
    assert (cut[:-1, ..., 2] == UNKNOWN).all() and not cut[-1, ..., 2].any()


def test_the_middle_of_a_shape_is_in_one_token():
    labels = np.zeros((90, 180, 4), np.uint8)
    labels[0:20, 0:30] = (FIRST_SHAPE, 3, 1, 0)
    labels[50:80, 95:125] = (FIRST_SHAPE + 1, 5, 2, 0)
    labels[30:40, 30:40] = (1, 5, 3, 0)  # a character
    left, right, thumbnail = cut_middles(labels, (2, 1), TOKENS_PER_SIDE)
    assert np.argwhere(left[..., 0]).tolist() == [[0, 0]] and np.argwhere(right[..., 0]).tolist() == [[2, 0]]
    assert np.argwhere(thumbnail[..., 0]).tolist() == [[0, 0], [2, 2]]
    assert left[0, 0].tolist() == [FIRST_SHAPE, 3, UNKNOWN, 0]
    assert thumbnail[2, 2].tolist() == [FIRST_SHAPE + 1, 5, 2, 0]
    (alone,) = cut_middles(labels, (1, 1), TOKENS_PER_SIDE)
    assert np.array_equal(alone, thumbnail)
    labels[60:70, 130:134] = (FIRST_SHAPE + 1, 5, 4, 0)
    (alone,) = cut_middles(labels, (1, 1), TOKENS_PER_SIDE)
    assert alone[2, 2].tolist() == [UNKNOWN] * 4  # two share the token


@pytest.mark.parametrize("with_text", [True, False])
def test_token_labels_are_ordered_by_token(processor, with_text):
    samples = [draw("number", seed, "train", 0) for seed in range(4)]
    labels = Collator(processor, TOKENS_PER_SIDE, with_text)(samples)["token_labels"]
    for sample, points in zip(samples, labels):
        expected = cut_labels(sample.labels[0], (1, 1), SIDE)[0]
        for token in (0, 6, 9, 15):
            row, column = (POINTS * place for place in divmod(token, TOKENS_PER_SIDE))
            block = expected[row : row + POINTS, column : column + POINTS].reshape(-1, 4)
            assert np.array_equal(points[token, :-1].numpy(), block)
        seen = {WHAT_CLASSES[index] for index in points[:, :-1, 0].flatten().tolist()} - {"background"}
        assert seen == set(sample.answer)


def test_the_last_label_of_a_token_is_the_shape_whose_middle_it_holds(processor):
    collator = Collator(processor, TOKENS_PER_SIDE, with_text=False)
    sample = draw("objects", 3, "train", 1)
    middles = collator([sample])["token_labels"][0, :, -1]
    assert np.array_equal(middles, cut_middles(sample.labels[0], (1, 1), TOKENS_PER_SIDE)[0].reshape(-1, 4))
    assert len(set(map(tuple, middles[middles[:, 0] > 0].tolist()))) > 1
    for task in ("flash", "sheet"):
        assert (collator([draw(task, 3, "train", 1)])["token_labels"][:, :, -1] == UNKNOWN).all()


def test_labels_of_videos_are_one_per_frame(processor):
    samples = [draw("flash", seed, "train") for seed in range(3)]
    batch = Collator(processor, TOKENS_PER_SIDE, with_text=False)(samples)
    assert len(batch["token_labels"]) == len(batch["pixel_values_videos"]) == sum(len(s.frames) for s in samples)


def test_the_loss_of_tokens_asks_for_their_places():
    model = build_model(0)
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.place_head.bias)
    with torch.no_grad():
        model.place_head.weight.copy_(40 * torch.eye(*model.place_head.weight.shape))
    tokens = torch.eye(TOKENS_PER_SIDE**2, model.head.in_features)[None]
    labels = torch.zeros(1, TOKENS_PER_SIDE**2, POINTS**2 + 1, 4, dtype=torch.uint8)
    right, wrong = (model.loss_of_tokens(given, labels) for given in (tokens, tokens.roll(1, dims=1)))
    assert (wrong - right).item() == pytest.approx(40, rel=1e-4)


def test_the_loss_of_tokens_leaves_out_what_is_unknown():
    model = build_model(0)
    tokens = torch.randn(1, TOKENS_PER_SIDE**2, model.head.in_features)
    labels = torch.zeros(1, TOKENS_PER_SIDE**2, POINTS**2 + 1, 4, dtype=torch.uint8)
    labels[:, :, POINTS**2] = UNKNOWN
    loss = model.loss_of_tokens(tokens, labels)
    loss.backward()
    assert loss.isfinite() and not model.middle_head.weight.grad.any() and model.head.weight.grad.any()
    labels[:, 3, POINTS**2] = 1
    assert model.loss_of_tokens(tokens, labels) > loss + 1


def test_the_optimizer_trains_all_and_resumes():
    def run(steps, state=None):
        torch.manual_seed(0)
        matrix, bias = (torch.nn.Parameter(torch.randn(*size)) for size in ((6, 4), (6,)))
        optimizer = MuonWithAdamW([([("matrix", matrix), ("bias", bias)], 0.1)])
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
        for step in range(steps):
            if step == 2 and state:
                optimizer.load_state_dict(optimizer.state_dict())
            (matrix @ torch.ones(4) + bias).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
        return matrix.detach(), bias.detach(), [group["lr"] for group in optimizer.param_groups]

    before, after, again = run(0), run(4), run(4, state=True)
    assert not torch.equal(before[0], after[0]) and not torch.equal(before[1], after[1])
    assert torch.equal(after[0], again[0]) and torch.equal(after[1], again[1])
    assert after[2] == [0.1 / 16, 0.015 / 16]


def test_training_goes_on_from_a_folder():
    fresh, trained = build_model(0).pvc.state_dict(), build_model(0, ROOT).pvc.state_dict()
    saved = AutoModelForImageTextToText.from_pretrained(ROOT, trust_remote_code=True).state_dict()
    assert all(torch.equal(trained[name], saved[name]) for name in saved)
    assert not torch.equal(fresh["lm_head.weight"], saved["lm_head.weight"])


def test_the_tower_has_a_rate_of_its_own(tmp_path):
    model = build_model(0)
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, learning_rate=0.5, report_to=[])
    optimizer = TwoLossTrainer(model=model, args=arguments, tower_rate=0.2).create_optimizer()
    rates = {parameter: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    assert rates[model.pvc.model.vision_tower.compressor.fc1.weight] == pytest.approx(0.1)
    assert rates[model.pvc.model.vision_tower.compressor.fc1.bias] == pytest.approx(0.015)
    assert rates[model.pvc.model.language_model.layers[0].mlp.up_proj.weight] == 0.5
    assert rates[model.head.weight] == pytest.approx(0.075)


def test_an_index_alone_decides_a_sample():
    schedule = Schedule(TASK_WEIGHTS)
    first, again = (DrawnSamples(640, 64, 7, schedule)[260] for _ in range(2))
    other_seed = DrawnSamples(640, 64, 8, schedule)[260]
    assert (first.question, first.answer) == (again.question, again.answer)
    assert all(np.array_equal(a, b) for a, b in zip(first.labels, again.labels))
    assert not all(np.array_equal(a, b) for a, b in zip(first.labels, other_seed.labels))


def test_drawing_ahead_changes_nothing():
    samples = DrawnSamples(24, 4, 7, Schedule(TASK_WEIGHTS))
    ahead = DrawnAhead(samples, steps=2)
    assert len(ahead) == 24
    for index in (0, 4, 9, 23, 2):
        assert question_of(samples[index]) == question_of(ahead[index])


def test_each_process_draws_its_own_batches_of_one_kind():
    samples = DrawnSamples(48, 4, 7, Schedule(TASK_WEIGHTS), num_processes=2)
    for process in range(2):
        ahead = DrawnAhead(samples, steps=3, process_index=process)
        for index in range(48):
            if index // 4 % 2 == process:
                assert question_of(samples[index]) == question_of(ahead[index])
        assert all(index // 4 % 2 == process for index in ahead.drawn)
    for step in range(6):
        assert len({samples[8 * step + index].task in VIDEO_TASKS for index in (0, 4)}) == 1


def question_of(sample):
    return sample and (sample.question, sample.answer)


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


def test_the_command_trains_a_fresh_language_model_alone(tmp_path):
    command = [sys.executable, "-m", "training.train", "--model", ".", "--output", tmp_path, "--stages", "names"]
    command += ["--batch-size", "4", "--draw-ahead", "2", "--no-compile", "--steps-scale", "0.001"]
    subprocess.run(command, cwd=ROOT, check=True)
    before = build_model(0, ROOT).pvc.state_dict()
    after = build_model(0, tmp_path / "model").pvc.state_dict()
    for name, weight in before.items():
        if name.startswith("model.language_model") and name.endswith("norm.weight"):
            # Two steps move a weight of 1 by little; those of the repository's model are far from it.
            assert (after[name] - 1).abs().max() < 0.01 < (weight - 1).abs().max(), name
        else:
            assert torch.equal(weight, after[name]) == ("vision_tower" in name), name


def test_the_command_averages_a_stage_with_what_it_started_from(tmp_path):
    command = [sys.executable, "-m", "training.train", "--model", ".", "--output", tmp_path, "--no-compile"]
    command += ["--stages", "conversations", "--batch-size", "2", "--draw-ahead", "1", "--steps-scale", "0.001"]
    subprocess.run([*command, "--save-steps", "1"], cwd=ROOT, check=True)
    before = build_model(0, ROOT).pvc.state_dict()
    after = load_file(tmp_path / "conversations" / "checkpoint-1" / "model.safetensors")
    left = torch.load(tmp_path / "conversations" / "final.pt", weights_only=True)
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(before[name], after[f"pvc.{name}"])
    for name, weight in before.items():
        torch.testing.assert_close(left[f"pvc.{name}"], (weight + after[f"pvc.{name}"]) / 2)


@pytest.mark.parametrize("name", ["tokens", "names", "counting", "answers"])
@pytest.mark.parametrize("task", ["count", "flash", "sheet"])
def test_every_step_gives_all_that_trains_a_gradient(processor, name, task):
    """Several processes wait for each other's gradients, so none may be missing in one of them."""
    (stage,) = (stage for stage in STAGES if stage.name == name)
    model = build_model(0, ROOT)
    model.token_loss, model.answer_loss = stage.token_loss, stage.answer_loss
    choose_trained_parts(model, stage)
    collator = Collator(processor, TOKENS_PER_SIDE, bool(stage.answer_loss), stage.questions_apart)
    model(**collator([draw(task, 1, "train", 0)]))["loss"].backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert trained and all(parameter.grad is not None for parameter in trained)
    assert all(parameter.grad is None for parameter in model.parameters() if not parameter.requires_grad)


@pytest.mark.slow
def test_the_command_resumes_and_finishes(tmp_path):
    """Two tiny runs of the whole recipe, one of them cut off after its first stage, leave the same model."""
    command = [sys.executable, "-m", "training.train", "--batch-size", "4", "--draw-ahead", "2", "--no-compile"]
    command += ["--steps-scale", "0.001", "--save-steps", "1", "--logging-steps", "1"]
    for name in ("whole", "parts"):
        if name == "parts":
            subprocess.run([*command, "--output", tmp_path / name, "--stages", "tokens"], cwd=ROOT, check=True)
        subprocess.run([*command, "--output", tmp_path / name], cwd=ROOT, check=True)
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert weights[0] == weights[1]
    log = json.loads((tmp_path / "whole" / "curriculum" / "log.json").read_text())
    assert {"answer_loss", "token_loss"} <= set(log[0])
