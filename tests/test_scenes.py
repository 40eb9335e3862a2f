# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""The generator of training and test data: deterministic, split cleanly, and its answers follow from its labels."""

import io
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from training import scenes, tasks  # noqa: E402
from training.scenes import COLOUR_CLASSES, COLOURS, SHAPES, WHAT_CLASSES  # noqa: E402


LEVELS = range(tasks.LAST_LEVEL + 1)
IMAGE_TASKS = tuple(task for task in tasks.TASKS if task not in tasks.VIDEO_TASKS)


def samples(task, number=25, level=tasks.LAST_LEVEL):
    """Samples of both splits."""
    for seed in range(number):
        yield tasks.draw(task, seed, "train", level)
        yield tasks.draw(task, seed, "test", level)


def names_in(labels):
    """The (what, colour) pairs that a label array shows, as class names."""
    pairs = np.unique(labels[..., :2].reshape(-1, 2), axis=0).tolist()
    return {(WHAT_CLASSES[what], COLOUR_CLASSES[colour]) for what, colour in pairs if what or colour}


def mask_of(labels, name):
    what, colour = name
    return (labels[..., 0] == WHAT_CLASSES.index(what)) & (labels[..., 1] == COLOUR_CLASSES.index(colour))


def centre(mask):
    """(x, y) of the middle of a mask's bounding box."""
    rows, columns = np.nonzero(mask)
    return np.array([columns.min() + columns.max(), rows.min() + rows.max()]) / 2


def named(question):
    """The (shape, colour) pairs a question names, in their order."""
    return [(shape, colour) for colour, shape in re.findall(rf"({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})", question)]


COLOURED = rf"(?:{'|'.join(COLOURS)}) (?:{'|'.join(SHAPES)})"


def components(mask):
    """Number of 8-connected regions."""
    left = set(zip(*np.nonzero(mask), strict=True))
    number = 0
    while left:
        number += 1
        queue = [left.pop()]
        while queue:
            y, x = queue.pop()
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            queue += near
    return number


def runs(values):
    """Values without immediate repetitions."""
    values = list(values)
    return [value for index, value in enumerate(values) if index == 0 or value != values[index - 1]]


def characters(labels):
    """The distinct characters of a picture from left to right."""
    shown = [(centre(mask_of(labels, name))[0], name[0]) for name in names_in(labels)]
    return [character for _, character in sorted(shown)]


@pytest.mark.parametrize("task", tasks.TASKS)
@pytest.mark.parametrize("level", LEVELS)
def test_every_task_draws_at_every_level(task, level):
    for sample in samples(task, 4, level):
        assert sample.task == task and sample.question[-1] in "?." and sample.answer == sample.answer.lower()
        pictures = [np.asarray(image) for image in sample.images] or sample.frames
        assert bool(sample.images) != bool(sample.frames)
        assert len(pictures) == len(sample.labels) == len(sample.middles)
        for picture, labels in zip(pictures, sample.labels, strict=True):
            assert picture.dtype == labels.dtype == np.uint8
            assert picture.shape == (*labels.shape[:2], 3) and labels.shape[2] == 4
            assert labels[..., 0].max() < len(WHAT_CLASSES) and labels[..., 1].max() < len(COLOUR_CLASSES)
            assert labels[..., 2].max() <= scenes.HIGHEST_RANK
        if sample.frames:
            assert 4 <= len(sample.frames) <= max(tasks.LEVELS[level].frames) and 4 <= sample.fps <= 10
            assert all(side % 2 == 0 for side in sample.frames[0].shape[:2])


@pytest.mark.parametrize("task", tasks.TASKS)
def test_draw_is_deterministic(task):
    first, again, other = (tasks.draw(task, seed) for seed in (7, 7, 8))
    for a, b in zip(first.images + first.frames, again.images + again.frames, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    for a, b in zip(first.labels, again.labels, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (first.question, first.answer, first.fps) == (again.question, again.answer, again.fps)
    assert [label.tobytes() for label in first.labels] != [label.tobytes() for label in other.labels]


@pytest.mark.parametrize("arguments", [("colour", 0), ("number", 0, "valid"), ("number", 0, "train", 9)])
def test_draw_refuses_unknown_arguments(arguments):
    with pytest.raises(ValueError, match="Expected `(task|split|level)` to be one of"):
        tasks.draw(*arguments)


def test_splits_share_no_font_and_no_texture():
    train, test = (
        {Path(face).name for family in scenes.SPLIT_FAMILIES[split] for face in scenes.faces(family)}
        for split in scenes.SPLITS
    )
    assert train and test and not train & test
    assert set(scenes.TEXTURES["train"]) & set(scenes.TEXTURES["test"]) == {"stripes"}
    assert scenes.STRIPE_DEGREES["train"][1] < scenes.STRIPE_DEGREES["test"][0]


@pytest.mark.parametrize("task", ["number", "word", "video_number"])
def test_splits_share_no_string(task):
    for split in scenes.SPLITS:
        answers = [tasks.draw(task, seed, split).answer for seed in range(60)]
        assert {tasks.is_held_out(answer) for answer in answers if len(answer) > 1} == {split == "test"}
    assert all(tasks.draw("word", seed, "test").answer in tasks.words("test") for seed in range(20))


def test_training_shows_no_string_of_the_tests():
    """Neither in a line of a sheet, nor as a part of a number over the frames."""
    lines = [answer for seed in range(60) for answer in all_answers(tasks.draw("sheet", seed, "train"))]
    shown = [shown_text(labels) for seed in range(60) for labels in tasks.draw("video_number", seed, "train").labels]
    assert max(map(len, lines)) > 4 and max(map(len, shown)) > 1
    assert not any(map(tasks.is_held_out, [*lines, *shown]))


def all_answers(sample):
    return [sample.answer, *(answer for _, answer in sample.turns)]


def shown_text(labels):
    """The characters of a picture by their ranks."""
    ranks = {int(rank): WHAT_CLASSES[what] for what, rank in labels[..., [0, 2]].reshape(-1, 2) if what}
    return "".join(ranks[rank] for rank in sorted(ranks))


@pytest.mark.parametrize("seed", range(12))
def test_a_sheet_asks_for_what_its_lines_say(seed):
    sample = tasks.draw("sheet", seed, "train")
    drawn = {WHAT_CLASSES[what] for what in np.unique(sample.labels[0][..., 0]) if what} - set(SHAPES)
    asked = {sample.question: sample.answer, **dict(sample.turns)}
    assert set("".join(answer for question, answer in asked.items() if "line" in question)) == drawn
    numbers = [int(number) for question in asked for number in re.findall(r"line (\d)", question)]
    assert sorted(numbers) == list(range(1, len(numbers) + 1))


def test_word_list():
    train, test = tasks.words("train"), tasks.words("test")
    assert all(re.fullmatch("[a-z]{3,5}", word) for word in train + test)
    assert len(set(train + test)) == len(train + test) > 1400
    assert 0.15 < len(test) / len(train + test) < 0.25


def test_missing_font_package(monkeypatch):
    monkeypatch.setitem(scenes.FAMILIES, "Nowhere", ("font_nowhere/files", "Nowhere-{}", "Regular"))
    with pytest.raises(FileNotFoundError, match="'font_nowhere'.*pip install"):
        scenes.faces("Nowhere")


@pytest.mark.parametrize(
    ("size", "grid"),
    [((64, 64), (1, 1)), ((90, 90), (1, 1)), ((100, 100), (2, 2)), ((240, 80), (3, 1)), ((50, 200), (1, 4))],
)
def test_tile_grid(size, grid):
    assert scenes.tile_grid(*size) == grid


@pytest.mark.parametrize("name", COLOURS)
def test_every_jittered_colour_is_nearest_to_its_own_name(name):
    middles = {
        colour: scenes.rgb_to_lab(scenes.hsv_to_rgb(np.array(ranges, dtype=float).mean(axis=1)))
        for colour, ranges in scenes.COLOUR_RANGES.items()
    }
    rng = np.random.default_rng(0)
    for _ in range(50):
        lab = scenes.rgb_to_lab(scenes.jitter_colour(rng, name))
        assert min(middles, key=lambda colour: np.linalg.norm(middles[colour] - lab)) == name


def test_shape_label_covers_the_painted_pixels():
    """Level 0 has a flat background and no noise, so every pixel that is not the corner's colour is the object."""
    for sample in samples("shape_colour", 30, level=0):
        pixels, labels = np.asarray(sample.images[0]).astype(int), sample.labels[0]
        difference = np.abs(pixels - pixels[0, 0]).max(axis=-1)
        labelled = labels[..., 0] > 0
        assert difference[labelled].min() > 0
        assert difference[~labelled].max() <= 128  # at most half covered
        assert len(np.unique(pixels[labelled & (difference == difference.max())], axis=0)) == 1


def test_character_label_is_the_ink_bounding_box():
    for sample in samples("number", 30, level=0):
        pixels, labels = np.asarray(sample.images[0]).astype(int), sample.labels[0]
        rows, columns = np.nonzero(np.abs(pixels - pixels[0, 0]).max(axis=-1) > 60)
        label_rows, label_columns = np.nonzero(labels[..., 0] == WHAT_CLASSES.index(sample.answer))
        np.testing.assert_allclose(
            [rows.min(), rows.max(), columns.min(), columns.max()],
            [label_rows.min(), label_rows.max(), label_columns.min(), label_columns.max()],
            atol=1,
        )


@pytest.mark.parametrize("task", ["number", "word"])
def test_written_answer(task):
    for sample in samples(task):
        shown = characters(sample.labels[0])
        assert set(shown) == set(sample.answer)
        if len(set(sample.answer)) == len(sample.answer):
            assert "".join(shown) == sample.answer


def read_by_rank(labels):
    """The characters that a label array shows, in the order of their ranks."""
    shown = {int(rank): WHAT_CLASSES[what] for what, _, rank, _ in labels.reshape(-1, 4) if rank}
    return [shown[rank] for rank in sorted(shown)]


@pytest.mark.parametrize("task", ["number", "word", "video_number"])
def test_ranks_spell_the_answer(task):
    for sample in samples(task, 10):
        assert "".join(read_by_rank(np.stack(sample.labels) if sample.frames else sample.labels[0])) == sample.answer


@pytest.mark.parametrize("task", ["flash", "order"])
def test_ranks_number_the_events_of_a_video(task):
    for sample in samples(task, 10):
        ranks = runs(rank for rank in (int(labels[..., 2].max()) for labels in sample.labels) if rank)
        assert ranks == list(range(1, 1 + (3 if task == "order" else int(sample.answer))))


def test_ranks_number_objects_from_left_to_right():
    for sample in samples("count", 10):
        labels = sample.labels[0]
        columns = [np.nonzero(labels[..., 2] == rank)[1].min() for rank in range(1, 1 + labels[..., 2].max())]
        # Labels leave out the fainter edge of a shape.
        assert min(np.diff(columns), default=0) >= -2


def test_written_characters_stay_readable_in_tiles():
    for sample in samples("number", 40):
        labels = sample.labels[0]
        height, width = labels.shape[:2]
        scale = scenes.tile_scale((width, height), scenes.tile_grid(width, height))
        rows = np.flatnonzero((labels[..., 0] > 0).any(axis=1))
        columns = np.flatnonzero((labels[..., 0] > 0).any(axis=0))
        assert (rows[-1] - rows[0] + 1) * scale[1] >= 8.5
        assert (columns[-1] - columns[0] + 1) * scale[0] >= 5 * len(sample.answer) - 3  # a 1 is narrow


@pytest.mark.parametrize("task", [*tasks.TASKS, *tasks.TRAINING_TASKS])
def test_middles_are_of_what_the_labels_show(task):
    for sample in samples(task, 6):
        for labels, middles in zip(sample.labels, sample.middles, strict=True):
            height, width = labels.shape[:2]
            shown = {tuple(label) for label in labels[labels[..., 0] > 0][:, :3].tolist()}
            assert {(middle.what, middle.colour, middle.rank) for middle in middles} == shown
            for middle in middles:
                if [other[2:] for other in middles].count(middle[2:]) == 1:
                    y, x = np.nonzero((labels[..., :3] == middle[2:]).all(axis=-1))
                    # Labels cover what is filled, which may begin inside the box; a slanted neighbour may cover some.
                    assert abs(middle.x * width - (x.min() + x.max() + 1) / 2) <= 3
                    assert abs(middle.y * height - (y.min() + y.max() + 1) / 2) <= 3


def test_text_stands_out_from_its_background():
    rng = np.random.default_rng(0)
    for _ in range(200):
        palette = scenes.random_palette(rng, [], softness=60)
        _, rgb = scenes.text_colour(rng, palette)
        assert np.abs(scenes.luminance(palette) - scenes.luminance(rgb)).min() >= 70


def test_shape_colour_answer():
    for sample in samples("shape_colour"):
        ((shape, colour),) = names_in(sample.labels[0])
        assert sample.answer in (f"{colour} {shape}", colour, shape)
        wants_colour, wants_shape = "What colour" in sample.question, "What shape" in sample.question
        assert (colour in sample.answer.split()) == (not wants_shape)
        assert (shape in sample.answer.split()) == (not wants_colour)


@pytest.mark.parametrize("level", LEVELS)
def test_count_answer(level):
    for sample in samples("count", 12, level):
        check_count(sample.question, sample.answer, sample.labels[0])


def check_count(question, answer, labels):
    words = [word.rstrip("?.").removesuffix("s") for word in question.lower().split()]
    words = ["cross" if word == "crosse" else word for word in words]
    shapes, colours = set(words) & set(SHAPES) or SHAPES, set(words) & set(COLOURS) or COLOURS
    asked = [name for name in names_in(labels) if name[0] in shapes and name[1] in colours]
    assert sum(components(mask_of(labels, name)) for name in asked) == int(answer)


def check_list(answer, labels):
    """Every object is named once, from left to right."""
    listed = named(answer)
    assert set(listed) == names_in(labels)
    assert all(listed.count(name) == components(mask_of(labels, name)) for name in listed)
    lefts = [mask_of(labels, name).any(axis=0).argmax() for name in listed if listed.count(name) == 1]
    # Labels cover what is filled, which may begin a pixel or two after the object's box.
    assert all(right - left >= -3 for left, right in zip(lefts, lefts[1:]))


@pytest.mark.parametrize("level", LEVELS)
def test_relation_answer(level):
    for sample in samples("relation", 25, level):
        offset = check_side(sample.question, sample.answer, sample.labels[0])
        axis = 0 if sample.answer in ("left", "right") else 1
        share = np.abs(offset) / np.array(sample.labels[0].shape[1::-1])
        assert abs(offset[axis]) >= 1.5 * abs(offset[1 - axis]) and share[axis] >= 1.5 * share[1 - axis]


def check_side(question, answer, labels):
    first, second = named(question)
    if question.startswith("On which side"):
        first, second = second, first
    offset = centre(mask_of(labels, first)) - centre(mask_of(labels, second))
    axis = 0 if answer in ("left", "right") else 1
    assert abs(offset[axis]) > abs(offset[1 - axis]) and (offset[axis] > 0) == (answer in ("right", "below"))
    return offset


def check_place(question, answer, labels):
    """The one object that a question does not set aside lies in the ninth of the answer."""
    (name,) = named(re.sub(rf"not (of )?the {COLOURED}|relative to the {COLOURED}", "", question, flags=re.I))
    x, y = centre(mask_of(labels, name)) / labels.shape[1::-1]
    words = set(answer.split()) - {"middle"}
    for low, high, position in (("left", "right", x), ("top", "bottom", y)):
        # Labels cover what is filled, so their middle may be a pixel from the object's.
        assert (low in words) == (position < 1 / 3) or abs(position - 1 / 3) < 0.04
        assert (high in words) == (position >= 2 / 3) or abs(position - 2 / 3) < 0.04


@pytest.mark.parametrize(
    ("task", "kinds"),
    [
        ("objects", {"list", "count", "colour", "shape", "place", "side"}),
        ("names", {"colour", "shape", "place", "side"}),
        ("relation", {"list", "count", "colour", "shape", "place", "side"}),
        ("count", {"list", "count"}),
    ],
)
def test_training_questions_about_objects(task, kinds):
    seen = Counter()
    for seed in range(60):
        sample = tasks.draw(task, seed)
        labels = sample.labels[0]
        asked = [(sample.question, sample.answer), *sample.turns]
        assert len(dict(asked)) == len(asked)
        for question, answer in asked:
            last = question.rstrip("?").split()[-1]
            if question.startswith(("How many", "Count")):
                seen["count"] += 1
                check_count(question, answer, labels)
            elif question == "Name the objects from left to right.":
                seen["list"] += 1
                check_list(answer, labels)
            elif question.startswith("What colour"):
                seen["colour"] += 1
                assert {colour for shape, colour in names_in(labels) if shape == last} == {answer}
            elif question.startswith("What shape"):
                seen["shape"] += 1
                assert {shape for shape, colour in names_in(labels) if colour == last} == {answer}
            elif "picture" in question or re.match(rf"Not|Where is the {COLOURED}[?,]", question):
                seen["place"] += 1
                check_place(question, answer, labels)
            else:
                seen["side"] += 1
                check_side(question, answer, labels)
    assert set(seen) == kinds and seen.pop("list", 11) > 10 and min(seen.values()) > 20, seen


def test_names_are_of_objects_unlike_in_shape_and_colour():
    for seed in range(40):
        things = names_in(tasks.draw("names", seed).labels[0])
        assert len(dict(things)) == len({colour for _, colour in things}) == len(things) >= 2


@pytest.mark.parametrize("task", ["count", "relation"])
def test_only_training_asks_more_about_the_objects_of_a_picture(task):
    assert all(tasks.draw(task, seed).turns for seed in range(15))
    assert not any(tasks.draw(task, seed, "test").turns for seed in range(15))


def test_counts_in_the_training_questions_are_not_all_one():
    counts = Counter()
    for seed in range(60):
        sample = tasks.draw("objects", seed)
        for question, answer in [(sample.question, sample.answer), *sample.turns]:
            if question.startswith(("How many", "Count")) and "objects are there" not in question:
                counts[answer] += 1
    assert counts["1"] < 0.7 * counts.total()


def test_every_image_is_asked_for_in_training():
    asked = 0
    for seed in range(60):
        sample = tasks.draw("multi_image", seed)
        assert not tasks.draw("multi_image", seed, "test").turns
        for question, answer in sample.turns:
            if question.startswith(("What is different", "Which object of image 2", "Do both images show a")):
                continue  # see `test_what_is_different_between_two_images`
            if question.startswith("What is shown in image"):
                shown, label = answer, sample.labels[int(question.rstrip("?")[-1]) - 1]
            else:
                shown, label = (named(question) or [question])[0], sample.labels[int(answer) - 1]
            things = names_in(label)
            if ", " in shown:
                check_list(shown, label)
            elif isinstance(shown, str) and not named(shown):
                digits = Counter(re.findall(r"\d", shown))
                assert set(digits) == {what for what, _ in things}
            else:
                assert things == {named(shown)[0] if isinstance(shown, str) else shown}
            asked += 1
    assert asked > 40


def test_which_image_answer():
    for sample in samples("multi_image", 40):
        shown = [names_in(labels) for labels in sample.labels]
        numbers = re.findall(r"\d+", sample.question)
        if numbers:
            holds = [{what for what, _ in names} == set(numbers[0]) for names in shown]
        elif named(sample.question):
            holds = [named(sample.question)[0] in names for names in shown]
        else:
            continue
        assert holds[int(sample.answer) - 1]
        assert sum(holds) == 1 or numbers and len(set(numbers[0])) < 3  # 12 and 21 hold the same digits


def test_same_images_answer():
    answers = Counter()
    for sample in samples("multi_image", 60):
        if sample.answer not in ("yes", "no"):
            continue
        first, second = sample.labels
        same = names_in(first) == names_in(second)
        for name in names_in(first) & names_in(second):
            places = [centre(mask_of(labels, name)) / labels.shape[1::-1] for labels in (first, second)]
            same &= bool(np.abs(places[0] - places[1]).max() < 0.1)
        assert same == (sample.answer == "yes")
        answers[sample.answer] += 1
    assert min(answers["yes"], answers["no"]) > 5


@pytest.mark.parametrize("level", LEVELS)
def test_direction_answer(level):
    for sample in samples("direction", 12, level):
        height, width = sample.frames[0].shape[:2]
        moves = {}
        for name in names_in(sample.labels[0]):
            path = np.array([centre(mask_of(labels, name)) for labels in sample.labels])
            moves[name] = path[-1] - path[0]
        mover, move = max(moves.items(), key=lambda item: np.abs(item[1]).max())
        assert all(not moves[name].any() for name in moves if name != mover)
        assert named(sample.question) in ([], [mover])
        axis = 0 if sample.answer in ("left", "right") else 1
        assert abs(move[axis]) > 2 * abs(move[1 - axis]) and abs(move[axis]) > 0.2 * (width, height)[axis]
        assert (move[axis] > 0) == (sample.answer in ("right", "down"))
        moving = scenes.MOTION_CLASSES.index(sample.answer)
        for index, labels in enumerate(sample.labels):
            motions = np.unique(labels[mask_of(labels, mover)][:, 3]).tolist()
            assert motions == [moving if index else scenes.UNKNOWN]


def test_order_answer():
    for sample in samples("order"):
        shown = [names_in(labels) for labels in sample.labels]
        events = [next(iter(names)) for names in runs(shown) if names]
        assert len(events) == len(set(events)) == 3
        place = {"first": 0, "second": 1, "last": 2}[sample.question.rstrip("?").split()[-1]]
        what, colour = events[place]
        assert sample.answer == (what if what.isdigit() else f"{colour} {what}")


@pytest.mark.parametrize("level", LEVELS)
def test_flash_answer(level):
    for sample in samples("flash", 12, level):
        shown = [tuple(names_in(labels)) for labels in sample.labels]
        colours = {colour for names in shown for _, colour in names}
        if len(colours) == 2:  # one object between two lights
            bright = max(colours, key=lambda colour: np.mean(scenes.COLOUR_RANGES[colour][2]))
            lit = [names[0][1] == bright for names in shown]
        else:
            lit = [bool(names) for names in shown]
        assert len(sample.frames) >= 2 * int(sample.answer) + 1
        assert runs(lit).count(True) == int(sample.answer)
        assert runs(lit).count(False) >= max(1, int(sample.answer) - 1)


@pytest.mark.parametrize("level", LEVELS)
def test_video_number_answer(level):
    for sample in samples("video_number", 12, level):
        pattern = ""
        for labels in _events(sample.labels):
            shown = characters(labels)
            pattern += f"{shown[0]}{{1,2}}" if len(shown) == 1 else "".join(shown)
        assert re.fullmatch(pattern, sample.answer)


def _events(labels):
    """One label array per part of the number, in order; a repeated part at another place is another part."""
    events = []
    for index, array in enumerate(labels):
        if array.any() and (index == 0 or not np.array_equal(array, labels[index - 1])):
            events.append(array)
    return events


def test_answers_are_balanced():
    lengths = Counter(len(tasks.draw("number", seed, "test").answer) for seed in range(250))
    assert sorted(lengths) == [1, 2, 3, 4, 5] and min(lengths.values()) > 25
    counts = Counter(tasks.draw("count", seed, "test").answer for seed in range(180))
    assert sorted(counts) == list("123456") and min(counts.values()) > 12


def test_video_survives_h264():
    sample = tasks.draw("direction", 3)
    decoded = scenes.through_h264(sample.frames, sample.fps, crf=23)
    assert len(decoded) == len(sample.frames) and decoded[0].shape == sample.frames[0].shape
    difference = np.abs(np.stack(decoded).astype(int) - np.stack(sample.frames)).mean()
    assert 0 < difference < 12


def test_h264_refuses_odd_sizes():
    with pytest.raises(ValueError, match=r"even height and width, but got \(33, 48\)"):
        scenes.encode_mp4([np.zeros((33, 48, 3), np.uint8)], 5.0, io.BytesIO())


def test_what_is_different_between_two_images():
    said = Counter()
    for seed in range(60):
        sample = tasks.draw("pairs", seed)
        turns = {re.sub(r"(image|show) .*", r"\1", question): (question, answer) for question, answer in sample.turns}
        assert len(turns) == 4
        difference = turns["What is different?"][1]
        said[difference] += 1
        first, second = (names_in(label) for label in sample.labels)
        assert (difference == "nothing") == (sample.answer == "yes")
        if difference in ("nothing", "place"):
            assert first == second
        else:
            same, other = (0, 1) if difference == "colour" else (1, 0)
            assert {name[same] for name in first} == {name[same] for name in second}
            assert {name[other] for name in first} != {name[other] for name in second}
        question, answer = turns["What is shown in image"]
        check_list(answer, sample.labels[int(question.rstrip("?")[-1]) - 1])
        question, answer = turns["Do both images show"]
        assert named(question)[0] in first and (named(question)[0] in second) == (answer == "yes")
        changed = set(named(turns["Which object of image"][1]))
        assert bool(changed) == (difference != "nothing")
        assert changed == second - first or difference == "place" and len(changed & first & second) == 1
    assert set(said) == {"nothing", "colour", "shape", "place"}
