# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""The README is a valid model card, and what it tells people to type works as written."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from huggingface_hub import ModelCard


README = (ROOT / "README.md").read_text(encoding="utf-8")
STREAMING = (ROOT / "docs" / "streaming.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README + STREAMING, flags=re.DOTALL)
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL) for line in block.splitlines()]

pytestmark = pytest.mark.skipif(
    not (ROOT / "model.safetensors").exists(), reason="needs the model of this repository: python -m training.train"
)


def test_front_matter():
    card = ModelCard.load(ROOT / "README.md")
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "image-text-to-text"
    assert card.data.license == "mit"
    assert {"custom_code", "video", "conversational"} <= set(card.data.tags)
    for example in card.data.widget:
        assert (ROOT / example["src"]).is_file() and example["text"]


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_the_two_set_up_commands_come_first():
    assert [shlex.split(command, comments=True) for command in COMMANDS[:2]] == [["make", "demo"], ["make", "test"]]


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_python_examples_answer_rightly(number):
    """Each block runs as it stands, in a fresh process, and prints the answers that its files hold."""
    done = subprocess.run([sys.executable, "-c", BLOCKS[number]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "processor_kwargs" not in done.stderr  # that arguments went where they no longer belong
    printed = re.findall(r"'generated_text': '([^']*)'", done.stdout) or done.stdout.splitlines()
    assert printed == EXPECTED[number]


@pytest.mark.parametrize("command", [command for command in COMMANDS if "scripts/chat.py" in command])
def test_shell_examples(command):
    words = shlex.split(command, comments=True)
    words[0] = sys.executable
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr


def test_file_list_is_true():
    tree = re.search(r"## Files\n\n```\n(.*?)```", README, flags=re.DOTALL).group(1)
    for name in re.findall(r"[a-z0-9_]+\.(?:py|json|jinja|model|safetensors)|[a-z]+/", tree):
        assert (ROOT / name).exists(), name
    shipped = {path.name for path in Path(ROOT).glob("*.py")}
    assert shipped <= set(re.findall(r"[a-z0-9_]+\.py", tree))


# What each block prints, block by block: the truth about the files in assets/.
EXPECTED = [["14", "14", "3", "8"], ["14", "8"], ["14", "14", "3"], ["3", "8"], ["3 8", "8 16 128 [0.0, 1.0]"]]
