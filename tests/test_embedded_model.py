# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""The model in this repository: it loads silently, answers as well as it should, and in every usual way alike."""

import logging
import sys
import warnings
from pathlib import Path

import pytest
import torch


ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

pytest.importorskip("matplotlib", reason="the generator needs requirements-training.txt")
pytestmark = pytest.mark.skipif(
    not (ROOT / "model.safetensors").exists(), reason="needs the model of this repository: python -m training.train"
)

from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline  # noqa: E402

from training.evaluate import answers, evaluate, held_out, mp4_of  # noqa: E402
from training.tasks import TASKS, VIDEO_TASKS, draw  # noqa: E402


# Smallest accuracy on the first SAMPLES held-out samples of each task, which are the same everywhere: a little below
# that of the weights in this repository.
SAMPLES = 20
FLOORS = {
    "number": 0.7,
    "word": 0.45,
    "shape_colour": 0.9,
    "count": 0.65,
    "relation": 0.9,
    "multi_image": 0.65,
    "direction": 0.9,
    "order": 0.85,
    "flash": 0.75,
    "video_number": 0.55,
}
SETTINGS = {"max_new_tokens": 12, "do_sample": False}


@pytest.fixture(scope="module")
def model():
    return AutoModelForImageTextToText.from_pretrained(ROOT, trust_remote_code=True).eval()


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(ROOT, trust_remote_code=True)


@pytest.fixture(scope="module")
def picture():
    """A held-out sample about one image."""
    return held_out("shape_colour", 1)[0]


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A held-out sample about a video, and the video as a file."""
    sample = held_out("direction", 1)[0]
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    path.write_bytes(mp4_of(sample))
    return sample, str(path)


def test_loads_without_a_word():
    records, handler, logger = [], logging.Handler(logging.WARNING), logging.getLogger("transformers")
    handler.emit = lambda record: records.append(record.getMessage())
    logger.addHandler(handler)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, info = AutoModelForImageTextToText.from_pretrained(
            ROOT, trust_remote_code=True, output_loading_info=True
        )
        AutoProcessor.from_pretrained(ROOT, trust_remote_code=True)
    logger.removeHandler(handler)
    assert records == []
    assert not any(info.values()), info
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_floors_are_of_tasks():
    assert set(FLOORS) <= set(TASKS)


@pytest.mark.parametrize("task", FLOORS)
def test_accuracy(model, processor, task):
    result = evaluate(model, processor, task, SAMPLES, batch_size=10)
    assert result["accuracy"] >= FLOORS[task], result["wrong"]


def test_later_questions_of_a_conversation(model, processor):
    """About one picture, after the model's own answers to the questions before."""
    right = []
    for seed in range(8):
        sample = draw("names", seed, "test")
        messages, visuals = [], [{"type": "image", "image": sample.images[0]}]
        for question, answer in [(sample.question, sample.answer), *sample.turns[:2]]:
            messages.append({"role": "user", "content": [*visuals, {"type": "text", "text": question}]})
            inputs = processor.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
            )
            generated = model.generate(**inputs, **SETTINGS)[0, inputs["input_ids"].shape[1] :]
            said = processor.decode(generated, skip_special_tokens=True)
            right.append(said == answer)
            messages.append({"role": "assistant", "content": [{"type": "text", "text": said}]})
            visuals = []
    assert sum(right) >= 0.75 * len(right), right


@pytest.mark.parametrize("task", ["word", "multi_image", *VIDEO_TASKS[:2]])
def test_an_answer_does_not_depend_on_the_batch(model, processor, task):
    samples = held_out(task, 4)
    assert answers(model, processor, samples) == [answers(model, processor, [sample])[0] for sample in samples]


@torch.no_grad()
def test_time_is_used(model, processor):
    """Training has moved the progressive layers off their identity: earlier frames change what a later one says."""
    frames = processor.video_processor([mp4_of(held_out("direction", 1)[0])], return_tensors="pt")[
        "pixel_values_videos"
    ]
    forward = model.get_video_features(frames).pooler_output[0].unflatten(0, (len(frames), -1))
    backward = model.get_video_features(frames.flip(0)).pooler_output[0].unflatten(0, (len(frames), -1)).flip(0)
    change = (forward - backward).norm() / forward.norm()
    assert change > 0.01


def message(visual, question):
    return [{"role": "user", "content": [visual, {"type": "text", "text": question}]}]


def reply(generated):
    """The last turn of what a pipeline gave for one conversation."""
    text = generated[0]["generated_text"]
    return text if isinstance(text, str) else text[-1]["content"]


@pytest.mark.parametrize("task", ["image-text-to-text", "any-to-any"])
@pytest.mark.parametrize("given", ["object", "path"])
def test_pipelines_take_an_image(model, processor, picture, tmp_path, task, given):
    image, path = picture.images[0], tmp_path / "picture.png"
    image.save(path)
    pipe = pipeline(task, model=str(ROOT), trust_remote_code=True)
    visual = {"type": "image", "image": image} if given == "object" else {"type": "image", "path": str(path)}
    generated = pipe(text=message(visual, picture.question), generate_kwargs=SETTINGS, return_full_text=False)
    assert reply(generated) == answers(model, processor, [picture])[0]


def test_a_pipeline_takes_a_video(model, processor, film):
    sample, path = film
    pipe = pipeline("any-to-any", model=str(ROOT), trust_remote_code=True)
    messages = message({"type": "video", "path": path}, sample.question)
    generated = pipe(text=messages, generate_kwargs=SETTINGS, return_full_text=False)
    assert reply(generated) == answers(model, processor, [sample])[0]


@pytest.mark.parametrize("kind", ["image", "video"])
def test_a_template_makes_all_inputs(model, processor, picture, film, kind):
    """The usual snippet: one call from messages to tensors, one to tokens."""
    sample, visual = (
        (picture, {"type": "image", "image": picture.images[0]})
        if kind == "image"
        else (film[0], {"type": "video", "path": film[1]})
    )
    inputs = processor.apply_chat_template(
        message(visual, sample.question),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    with torch.inference_mode():
        generated = model.generate(**inputs, **SETTINGS)[:, inputs["input_ids"].shape[1] :]
    assert processor.batch_decode(generated, skip_special_tokens=True) == answers(model, processor, [sample])
