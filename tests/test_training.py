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
    label_middles,
    split_questions,
)
from training.scenes import FIRST_SHAPE, HIGHEST_RANK, UNKNOWN, WHAT_CLASSES, Middle, tile_grid
from training.tasks import LAST_LEVEL, VIDEO_TASKS, draw
from training.train import (
    MANTISSA_BITS,
    PLACE_LOSS,
    STAGES,
    WEIGHTS_TO_ANSWER,
    MuonWithAdamW,
    TwoLossTrainer,
    build_model,
    choose_trained_parts,
    round_mantissa,
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


def test_a_tile_of_several_ranks_anew_the_middles_that_it_shows():
    middles = [Middle(0.1, 0.1, 3, 1, 1), Middle(0.9, 0.75, 5, 1, 2), Middle(0.6, 0.25, 4, 1, 3)]
    left, right, thumbnail = cut_middles(middles, (2, 1))
    assert [(m.what, m.rank) for m in left] == [(3, 1)]
    assert [(m.what, m.rank) for m in right] == [(4, 1), (5, 2)]
    assert (left[0].x, left[0].y) == pytest.approx((0.2, 0.1))
    assert (right[1].x, right[1].y) == pytest.approx((0.8, 0.75))
    assert thumbnail == middles
    assert [[m.what for m in tile] for tile in cut_middles(middles, (2, 2))[:-1]] == [[3], [4], [], [5]]
    assert cut_middles(middles, (1, 1)) == [middles]


def test_a_token_is_labelled_with_the_middles_in_its_square():
    circle, star, red, blue = FIRST_SHAPE, FIRST_SHAPE + 3, 1, 3
    middles = [
        Middle(0.1, 0.1, circle, red, 1),
        Middle(0.4, 0.1, star, red, 2),
        Middle(0.6, 0.1, circle, blue, 3),
        Middle(0.8, 0.9, 7, red, 1),
        Middle(0.9, 0.9, 9, red, 2),
    ]
    shapes, characters = label_middles(middles, TOKENS_PER_SIDE)
    assert {i: row.tolist() for i, row in enumerate(shapes) if row.any()} == {
        0: [circle, red, 1, 1, 1],
        1: [star, red, 2, 1, 2],
        2: [circle, blue, 3, 2, 1],
    }
    assert np.argwhere(characters).tolist() == [[15, 0], [15, 1]] and characters[15, :2].tolist() == [7, 9]
    shapes, characters = label_middles([*middles, Middle(0.6, 0.2, star, red, 1), middles[3]], TOKENS_PER_SIDE)
    assert shapes[2].tolist() == [UNKNOWN] * 5 and characters[15, 0] == UNKNOWN  # two share the token
    assert shapes[0].tolist() == [circle, red, UNKNOWN, UNKNOWN, UNKNOWN]  # shapes share ranks


@pytest.mark.parametrize("task", ["number", "word"])
def test_characters_of_all_tokens_spell_the_answer(processor, task):
    collator = Collator(processor, TOKENS_PER_SIDE, with_text=False)
    for seed in range(8):
        sample = draw(task, seed, "train")
        characters = collator([sample])["character_labels"][-1]  # of the only tile or of the thumbnail
        assert characters.count_nonzero(dim=0).max() == 1
        spelt = "".join(WHAT_CLASSES[index] for index in characters.sum(dim=0).tolist() if index)
        assert spelt == sample.answer


def test_the_last_place_among_the_alike_is_how_many_there_are():
    checked = 0
    for seed in range(20):
        (middles,) = draw("count", seed, "train", 1).middles
        shapes, _ = label_middles(middles, TOKENS_PER_SIDE)
        if (shapes == UNKNOWN).any():  # two shapes in one token
            continue
        for shape, colour, *_ in shapes[shapes.any(axis=1)]:
            same_shape, same_colour = shapes[shapes[:, 0] == shape, 3], shapes[shapes[:, 1] == colour, 4]
            assert max(same_shape) == len(same_shape) and max(same_colour) == len(same_colour)
            checked += len(same_shape) > 1
    assert checked > 10


@pytest.mark.parametrize("with_text", [True, False])
def test_token_labels_are_ordered_by_token(processor, with_text):
    samples = [draw("number", seed, "train", 0) for seed in range(4)]
    labels = Collator(processor, TOKENS_PER_SIDE, with_text)(samples)["point_labels"]
    for sample, points in zip(samples, labels):
        expected = cut_labels(sample.labels[0], (1, 1), SIDE)[0]
        for token in (0, 6, 9, 15):
            row, column = (POINTS * place for place in divmod(token, TOKENS_PER_SIDE))
            block = expected[row : row + POINTS, column : column + POINTS].reshape(-1, 4)
            assert np.array_equal(points[token].numpy(), block)
        seen = {WHAT_CLASSES[index] for index in points[..., 0].flatten().tolist()} - {"background"}
        assert seen == set(sample.answer)


def test_labels_of_videos_are_one_per_frame(processor):
    samples = [draw("flash", seed, "train") for seed in range(3)]
    batch = Collator(processor, TOKENS_PER_SIDE, with_text=False)(samples)
    frames = len(batch["pixel_values_videos"])
    assert frames == sum(len(s.frames) for s in samples)
    assert {len(batch[f"{kind}_labels"]) for kind in ("point", "shape", "character")} == {frames}


def background_labels():
    tokens = TOKENS_PER_SIDE**2
    return [torch.zeros(1, tokens, *sizes, dtype=torch.uint8) for sizes in ((POINTS**2, 4), (5,), (HIGHEST_RANK,))]


def test_the_loss_of_tokens_asks_for_their_places():
    model = build_model(0)
    torch.nn.init.zeros_(model.place_head.bias)
    with torch.no_grad():
        for head in (model.point_head, model.shape_head, model.character_head):
            head.weight.zero_()
        model.place_head.weight.copy_(40 * torch.eye(*model.place_head.weight.shape))
    tokens = torch.eye(TOKENS_PER_SIDE**2, model.place_head.in_features)[None]
    right, wrong = (model.loss_of_tokens(given, *background_labels()) for given in (tokens, tokens.roll(1, dims=1)))
    assert (wrong - right).item() == pytest.approx(40 * PLACE_LOSS, rel=1e-4)


@pytest.mark.parametrize(("kind", "name"), [(0, "point_head"), (1, "shape_head"), (2, "character_head")])
def test_the_loss_of_tokens_leaves_out_what_is_unknown(kind, name):
    model = build_model(0)
    tokens = torch.randn(1, TOKENS_PER_SIDE**2, model.place_head.in_features)
    labels = background_labels()
    labels[kind][:, 1:] = UNKNOWN
    model.loss_of_tokens(tokens, *labels).backward()
    alone, (known, *_) = getattr(model, name).weight.grad, tokens[0]
    # All that the head learns comes from the one token that is known.
    torch.testing.assert_close(alone, (alone @ known)[:, None] * known / known.square().sum(), rtol=1e-3, atol=1e-6)
    assert alone.any()


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
    assert rates[model.point_head.weight] == pytest.approx(0.075)


def test_an_index_alone_decides_a_sample():
    schedule = Schedule(WEIGHTS_TO_ANSWER)
    first, again = (DrawnSamples(640, 64, 7, schedule)[260] for _ in range(2))
    other_seed = DrawnSamples(640, 64, 8, schedule)[260]
    assert (first.question, first.answer) == (again.question, again.answer)
    assert all(np.array_equal(a, b) for a, b in zip(first.labels, again.labels))
    assert not all(np.array_equal(a, b) for a, b in zip(first.labels, other_seed.labels))


def test_drawing_ahead_changes_nothing():
    samples = DrawnSamples(24, 4, 7, Schedule(WEIGHTS_TO_ANSWER))
    ahead = DrawnAhead(samples, steps=2)
    assert len(ahead) == 24
    for index in (0, 4, 9, 23, 2):
        assert question_of(samples[index]) == question_of(ahead[index])


def test_each_process_draws_its_own_batches_of_one_kind():
    samples = DrawnSamples(48, 4, 7, Schedule(WEIGHTS_TO_ANSWER), num_processes=2)
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
    schedule = Schedule(WEIGHTS_TO_ANSWER, settled=0.5)
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


def test_the_command_trains_a_language_model_alone(tmp_path):
    command = [sys.executable, "-m", "training.train", "--model", ".", "--output", tmp_path, "--stages", "names"]
    command += ["--batch-size", "4", "--draw-ahead", "2", "--no-compile", "--steps-scale", "0.001"]
    subprocess.run(command, cwd=ROOT, check=True)
    before = build_model(0, ROOT).pvc.state_dict()
    after = torch.load(tmp_path / "names" / "final.pt", weights_only=True)
    for name, weight in before.items():
        assert torch.equal(weight, after[f"pvc.{name}"]) == ("vision_tower" in name), name
    for name, weight in load_file(tmp_path / "model" / "model.safetensors").items():
        assert torch.equal(weight.float(), round_mantissa(after[f"pvc.{name}"], MANTISSA_BITS)), name


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


def test_stored_weights_are_rounded_to_the_nearest():
    given = torch.tensor([1.0, -1.04, 1.03, 0.0, 3.0e-5, 61.0])
    assert round_mantissa(given, 4).tolist() == pytest.approx([1.0, -1.0625, 1.0, 0.0, 2.95639e-05, 60.0], rel=1e-5)
    assert torch.equal(round_mantissa(given, 4).bfloat16().float(), round_mantissa(given, 4))


@pytest.mark.parametrize("name", ["tokens", "names", "answers"])
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
    for name in ("at_once", "in_parts"):
        if name == "in_parts":
            subprocess.run([*command, "--output", tmp_path / name, "--stages", "tokens"], cwd=ROOT, check=True)
        subprocess.run([*command, "--output", tmp_path / name], cwd=ROOT, check=True)
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("at_once", "in_parts")]
    assert weights[0] == weights[1]
    log = json.loads((tmp_path / "at_once" / "whole" / "log.json").read_text())
    assert {"answer_loss", "token_loss"} <= set(log[0])
