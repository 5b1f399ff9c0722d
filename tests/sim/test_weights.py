import hashlib
from pathlib import Path

import numpy as np
import pytest

from sglang_diffusion_routing.sim import weights

pytestmark = pytest.mark.core


def test_weights_follow_from_the_name_of_their_source() -> None:
    first, second = (weights.seeded_module("here", "transformer") for _ in range(2))
    other = weights.seeded_module("there", "transformer")
    assert weights.module_checksum(first) == weights.module_checksum(second) != weights.module_checksum(other)
    assert {name: tensor.shape for name, tensor in first.items()} == {"style.weight": (16, 5, 5), "style.gain": (16,)}


def test_a_module_checksum_is_a_sha256_over_names_and_bytes_in_order_of_names() -> None:
    tensors = {"b": np.ones(2, dtype=np.float32), "a": np.zeros((1, 3), dtype=np.float32)}
    expected = hashlib.sha256(b"a" + bytes(12) + b"b" + np.ones(2, dtype="<f4").tobytes()).hexdigest()
    assert weights.module_checksum(tensors) == expected


def test_a_tensor_checksum_is_a_sha256_over_type_shape_and_bytes() -> None:
    tensor = np.ones((1, 2), dtype=np.float32)
    expected = hashlib.sha256(b"torch.float32" + b"(1, 2)" + tensor.tobytes()).hexdigest()
    assert weights.tensor_checksum(tensor) == expected


def test_a_checkpoint_comes_back_as_it_was_written(tmp_path: Path) -> None:
    weights.write_checkpoint(tmp_path / "step-7", 7)
    modules = ["transformer", "vae", "text_encoder"]
    loaded = weights.load_modules(str(tmp_path / "step-7"), modules)
    assert {name: weights.module_checksum(tensors) for name, tensors in loaded.items()} == {
        name: weights.module_checksum(weights.seeded_module("checkpoint:7", name)) for name in modules
    }


def test_a_checkpoint_has_the_modules_of_its_model(tmp_path: Path) -> None:
    weights.write_checkpoint(tmp_path, 1, model="wan")
    assert sorted(path.parent.name for path in tmp_path.glob("*/model.safetensors")) == [
        "text_encoder",
        "transformer",
        "vae",
    ]


def test_a_built_in_model_needs_no_folder() -> None:
    loaded = weights.load_modules("sim/step-7", ["transformer"])
    assert weights.module_checksum(loaded["transformer"]) == weights.module_checksum(
        weights.seeded_module("sim/step-7", "transformer")
    )


def test_a_missing_folder_is_refused_in_the_words_of_a_real_worker() -> None:
    with pytest.raises(weights.CheckpointMissing) as refusal:
        weights.load_modules("/nonexistent/model", ["transformer"])
    assert str(refusal.value) == (
        "Failed to download model: Could not find model at /nonexistent/model and failed to download from Hugging Face "
        "Hub: Repo id must be in the form 'repo_name' or 'namespace/repo_name': '/nonexistent/model'. "
        "Use `repo_type` argument if needed."
    )


def test_a_checkpoint_without_a_module_is_refused(tmp_path: Path) -> None:
    weights.write_module(tmp_path, "transformer", weights.seeded_module("x", "transformer"))
    with pytest.raises(weights.CheckpointIncomplete, match=r"missing weight files for modules: \['vae'\]"):
        weights.load_modules(str(tmp_path), ["transformer", "vae"])


@pytest.mark.parametrize("content", [b"", b"junk of more than eight bytes"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    weights.write_checkpoint(tmp_path, 1)
    (tmp_path / "vae" / "model.safetensors").write_bytes(content)
    with pytest.raises(weights.CheckpointIncomplete, match="Failed to update module 'vae'"):
        weights.load_modules(str(tmp_path), ["vae"])


@pytest.mark.parametrize(
    ("tensors", "complaint"),
    [
        ({"no.such": np.zeros(1, dtype=np.float32)}, "unknown tensor 'no.such'"),
        ({"style.gain": np.zeros(3, dtype=np.float32)}, r"must be torch.float32 \(16,\)"),
        ({"style.gain": np.zeros(16, dtype=np.float16)}, "got torch.float16"),
    ],
)
def test_tensors_that_do_not_fit_the_module_are_refused(tensors: weights.Tensors, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        weights.check_shapes("transformer", tensors)
