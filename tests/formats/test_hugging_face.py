"""Folders of the transformers package: the graph of config.json is the network they load."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import lipaudit
from lipaudit.errors import LipauditError, UnsafeFile, UsageError
from lipaudit.formats import hugging_face
from lipaudit.graph.model import Model
from lipaudit.layers import execution
from lipaudit.results import ModelReport

transformers = pytest.importorskip(
    "transformers", minversion="5.0", reason="needs transformers: pip install 'lipaudit[hf]'"
)

_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_TEXT = {**_SIZES, "intermediate_size": 48, "vocab_size": 50, "max_position_embeddings": 32}
_GROUPED = {**_TEXT, "num_key_value_heads": 2}
_IMAGE = {**_SIZES, "intermediate_size": 48, "image_size": 8, "patch_size": 4}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 50, "n_positions": 32}
_DISTIL = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "vocab_size": 50}
_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "vocab_size": 50}
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", _GPT2),
    "llama": ("LlamaForCausalLM", "LlamaConfig", _GROUPED),
    "mistral": ("MistralForCausalLM", "MistralConfig", {**_GROUPED, "sliding_window": 2}),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", _GROUPED),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**_GROUPED, "head_dim": 8}),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", {**_GROUPED, "head_dim": 8}),
    "opt": ("OPTForCausalLM", "OPTConfig", {**_TEXT, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", _TEXT),
    "bert": ("BertModel", "BertConfig", _TEXT),
    "roberta": ("RobertaForMaskedLM", "RobertaConfig", _TEXT),
    "distilbert": ("DistilBertModel", "DistilBertConfig", _DISTIL),
    "electra": ("ElectraModel", "ElectraConfig", {**_TEXT, "embedding_size": 32}),
    "t5 encoder": ("T5EncoderModel", "T5Config", _T5),
    "t5": ("T5ForConditionalGeneration", "T5Config", _T5),
    "vit": ("ViTForImageClassification", "ViTConfig", _IMAGE),
    "clip vision": ("CLIPVisionModel", "CLIPVisionConfig", _IMAGE),
}
QUICK = {"gpt2", "llama", "bert", "t5", "vit"}
"""The others take as long again, and run with `make slow`."""
SMALL = {
    "gpt2": {"n_embd": 8, "n_layer": 1, "n_head": 2},
    "llama": {"hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 8},
    "qwen2": {"hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 8},
    "bert": {"hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 8},
    "t5 encoder": {"d_model": 8, "num_layers": 1, "d_kv": 2, "d_ff": 8},
    "vit": {"hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 8, "patch_size": 8},
}


@pytest.fixture(autouse=True)
def _quiet() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def saved(name: str, folder: Path, **changes: Any) -> Any:
    """Save a network of random weights as transformers does, and return it."""
    cls, config, settings = FAMILIES[name]
    torch.manual_seed(0)
    stated = getattr(transformers, config)(**{**settings, **changes})
    stated.use_cache = False
    module = getattr(transformers, cls)._from_config(stated, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in module.parameters():  # biases and scales that are no 0 and 1
            parameter.add_(0.1 * torch.randn(parameter.shape))
    module.save_pretrained(folder)
    return module


def inputs(model: Model) -> dict[str, torch.Tensor]:
    return {edge.name: torch.randn(edge.known_shape or ()) for edge in model.graph.inputs}


def result(module: Any, given: dict[str, torch.Tensor]) -> torch.Tensor:
    return next(v for v in module(**given).values() if isinstance(v, torch.Tensor))


def inspected(source: Model | Path) -> ModelReport:
    (report,) = lipaudit.inspect(source, spectra=False).models
    return report


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES],
)
def test_the_graph_computes_what_transformers_computes(name: str, tmp_path: Path) -> None:
    module = saved(name, tmp_path)
    model = lipaudit.load(tmp_path, hf=True)
    given = inputs(model)
    (made,) = execution.run(model.graph, given, None).values()
    with torch.no_grad():
        torch.testing.assert_close(made, result(module, given), atol=1e-5, rtol=1e-5)
    stored = {layer.name: layer for layer in inspected(tmp_path).layers}
    found = {layer.name: layer for layer in inspected(model).layers}
    assert found.keys() == stored.keys()
    for layer in found.values():
        if layer.kind.startswith("Conv"):  # its stride is known now
            assert layer.norm.upper <= stored[layer.name].norm.upper
        else:
            assert layer.norm.upper == pytest.approx(stored[layer.name].norm.upper, rel=1e-9)


@pytest.mark.parametrize(
    "name",
    [n if n in {"gpt2", "t5 encoder"} else pytest.param(n, marks=pytest.mark.slow) for n in SMALL],
)
def test_the_bound_is_proved_and_not_passed(name: str, tmp_path: Path) -> None:
    module = saved(name, tmp_path, **SMALL[name]).double()
    shape = None if name == "vit" else "2"
    (report,) = lipaudit.bound(tmp_path, hf=True, input_shape=shape).models
    assert report.bound is not None
    assert report.bound.certified
    (key,) = report.input_shapes
    size = report.input_shapes[key]
    for scale in (1e-3, 0.1, 1.0):
        point = scale * torch.randn(size, dtype=torch.float64)
        jacobian = torch.func.jacrev(lambda x: result(module, {key: x}))(point)
        slope = float(torch.linalg.matrix_norm(jacobian.reshape(-1, point.numel()), 2))
        assert slope <= report.bound.measure.upper
    if name != "vit":
        assert any("embeddings of 2 tokens" in text for text in report.assumptions)


def test_positions_count_in_the_order_of_the_text(tmp_path: Path) -> None:
    """The tables that the code makes are not left at what memory happened to hold."""
    module = saved("llama", tmp_path)
    model = lipaudit.load(tmp_path, hf=True, input_shape="20x32")
    given = inputs(model)
    (made,) = execution.run(model.graph, given, torch.float64).values()
    with torch.no_grad():
        torch.testing.assert_close(made.float(), result(module, given), atol=1e-5, rtol=1e-5)


def test_tied_weights_are_one_and_stored_ones_are_two(tmp_path: Path) -> None:
    module = saved("gpt2", tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    assert "lm_head.weight" not in tensors
    tensors["lm_head.weight"] = 3 * tensors["transformer.wte.weight"]
    save_file(tensors, file)
    model = lipaudit.load(tmp_path, hf=True)
    given = inputs(model)
    (made,) = execution.run(model.graph, given, None).values()
    with torch.no_grad():
        torch.testing.assert_close(made, 3 * result(module, given), atol=1e-5, rtol=1e-5)
    names = {layer.name for layer in inspected(model).layers}
    assert {"lm_head", "transformer.wte"} <= names


def test_without_the_option_the_bound_names_it(tmp_path: Path) -> None:
    saved("bert", tmp_path)
    (report,) = lipaudit.bound(tmp_path).models
    assert report.bound is not None
    assert "--hf" in report.bound.reasons[0]


def changed(folder: Path, **settings: Any) -> None:
    file = folder / "config.json"
    stated = json.loads(file.read_text()) | settings
    file.write_text(json.dumps(stated))


def test_code_that_a_config_names_is_not_run(tmp_path: Path) -> None:
    saved("bert", tmp_path)
    (tmp_path / "evil.py").write_text("raise SystemExit('run')")
    changed(tmp_path, auto_map={"AutoModel": "evil.Net", "AutoConfig": "evil.Config"})
    model = lipaudit.load(tmp_path, hf=True)
    assert any("auto_map" in note and "ignored" in note for note in model.notes)


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        ({"num_hidden_layers": 10**9}, UnsafeFile, "num_hidden_layers"),
        ({"vocab_size": 2**40}, UnsafeFile, "vocab_size"),
        ({"num_labels": 10**8}, UnsafeFile, "num_labels"),
        ({"hidden_size": 64}, UsageError, "config.json"),
        ({"num_hidden_layers": 3}, UsageError, "lacks"),
        ({"hidden_act": "os.system"}, UsageError, "build"),
        ({"model_type": "no-such-family"}, UsageError, "no-such-family"),
        ({"architectures": ["os"]}, UsageError, "os"),
        ({"architectures": ["LlamaForCausalLM"]}, UsageError, "LlamaForCausalLM"),
        ({"architectures": ["PreTrainedModel"]}, UsageError, "PreTrainedModel"),
        ({"quantization_config": {"quant_method": "gptq"}}, LipauditError, "quantized"),
        ({"model_type": 7}, LipauditError, "model_type"),
    ],
)
def test_a_config_that_makes_no_sense(
    settings: dict[str, Any], kind: type[LipauditError], words: str, tmp_path: Path
) -> None:
    saved("bert", tmp_path)
    changed(tmp_path, **settings)
    with pytest.raises(kind, match=words) as caught:
        lipaudit.load(tmp_path, hf=True)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    saved("bert", tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UsageError, match=r"config\.json"):
        lipaudit.load(tmp_path, hf=True)


def test_a_length_that_does_not_fit(tmp_path: Path) -> None:
    saved("bert", tmp_path)
    with pytest.raises(UsageError, match="embeddings of 32"):
        lipaudit.load(tmp_path, hf=True, input_shape="4x31")


def test_the_command_needs_no_network(tmp_path: Path) -> None:
    saved("t5 encoder", tmp_path, **SMALL["t5 encoder"])
    blocked = (
        "import socket\n"
        "def refuse(*a, **k): raise SystemExit('network')\n"
        "socket.getaddrinfo = socket.socket.connect = refuse\n"
        "from lipaudit.__main__ import main\n"
        "main()\n"
    )
    arguments = ["bound", str(tmp_path), "--hf", "--input-shape", "2", "-f", "json"]
    done = subprocess.run(
        [sys.executable, "-c", blocked, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "0"},
    )
    assert done.returncode == 0, done.stderr
    assert "T5EncoderModel" in done.stdout


def test_a_gate_takes_its_graph_from_the_config(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    saved("t5 encoder", folder, **SMALL["t5 encoder"])
    config = tmp_path / "lipaudit.toml"
    config.write_text('max-bound = 1e30\ninput-shape = "2"\n[[models]]\npath = "net"\nhf = true\n')
    report, verdict = lipaudit.check(config)
    assert report.models[0].topology == "stated"
    assert verdict.exit_code == 0


def test_the_library_is_imported_where_its_own_constants_have_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Imported on the device without values, modules would keep constants that have none.
    saved("llama", tmp_path, **SMALL["llama"])
    devices: list[str] = []
    real = hugging_face._library

    def noted(name: str) -> Any:
        devices.append(torch.empty(0).device.type)
        return real(name)

    monkeypatch.setattr(hugging_face, "_library", noted)
    assert lipaudit.load(tmp_path, hf=True).graph.nodes
    assert set(devices) == {"cpu"}
