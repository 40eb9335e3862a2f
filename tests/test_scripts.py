# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""`scripts/chat.py`, `demo.py` and `stream.py` as a user runs them, offline, on random weights."""

import io
import json
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import wave
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from transformers import GenerationConfig


ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "scripts"
CHAT, DEMO, STREAM = SCRIPTS / "chat.py", SCRIPTS / "demo.py", SCRIPTS / "stream.py"
SUMMARY = re.compile(r"^\[(\d+) visual tokens, \d+\.\d\d s\]$", re.MULTILINE)

pytest.importorskip("matplotlib", reason="the generator needs requirements-training.txt")
sys.path[:0] = [str(SCRIPTS), str(ROOT)]

import chat  # noqa: E402
import demo  # noqa: E402
import stream  # noqa: E402
from common import run  # noqa: E402

from training.scenes import encode_mp4  # noqa: E402
from training.tasks import TASKS, draw  # noqa: E402


WATCH, DRAWN_FRAMES = stream.Watcher.watch, stream.drawn_frames


def environment() -> dict[str, str]:
    settings = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    # As most locales have it; that of this machine may let bytes through that are no text.
    return {**os.environ, **settings, "PYTHONIOENCODING": "utf-8:strict"}


def run_script(*words, stdin: str = "") -> subprocess.CompletedProcess:
    command = [sys.executable, *map(str, words)]
    pipes = {"input": stdin, "capture_output": True, "encoding": "utf-8", "errors": "surrogateescape"}
    return subprocess.run(command, **pipes, env=environment(), timeout=120)


def error_line(stderr: str) -> str:
    """The one line that stderr consists of."""
    (line,) = stderr.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.fixture(autouse=True)
def typed(monkeypatch):
    """A function that sets what was typed, which is nothing before."""

    def set_input(text: str):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8"))

    set_input("")
    return set_input


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    """A checkpoint of this architecture with random weights, and none of them zero: time has to count."""
    from pvc.configuration_pvc import PVCConfig
    from pvc.modeling_pvc import PVCForConditionalGeneration

    folder = tmp_path_factory.mktemp("scripts") / "model"
    torch.manual_seed(0)
    model = PVCForConditionalGeneration(PVCConfig.from_pretrained(ROOT))
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
        # A score of zero is never the highest, so that an answer goes on until it is stopped.
        model.lm_head.weight[GenerationConfig.from_pretrained(ROOT).eos_token_id] = 0
    folder.mkdir()
    for pattern in ("*.py", "*.json", "*.jinja", "tokenizer.model"):
        for path in ROOT.glob(pattern):
            shutil.copy(path, folder)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> Path:
    """Real files: an image and a video that can be read, and what users pass by mistake."""
    folder = tmp_path_factory.mktemp("files")
    draw("shape_colour", 1, "test").images[0].save(folder / "photo one.jpg")
    sample = draw("direction", 1, "test", 2)
    encode_mp4(sample.frames, sample.fps, str(folder / "clip.mp4"))
    encode_mp4(40 * sample.frames[:1], 10, str(folder / "40 frames.mp4"))
    whole = (folder / "clip.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "text.mp4").write_text("no video\n" * 50)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.jpg").write_text("no image")
    (folder / "folder").mkdir()
    Image.new("RGB", (64, 64), "red").save(folder / "red.png")
    (folder / "cut.png").write_bytes((folder / "red.png").read_bytes()[:60])
    with wave.open(str(folder / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    return folder


@pytest.fixture(scope="module")
def processor(model_folder):
    return chat.load_processor(str(model_folder))


@pytest.fixture(scope="module")
def model(model_folder):
    return chat.load_model(str(model_folder), torch.device("cpu"), "auto")


@pytest.fixture
def conversation(model, processor):
    return chat.Conversation(model, processor, max_new_tokens=4, show_progress=False)


@pytest.fixture
def tower_calls(model):
    """One entry per call of the vision tower."""
    calls = []
    handle = model.model.vision_tower.register_forward_pre_hook(lambda module, args: calls.append(module))
    yield calls
    handle.remove()


def test_one_question_about_two_files(model_folder, files):
    done = run_script(
        CHAT,
        "--model",
        model_folder,
        "--video",
        files / "clip.mp4",
        "--image",
        files / "photo one.jpg",
        "--num-frames",
        3,
        "--max-new-tokens",
        6,
        "What is shown?",
    )
    assert (done.returncode, done.stderr) == (0, "")
    (tokens,) = SUMMARY.findall(done.stdout)
    # 3 frames of 16 tokens, and one tile in 4 steps or a grid of them with a thumbnail.
    assert (int(tokens) - 3 * 16) % 64 == 0
    assert int(tokens) > 3 * 16
    assert len(done.stdout.splitlines()[0]) > 0
    assert SUMMARY.match(done.stdout.splitlines()[-1])


def test_progress_bars_on_request(model_folder, files, capfd):
    words = ["--video", str(files / "clip.mp4"), "--max-new-tokens", "1", "What is shown?"]
    assert run(chat.main, ["--model", str(model_folder), *words]) == 0
    assert capfd.readouterr().err == ""
    assert run(chat.main, ["--model", str(model_folder), "--progress", *words]) == 0
    shown = capfd.readouterr().err
    assert "watching clip.mp4" in shown


def test_conversation_through_stdin(model_folder, files):
    lines = [
        f"/image '{files / 'photo one.jpg'}'",
        "What is shown?",
        "",
        "Which colour is it?",
        f"/video {files / 'text.mp4'}",
        "/picture x",
        "/new",
        "Hello",
        "/quit",
        "never asked",
    ]
    done = run_script(CHAT, "--model", model_folder, "--max-new-tokens", 5, stdin="\n".join(lines))
    assert done.returncode == 0
    first, second, third = map(int, SUMMARY.findall(done.stdout))
    assert first == second > 0
    assert third == 0
    assert done.stdout.count("> ") == len(lines) - 1
    assert f"photo one.jpg: {first} visual tokens" in done.stdout
    not_a_video, not_a_command = done.stderr.splitlines()
    assert "which is not one" in error_line(not_a_video)
    assert "'/picture x'" in error_line(not_a_command)


@pytest.mark.parametrize("words", [[CHAT], [STREAM, "--no-wait", "--max-frames", 1]])
def test_a_line_that_is_no_text_is_refused_alone(model_folder, words):
    stdin = "caf\udce9?\nWhat is shown?\n"
    done = run_script(*words, "--model", model_folder, "--max-new-tokens", 3, stdin=stdin)
    assert done.returncode == 0
    assert r"in UTF-8, received b'caf\xe9?'" in error_line(done.stderr)
    assert (len(SUMMARY.findall(done.stdout)) if words == [CHAT] else done.stdout.count("\n> ")) == 1


def test_input_may_be_closed(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    read = []
    assert run(lambda arguments: read.extend(sys.stdin)) == 0
    assert read == []


def test_an_interrupted_script_says_nothing(capfd):
    def main(arguments):
        raise KeyboardInterrupt

    assert run(main) == 130
    assert capfd.readouterr() == ("", "")


def test_end_of_input_leaves(model_folder, capfd):
    assert run(chat.main, ["--model", str(model_folder)]) == 0
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
def test_interrupt_stops_the_answer_only(model_folder):
    command = [sys.executable, str(CHAT), "--model", str(model_folder), "--max-new-tokens", "4000"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # A test run in the background of a shell ignores the signal, and so would what it starts.
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, text=True, env=environment(), preexec_fn=listen, **pipes) as process:
        process.stdin.write("Tell me everything.\n")
        process.stdin.flush()
        shown = ""
        while len(shown.partition("> ")[2]) < 20:
            character = process.stdout.read(1)
            assert character, process.stderr.read()
            shown += character
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate("/quit\n", timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert "[stopped; /quit leaves]\n> " in rest
    assert not SUMMARY.search(rest)


BAD_FILES = {
    "image": {
        "nothing.jpg": "existing file",
        "text.jpg": "expected an image",
        "cut.png": "expected a readable image",
        "folder": "received the folder",
        "sound.wav": "expected an image",
        "clip.mp4": "expected an image",
    },
    "video": {
        "nothing.mp4": "existing file",
        "cut.mp4": "which is not one",
        "text.mp4": "which is not one",
        "empty.mp4": "which is not one",
        "folder": "received the folder",
        "sound.wav": "received only audio",
        "text.jpg": "expected an image",
    },
}


@pytest.mark.parametrize(
    ("kind", "name", "reason"), [(kind, *entry) for kind, names in BAD_FILES.items() for entry in names.items()]
)
def test_bad_file_is_one_line(model_folder, files, capfd, kind, name, reason):
    status = run(chat.main, ["--model", str(model_folder), f"--{kind}", str(files / name), "What is it?"])
    printed = capfd.readouterr()
    assert (status, printed.out) == (2, "")
    line = error_line(printed.err)
    assert reason in line
    assert name in line


def test_bad_file_as_a_user_sees_it(model_folder, files):
    done = run_script(CHAT, "--model", model_folder, "--video", files / "cut.mp4", "What is it?")
    assert (done.returncode, done.stdout) == (2, "")
    assert "cut.mp4" in error_line(done.stderr)


def test_model_folder_without_code_as_a_user_sees_it(model_folder, tmp_path):
    shutil.copytree(model_folder, tmp_path / "no_code")
    (tmp_path / "no_code" / "modeling_pvc.py").unlink()
    done = run_script(CHAT, "--model", tmp_path / "no_code", "What is it?")
    assert (done.returncode, done.stdout) == (2, "")
    assert "modeling_pvc.py" in error_line(done.stderr)


@pytest.mark.parametrize(
    ("script", "words", "reason"),
    [
        (chat, ["--num-frames", "0"], "whole number of at least 1, received '0'"),
        (chat, ["--fps", "fast"], "number above 0, received 'fast'"),
        (chat, ["--fps", "-1"], "number above 0, received '-1'"),
        (chat, ["--device", "abacus"], "a device of this machine, received 'abacus'"),
        (chat, ["--dtype", "int8"], "invalid choice: 'int8'"),
        (chat, ["--what"], "unrecognized arguments: --what"),
        (chat, [""], "expected a question, received ''"),
        (chat, ["caf\udce9?"], r"in UTF-8, received b'caf\xe9?'"),
        (stream, ["--ask", " "], "expected a question, received ' '"),
        (stream, ["--sink", "x"], "whole number of at least 0, received 'x'"),
        (stream, ["--sink", "-1"], "whole number of at least 0, received '-1'"),
        (stream, ["--video", "clip.mp4", "--camera", "0"], "--camera: not allowed with argument --video"),
        (stream, ["--exact"], "expected --max-frames or --num-steps"),
        (stream, ["--exact", "--camera", "0"], "expected --max-frames or --num-steps"),
    ],
)
def test_bad_argument_is_one_line(capfd, script, words, reason):
    with pytest.raises(SystemExit) as stopped:
        script.main(words)
    assert stopped.value.code == 2
    assert reason in error_line(capfd.readouterr().err)


def test_two_ways_of_sampling_are_one_line(model_folder, files, capfd):
    words = ["--num-frames", "4", "--fps", "2", "--video", str(files / "clip.mp4"), "What is it?"]
    assert run(chat.main, ["--model", str(model_folder), *words]) == 2
    assert "expected num_frames or fps" in error_line(capfd.readouterr().err)


@pytest.mark.parametrize("main", [chat.main, demo.main])
@pytest.mark.parametrize(
    "damage", ["missing", "not json", "no weights", "cut weights", "other widths", "other weights"]
)
def test_bad_model_folder_is_one_line(model_folder, tmp_path, capfd, main, damage):
    folder = tmp_path / "damaged"
    if damage != "missing":
        shutil.copytree(model_folder, folder)
    if damage == "not json":
        (folder / "config.json").write_text("{ 1")
    elif damage == "no weights":
        (folder / "model.safetensors").unlink()
    elif damage == "cut weights":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])
    elif damage.startswith("other"):
        config = json.loads((folder / "config.json").read_text())
        part, name = ("text_config", "hidden_size") if damage == "other widths" else ("vision_config", "hidden_size")
        config[part][name] *= 2
        (folder / "config.json").write_text(json.dumps(config))
    words = ["--folder", str(tmp_path / "drawn")] if main is demo.main else ["Hello"]
    status = run(main, ["--model", str(folder), *words])
    printed = capfd.readouterr()
    assert (status, printed.out) == (2, "")
    error_line(printed.err)


def test_later_turns_encode_nothing(conversation, processor, files, tower_calls):
    read = chat.Reader(processor, {"num_frames": 4})
    assert conversation.attach(read("image", str(files / "photo one.jpg"))) % 64 == 0
    assert conversation.attach(read("video", str(files / "clip.mp4"))) == 4 * 16
    assert len(tower_calls) == 2
    conversation.ask("What is shown?")
    conversation.ask("And what else?")
    assert len(tower_calls) == 2
    conversation.attach(read("image", str(files / "red.png")))
    conversation.ask("And here?")
    assert len(tower_calls) == 3


def test_an_answer_is_printed_without_the_space_of_its_first_word(processor, capsys):
    streamer = chat.AnswerStreamer(processor.tokenizer)
    for ids in ([1, 2], *processor.tokenizer("What is it", add_special_tokens=False)["input_ids"]):
        streamer.put(torch.tensor(ids).reshape(-1))
    streamer.end()
    assert capsys.readouterr().out == "What is it\n"


STATUS = re.compile(r"^frame (\d+)   (\d+) tokens held   \d+\.\d ms a frame$", re.MULTILINE)


def test_stream_of_drawn_scenes(model_folder):
    words = ["--no-wait", "--max-frames", 30, "--window", 4, "--ask", "What is shown?", "--max-new-tokens", 3]
    done = run_script(STREAM, "--model", model_folder, *words)
    assert (done.returncode, done.stderr) == (0, "")
    (last, held) = map(int, STATUS.findall(done.stdout)[-1])
    assert last == 30
    # At most 1 + 2 * 4 frames of 16 tokens and a label of about ten.
    assert held <= 9 * 28
    assert re.search(r"^> What is shown\?\n.+", done.stdout, re.MULTILINE)


def test_questions_are_answered_while_a_file_plays(model_folder, files):
    """The first question comes with the first frame; a command ends it before the last."""
    words = ["--video", files / "clip.mp4", "--fps", 10, "--max-new-tokens", 3]
    done = run_script(STREAM, "--model", model_folder, *words, stdin="What is shown?\n\n/quit\nnever asked\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert STATUS.findall(done.stdout)[0][0] == "1"
    assert "> What is shown?" in done.stdout
    assert "never asked" not in done.stdout


@pytest.mark.parametrize("remember", [False, True])
def test_a_question_of_a_stream_is_remembered_on_request(model_folder, files, remember, typed, monkeypatch, capsys):
    typed("What is shown?\n")
    words = ["--video", str(files / "clip.mp4"), "--no-wait", "--max-new-tokens", "3", "--num-steps", "90", "--exact"]
    watched = []
    monkeypatch.setattr(
        stream.Watcher, "watch", lambda self, *a, **k: (watched.append(self.stream), WATCH(self, *a, **k))
    )
    assert run(stream.main, ["--model", str(model_folder), *words, *(["--remember"] if remember else [])]) == 0
    text = watched[0].processor.tokenizer.decode(watched[0].input_ids)
    assert ("What is shown?" in text) == remember
    assert "> What is shown?" in capsys.readouterr().out


@pytest.fixture
def stream_settings(monkeypatch, model, processor) -> dict:
    """The settings with which `stream.py` begins its stream; processor and model are those of the other tests."""
    settings = {}

    def begin(processor, **given):
        settings.update(given)
        return model.stream(processor, **given)

    monkeypatch.setattr(stream, "load_processor", lambda *args: processor)
    monkeypatch.setattr(stream, "load_model", lambda *args: SimpleNamespace(stream=begin))
    return settings


@pytest.mark.parametrize(
    ("words", "num_frames", "num_steps"),
    [
        ([], 40, 32),
        (["--num-steps", "64"], 40, 64),
        (["--max-frames", "36"], 36, 32),
        (["--exact"], 40, 40),
        (["--exact", "--max-frames", "36"], 36, 36),
        (["--exact", "--num-steps", "64"], 40, 64),
    ],
)
def test_as_much_of_a_file_is_seen_as_was_asked_for(stream_settings, files, capsys, words, num_frames, num_steps):
    """More than the processor's `max_frames`, which is 32."""
    video = ["--video", str(files / "40 frames.mp4"), "--fps", "10", "--no-wait"]
    assert run(stream.main, [*video, *words]) == 0
    assert STATUS.findall(capsys.readouterr().out)[-1][0] == str(num_frames)
    assert stream_settings["num_steps"] == num_steps


def test_what_has_no_end_ends_with_the_input(stream_settings, typed, monkeypatch, capsys):
    def many_frames(*args):
        yield from islice(DRAWN_FRAMES(*args), 200)
        pytest.fail("goes on")

    monkeypatch.setattr(stream, "drawn_frames", many_frames)
    typed("What came?\n")
    assert run(stream.main, ["--no-wait", "--max-new-tokens", "3", "--ask", "What is shown?"]) == 0
    assert re.findall("^> (.*)$", capsys.readouterr().out, re.MULTILINE) == ["What came?", "What is shown?"]


def test_questions_are_taken_after_the_last_frame(stream_settings, monkeypatch):
    reading, writing = os.pipe()
    asked = []

    def ask_on():
        os.write(writing, b"second\nthird\n")
        os.close(writing)

    def answer(self, question):
        asked.append(question)
        if question == "first":
            threading.Timer(0.3, ask_on).start()

    monkeypatch.setattr(sys, "stdin", os.fdopen(reading))
    monkeypatch.setattr(stream.Watcher, "answer", answer)
    assert run(stream.main, ["--no-wait", "--max-frames", "1", "--ask", "first"]) == 0
    assert asked == ["first", "second", "third"]


def test_an_unknown_command_of_a_stream_is_one_line(stream_settings, typed, capsys):
    typed("/new\n")
    assert run(stream.main, ["--no-wait", "--max-frames", "1"]) == 0
    shown = capsys.readouterr()
    assert "received '/new'; /quit leaves" in error_line(shown.err)
    assert ">" not in shown.out


def test_the_last_status_is_shown_once(stream_settings, capsys):
    assert run(stream.main, ["--no-wait", "--max-frames", "1"]) == 0
    assert len(STATUS.findall(capsys.readouterr().out)) == 1


def test_a_frame_does_not_wait_twice_when_the_input_ends(monkeypatch):
    seen = []
    monkeypatch.setattr(stream.Watcher, "see", lambda *args: seen.append(time.monotonic()))
    watcher = stream.Watcher(SimpleNamespace(num_frames=1, input_ids=[]), stream.parse_arguments(["--fps", "2"]))
    watcher.watch([(None, 0.0), (None, 0.5)], stream.Questions(), endless=False)
    assert 0.4 < seen[1] - seen[0] < 0.9


def test_frames_of_a_camera(stream_settings, files, monkeypatch, capsys):
    """FFmpeg reads a file as it does a camera, only faster."""
    monkeypatch.setattr(stream, "CAMERA_FORMATS", {})
    words = ["--camera", str(files / "clip.mp4"), "--fps", "1000", "--no-wait", "--max-frames", "3"]
    assert run(stream.main, words) == 0
    assert STATUS.findall(capsys.readouterr().out)[-1][0] == "3"


def test_a_camera_of_another_system_is_one_line(stream_settings, monkeypatch, capsys):
    monkeypatch.setattr(stream, "CAMERA_FORMATS", {sys.platform: "abacus"})
    assert run(stream.main, ["--camera", "0"]) == 2
    assert "received '0': no container format 'abacus'; name another" in error_line(capsys.readouterr().err)


def test_a_stream_beyond_its_horizon_is_one_line(stream_settings, files, capfd):
    words = ["--video", str(files / "clip.mp4"), "--fps", "8", "--no-wait", "--exact", "--num-steps", "2"]
    assert run(stream.main, words) == 2
    assert "at most num_steps = 2 " in error_line(capfd.readouterr().err)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--video", "nothing.mp4"], "existing file"),
        (["--camera", "/dev/no_camera"], "/dev/no_camera'; name another with --camera"),
        (["--window", "900"], "with this window"),
    ],
)
def test_a_stream_that_cannot_begin_is_one_line(stream_settings, capfd, words, reason):
    assert run(stream.main, ["--no-wait", "--max-frames", "1", *words]) == 2
    assert reason in error_line(capfd.readouterr().err)


def test_demo_asks_each_task_about_real_files(model_folder, tmp_path):
    done = run_script(DEMO, "--model", model_folder, "--folder", tmp_path / "drawn", "--seed", 7)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[1] for line in done.stdout.splitlines() if re.match(r" *\d+  \w", line)] == list(TASKS)
    assert "\033" not in done.stdout
    assert f"files in {tmp_path / 'drawn'}\nseed 7 " in done.stdout
    drawn = sorted((tmp_path / "drawn").iterdir())
    assert {path.suffix for path in drawn} <= {".png", ".jpg", ".mp4"}
    assert all(path.name in done.stdout for path in drawn)
    verdicts = re.findall(
        r"^ +(right|wrong) +answer .* truth .* visual tokens +\d+\.\d\d s$", done.stdout, re.MULTILINE
    )
    assert len(verdicts) == len(TASKS) >= 10
    assert f"{verdicts.count('right')} of {len(TASKS)} right\n" in done.stdout
    commands = re.findall(r"^  (\S*python\S* .*chat.py --model .*)", done.stdout, re.MULTILINE)
    assert len(commands) == 2 and "--image" in commands[0] and "--video" in commands[1]
    asked = subprocess.run(shlex.split(commands[0]), capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert (asked.returncode, asked.stderr) == (0, "")


def test_demo_draws_something_new_unless_given_a_seed(monkeypatch, model, processor, tmp_path, capsys):
    """The model answers right here, so the count says so."""
    monkeypatch.setattr(demo, "load_model", lambda *args: model)
    monkeypatch.setattr(demo, "load_processor", lambda *args: processor)
    monkeypatch.setattr(demo, "ask", lambda model, processor, sample, paths: demo.Result(sample.answer, True, 1, 0.0))
    monkeypatch.setattr(demo, "TASKS", ("count", "word"))

    def pictures(*words):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        demo.main(["--rounds", "2", "--folder", str(folder), *words])
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    again = pictures("--seed", "3")
    assert again == pictures("--seed", "3")
    assert pictures() != pictures()
    assert len(again) == 4
    assert capsys.readouterr().out.count("4 of 4 right") == 4


def test_demo_without_the_generator_is_one_line(monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "training.tasks", None)
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(DEMO))
    assert stopped.value.code == 2
    assert "requirements-training.txt" in error_line(capfd.readouterr().err)
