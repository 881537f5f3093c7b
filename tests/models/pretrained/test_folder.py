"""Folders of the Hugging Face layout."""

import json
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from jfedsl.models.pretrained.contents import CheckpointError
from jfedsl.models.pretrained.folder import load
from models.pretrained.files import drawn, write_folder


def test_tensors_have_the_names_of_the_base_model(tmp_path: Path) -> None:
    query, norm, head = drawn(4, 4), drawn(4), drawn(3, 4)
    tensors = {
        "bert.encoder.layer.0.attention.self.query.weight": query,
        "bert.embeddings.LayerNorm.gamma": norm,  # as in files made from TensorFlow's
        "classifier.weight": head,
    }
    checkpoint = load(write_folder(tmp_path, {"model_type": "bert", "hidden_size": 4}, tensors))
    assert checkpoint.architecture == "bert" and checkpoint.config["hidden_size"] == 4
    assert checkpoint.tokenizer is None
    name = "encoder.layer.0.attention.self.query.weight"
    assert checkpoint.names == {name, "embeddings.LayerNorm.weight", "classifier.weight"}
    np.testing.assert_array_equal(checkpoint.read(name), query)
    np.testing.assert_array_equal(checkpoint.read("embeddings.LayerNorm.weight"), norm)


@pytest.mark.parametrize(
    ("kind", "stored"),
    [("bert", ""), ("vit", "vit."), ("gpt2", ""), ("gpt2", "transformer."), ("llama", "model.")],
)
def test_a_base_model_saved_alone_or_inside_another(tmp_path: Path, kind: str, stored: str) -> None:
    folder = write_folder(tmp_path, {"model_type": kind}, {f"{stored}a.weight": drawn(2, 3)})
    np.testing.assert_array_equal(load(folder).read("a.weight"), drawn(2, 3))


@pytest.mark.parametrize("kind", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_every_type_is_read_as_float32(tmp_path: Path, kind: type) -> None:
    values = drawn(5, 3).astype(kind)
    folder = write_folder(tmp_path, {"model_type": "gpt2"}, {"wte.weight": values})
    read = load(folder).read("wte.weight")
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, values.astype(np.float32))


def test_bfloat16_in_a_process_without_jax(tmp_path: Path) -> None:
    values = drawn(2, 2).astype(ml_dtypes.bfloat16)
    write_folder(tmp_path, {"model_type": "gpt2"}, {"wte.weight": values})
    program = (
        "import sys; from pathlib import Path; from jfedsl.models.pretrained.folder import load; "
        "read = load(Path(sys.argv[1])).read('wte.weight'); print(read.sum(), 'jax' in sys.modules)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(values.astype(np.float32).sum()), "False"]


def test_weights_in_several_files(tmp_path: Path) -> None:
    index = {"weight_map": {"model.a": "model-1.safetensors", "model.b": "model-2.safetensors"}}
    write_folder(tmp_path, {"model_type": "llama"}, {})
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"model.a": drawn(2)}, tmp_path / "model-1.safetensors")
    with pytest.raises(CheckpointError, match="^model-2.safetensors is missing; model.safetensors"):
        load(tmp_path)
    save_file({"model.b": drawn(3)}, tmp_path / "model-2.safetensors")
    checkpoint = load(tmp_path)
    assert checkpoint.names == {"a", "b"}
    np.testing.assert_array_equal(checkpoint.read("b"), drawn(3))


def test_a_config_alone_is_a_shape_without_weights(tmp_path: Path) -> None:
    checkpoint = load(write_folder(tmp_path, {"model_type": "vit"}, {}))
    assert checkpoint.names == frozenset()
    with pytest.raises(CheckpointError, match="^there is no tensor cls_token in it$"):
        checkpoint.read("cls_token")


def test_rotary_settings_have_one_place(tmp_path: Path) -> None:
    plain = {"rope_theta": 5.0, "rope_type": "default"}
    config = load(
        write_folder(tmp_path, {"model_type": "llama", "rope_parameters": plain}, {})
    ).config
    assert config["rope_theta"] == 5.0 and "rope_scaling" not in config
    scaled = {"rope_theta": 5.0, "rope_type": "linear", "factor": 2.0}
    write_folder(tmp_path, {"model_type": "llama", "rope_parameters": scaled}, {})
    assert load(tmp_path).config["rope_scaling"]["factor"] == 2.0


def test_the_tokenizer_is_the_text_of_its_file(tmp_path: Path) -> None:
    write_folder(tmp_path, {"model_type": "bert"}, {})
    (tmp_path / "tokenizer.json").write_text('{"ä": 1}', "utf-8")
    assert load(tmp_path).tokenizer == '{"ä": 1}'
    (tmp_path / "tokenizer.json").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match="^tokenizer.json cannot be read: 'utf-8' codec"):
        load(tmp_path)


CONFIGS = [
    ("{", "^config.json cannot be read: Expecting property name"),
    ("[]", "^config.json must be an object of JSON$"),
    ('{"model_type": "t5"}', "^model_type bert, vit, gpt2, llama is allowed, not t5$"),
    ("{}", "^model_type bert, vit, gpt2, llama is allowed, not none$"),
    ('{"model_type": "llama", "quantization_config": {}}', "^quantized weights"),
]


@pytest.mark.parametrize(("text", "message"), CONFIGS, ids=range(len(CONFIGS)))
def test_what_a_config_cannot_be(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path)


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="^there is no config.json in this folder$"):
        load(tmp_path)
    (tmp_path / "x.gguf").touch()
    with pytest.raises(CheckpointError, match=r"name the file: .*x\.gguf$"):
        load(tmp_path)


def test_weights_of_other_kinds_are_not_a_shape_without_weights(tmp_path: Path) -> None:
    write_folder(tmp_path, {"model_type": "bert"}, {})
    (tmp_path / "tf_model.h5").touch()
    with pytest.raises(CheckpointError, match="^model.safetensors is needed; tf_model.h5 is not"):
        load(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(CheckpointError, match='^pytorch_model.bin is not .* python -c "'):
        load(tmp_path)


def test_damaged_weights(tmp_path: Path) -> None:
    write_folder(tmp_path, {"model_type": "bert"}, {"a": drawn(9), "n": np.arange(3)})
    checkpoint = load(tmp_path)
    with pytest.raises(CheckpointError, match="^tensor n: numbers of type .*, not I64$"):
        checkpoint.read("n")
    with pytest.raises(CheckpointError, match=r"^there is no tensor aa in it; did you mean a\?$"):
        checkpoint.read("aa")
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="^model.safetensors cannot be read: Error while"):
        load(tmp_path)
