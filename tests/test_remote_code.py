# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""The repository as others load it: from a folder, with `trust_remote_code`, and from what `save_pretrained` wrote."""

import ast
import json
import logging
import os
import shutil
import subprocess
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    AutoTokenizer,
    AutoVideoProcessor,
)


ROOT = Path(__file__).resolve().parent.parent
FLAT_MODULES = sorted(path.name for path in ROOT.glob("*.py"))
PROCESSOR_FILES = (
    "processor_config.json",
    "chat_template.jinja",
    "tokenizer_config.json",
    "tokenizer.model",
    "tokenizer.json",
    "generation_config.json",
)
HEADS = (AutoModelForImageTextToText, AutoModelForCausalLM, AutoModelForMultimodalLM)
# What a user has installed who runs the model at all, and the standard library.
ALLOWED = {"torch", "torchvision", "transformers", "numpy", "PIL", "huggingface_hub", "tokenizers"}
ALLOWED |= set(sys.stdlib_module_names)
# Imported where they are needed and only if they are there.
OPTIONAL = {"sentencepiece", "av", "decord", "torchcodec"}

# A fresh process that loads what was saved and says what it saw. After the imports every Python warning is an error.
LOADER = """
import json, logging, sys, warnings
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

records = []
handler = logging.Handler(logging.WARNING)
handler.emit = lambda record: records.append(record.getMessage())
logging.getLogger("transformers").addHandler(handler)
logging.getLogger().addHandler(handler)
warnings.simplefilter("error")
torch.set_num_threads(1)
folder, inputs = sys.argv[1:3]
model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
print(json.dumps({
    "records": records,
    "logits": model(**torch.load(inputs)).logits.tolist(),
    "chat": processor.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False),
    "pvc": "pvc" in sys.modules,
}))
"""


@contextmanager
def nothing_said():
    """No Python warning, and nothing at WARNING or above from the library's loggers."""
    records, handler = [], logging.Handler(logging.WARNING)
    handler.emit = lambda record: records.append(record.getMessage())
    loggers = [logging.getLogger(), logging.getLogger("transformers")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
    assert records == []


@pytest.fixture(scope="module")
def repository(tmp_path_factory, tiny_config, randomise):
    """This repository with a random model in place of its own: the files as they are, a smaller `config.json`."""
    folder = tmp_path_factory.mktemp("repository")
    for name in (*FLAT_MODULES, *PROCESSOR_FILES):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, folder)
    config = json.loads((ROOT / "config.json").read_text())
    config["vision_config"].update(
        hidden_size=32, num_attention_heads=4, intermediate_size=64, num_hidden_layers=2, num_temporal_layers=1
    )
    config["text_config"].update(num_hidden_layers=1, intermediate_size=64)
    (folder / "config.json").write_text(json.dumps(config))
    loaded = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    model = randomise(AutoModelForImageTextToText.from_config(loaded, trust_remote_code=True))
    # The weights alone: everything else is this repository's.
    weights = tmp_path_factory.mktemp("weights")
    model.save_pretrained(weights)
    shutil.copy(weights / "model.safetensors", folder)
    return folder


@pytest.fixture(scope="module")
def inputs(repository):
    """A batch with a picture, a video and neither."""
    processor = AutoProcessor.from_pretrained(repository, trust_remote_code=True)
    messages = [[{"role": "user", "content": [*part, {"type": "text", "text": "what"}]}] for part in PARTS]
    texts = [processor.apply_chat_template(m, tokenize=False, add_generation_prompt=True) for m in messages]
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 60, 130), generator=generator, dtype=torch.uint8)
    video = torch.randint(0, 256, (3, 3, 64, 64), generator=generator, dtype=torch.uint8)
    return processor(text=texts, images=[image], videos=[video], padding=True, return_tensors="pt")


PARTS = ([{"type": "image"}], [{"type": "video"}], [])


def imports_of(path):
    """(line, names, level, guarded) of each import of a module; guarded inside a `try` or a function."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, (ast.Try, ast.FunctionDef))
        for node in ast.walk(block)
        if node is not block
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, 0, id(node) in guarded
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module, node.level, id(node) in guarded


class TestSource:
    @pytest.mark.parametrize("name", FLAT_MODULES)
    def test_imports_are_of_forms_that_the_loader_follows(self, name):
        siblings = {Path(module).stem for module in FLAT_MODULES}
        for line, module, level, guarded in imports_of(ROOT / name):
            where = f"{name}:{line}"
            if level:
                assert level == 1, f"{where}: the loader does not follow `..`"
                assert module in siblings, f"{where}: expected `from .module import name` of a flat module"
                assert not guarded, f"{where}: the loader copies what is imported at the top"
                continue
            package = module.split(".")[0]
            assert package not in siblings, f"{where}: {module} is a file of this repository, import `.{module}`"
            assert package in ALLOWED or (package in OPTIONAL and guarded), f"{where}: {module} is not a dependency"

    @pytest.mark.parametrize("name", FLAT_MODULES)
    def test_no_line_looks_like_an_import_that_is_none(self, name):
        """The loader scans lines, docstrings included."""
        from transformers.dynamic_module_utils import get_imports, get_relative_imports

        tops = {module.split(".")[0] for _, module, level, guarded in imports_of(ROOT / name) if not level}
        relative = {module for _, module, level, _ in imports_of(ROOT / name) if level}
        assert set(get_relative_imports(ROOT / name)) == relative
        assert set(get_imports(ROOT / name)) <= tops

    def test_auto_map_is_complete(self):
        config = json.loads((ROOT / "config.json").read_text())
        head = "modeling_pvc.PVCForConditionalGeneration"
        assert config["auto_map"] == {
            "AutoConfig": "configuration_pvc.PVCConfig",
            "AutoModel": "modeling_pvc.PVCAutoModel",
            "AutoModelForCausalLM": head,
            "AutoModelForImageTextToText": head,
            "AutoModelForMultimodalLM": head,
        }
        processor = json.loads((ROOT / "processor_config.json").read_text())
        assert processor["auto_map"]["AutoProcessor"] == "processing_pvc.PVCProcessor"
        maps = {**processor["image_processor"]["auto_map"], **processor["video_processor"]["auto_map"]}
        assert maps["AutoImageProcessor"] == "image_processing_pvc.PVCImageProcessor"
        assert maps["AutoVideoProcessor"] == "video_processing_pvc.PVCVideoProcessor"
        tokenizer = json.loads((ROOT / "tokenizer_config.json").read_text())
        assert set(tokenizer["auto_map"]["AutoTokenizer"]) == {"tokenization_internlm2.InternLM2Tokenizer"}

    def test_auto_map_names_what_exists(self):
        maps = [json.loads((ROOT / "config.json").read_text())["auto_map"]]
        maps.append(json.loads((ROOT / "processor_config.json").read_text())["auto_map"])
        for target in {target for auto_map in maps for target in auto_map.values()}:
            module, name = target.split(".")
            classes = [
                node.name for node in ast.parse((ROOT / f"{module}.py").read_text()).body if hasattr(node, "name")
            ]
            assert name in classes

    def test_config_fits_the_processor(self, repository):
        config = AutoConfig.from_pretrained(ROOT, trust_remote_code=True)
        processor = AutoProcessor.from_pretrained(repository, trust_remote_code=True)
        assert config.image_token_id == processor.image_token_id
        assert config.video_token_id == processor.video_token_id
        assert config.vision_config.tokens_per_frame == processor.tokens_per_frame
        assert config.num_image_steps == processor.num_image_steps
        size = config.vision_config.image_size
        for part in (processor.image_processor, processor.video_processor):
            assert (part.size["height"], part.size["width"]) == (size, size)
        assert config.text_config.vocab_size >= len(processor.tokenizer)


class TestAutoClasses:
    def test_configuration(self, repository):
        with nothing_said():
            config = AutoConfig.from_pretrained(repository, trust_remote_code=True)
        assert type(config).__name__ == "PVCConfig"
        assert config.vision_config.model_type == "pvc_vision"

    @pytest.mark.parametrize("auto_class", [*HEADS, AutoModel], ids=lambda auto_class: auto_class.__name__)
    def test_models_with_a_head(self, repository, auto_class):
        with nothing_said():
            model = auto_class.from_pretrained(repository, trust_remote_code=True)
        assert type(model).__name__ == "PVCForConditionalGeneration"
        assert callable(model.chat)
        assert model.generation_config.max_new_tokens == 32
        assert model.get_output_embeddings() is model.lm_head

    def test_every_weight_is_loaded(self, repository):
        model, info = AutoModel.from_pretrained(repository, trust_remote_code=True, output_loading_info=True)
        assert not any(info.values()), info
        saved = {name: value.shape for name, value in model.state_dict().items()}
        assert all(name.startswith(("model.vision_tower.", "model.language_model.", "lm_head.")) for name in saved)

    def test_auto_model_from_config_is_the_body(self, repository):
        config = AutoConfig.from_pretrained(repository, trust_remote_code=True)
        with nothing_said():
            body = AutoModel.from_config(config, trust_remote_code=True)
        full = AutoModelForImageTextToText.from_config(config, trust_remote_code=True)
        assert [parent.__name__ for parent in type(body).__mro__][:2] == ["PVCAutoModel", "PVCModel"]
        names = {name for name, _ in body.named_parameters()}
        assert names == {name for name, _ in full.model.named_parameters()}
        assert not hasattr(body, "lm_head")

    def test_a_new_model_starts_as_the_base(self, repository):
        """What starts at zero does so through the library's path for remote code too."""
        config = AutoConfig.from_pretrained(repository, trust_remote_code=True)
        model = AutoModelForImageTextToText.from_config(config, trust_remote_code=True)
        new = [(n, p) for n, p in model.named_parameters() if "modulation" in n or "temporal_attention.o_proj" in n]
        assert len(new) == 3 * 2
        assert [name for name, parameter in new if parameter.any()] == []

    def test_new_parts_that_a_checkpoint_lacks_start_at_zero(self, repository, tmp_path):
        """So begins training: the base's weights in the file, the new parts not."""
        from safetensors.torch import load_file, save_file

        shutil.copytree(repository, tmp_path / "base")
        weights = load_file(repository / "model.safetensors")
        base = {n: w for n, w in weights.items() if "modulation" not in n and "temporal_attention" not in n}
        save_file(base, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
        model = AutoModelForImageTextToText.from_pretrained(tmp_path / "base", trust_remote_code=True)
        for name, parameter in model.named_parameters():
            if name in base:
                assert torch.equal(parameter, base[name]), name
            elif "modulation" in name or "temporal_attention.o_proj" in name:
                assert not parameter.any(), name

    def test_processors(self, repository):
        with nothing_said():
            processor = AutoProcessor.from_pretrained(repository, trust_remote_code=True)
            tokenizer = AutoTokenizer.from_pretrained(repository, trust_remote_code=True)
            image_processor = AutoImageProcessor.from_pretrained(repository, trust_remote_code=True)
            video_processor = AutoVideoProcessor.from_pretrained(repository, trust_remote_code=True)
        parts = (processor, tokenizer, image_processor, video_processor)
        names = [type(part).__name__ for part in parts]
        assert names == ["PVCProcessor", "InternLM2Tokenizer", "PVCImageProcessor", "PVCVideoProcessor"]
        assert type(processor.tokenizer).__name__ == "InternLM2Tokenizer"
        assert processor.chat_template == tokenizer.chat_template == (ROOT / "chat_template.jinja").read_text()
        assert image_processor.to_dict() == processor.image_processor.to_dict()
        assert video_processor.to_dict() == processor.video_processor.to_dict()

    def test_every_input_of_the_processor_is_named_and_taken(self, repository, inputs):
        processor = AutoProcessor.from_pretrained(repository, trust_remote_code=True)
        assert set(inputs) <= set(processor.model_input_names)
        model = AutoModel.from_pretrained(repository, trust_remote_code=True)
        logits = model(**inputs).logits
        assert logits.shape[:2] == inputs["input_ids"].shape
        assert logits.isfinite().all()


class TestSaved:
    @pytest.fixture
    def saved(self, repository, tmp_path):
        """What `save_pretrained` wrote into an empty folder, and the model that wrote it."""
        folder = tmp_path / "saved"
        model = AutoModelForImageTextToText.from_pretrained(repository, trust_remote_code=True)
        processor = AutoProcessor.from_pretrained(repository, trust_remote_code=True)
        with nothing_said():
            model.save_pretrained(folder)
            processor.save_pretrained(folder)
        return folder, model

    def test_the_code_goes_along(self, saved):
        folder, _ = saved
        assert sorted(path.name for path in folder.glob("*.py")) == FLAT_MODULES
        for name in FLAT_MODULES:
            assert (folder / name).read_text() == (ROOT / name).read_text()
        config = json.loads((folder / "config.json").read_text())
        expected = json.loads((ROOT / "config.json").read_text())["auto_map"]
        # From a hub's repository the library writes `repository--module.Class`; from a folder `module.Class`.
        assert {name: target.split("--")[-1] for name, target in config["auto_map"].items()} == expected

    def test_a_fresh_process_loads_it_and_computes_the_same(self, saved, inputs, tmp_path):
        folder, model = saved
        torch.save(dict(inputs), tmp_path / "inputs.pt")
        outside = tmp_path / "elsewhere"
        outside.mkdir()
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(tmp_path / "home"),
            "HF_MODULES_CACHE": str(tmp_path / "home" / "modules"),
        }
        script = tmp_path / "load.py"
        script.write_text(LOADER)
        run = subprocess.run(
            [sys.executable, str(script), str(folder), str(tmp_path / "inputs.pt")],
            cwd=outside,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert run.returncode == 0, run.stderr
        seen = json.loads(run.stdout.splitlines()[-1])
        assert seen["records"] == []
        assert "warning" not in run.stderr.lower()
        assert not seen["pvc"]
        assert seen["chat"] == "<|im_start|>user\nhello<|im_end|>\n"
        # Lists of floats are exact; the process is another, so equality is to the last bit or nearly.
        torch.testing.assert_close(torch.tensor(seen["logits"]), model(**inputs).logits, rtol=0, atol=1e-6)

    def test_saved_twice_is_saved_once(self, saved, tmp_path):
        folder, _ = saved
        again = tmp_path / "again"
        AutoModel.from_pretrained(folder, trust_remote_code=True).save_pretrained(again)
        assert json.loads((again / "config.json").read_text()) == json.loads((folder / "config.json").read_text())
        assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
