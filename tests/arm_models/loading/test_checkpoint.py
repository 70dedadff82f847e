"""A folder's files are checked before a model is built: each way of being broken has its own one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from arm_models.errors import CheckpointError
from arm_models.loading.checkpoint import open_checkpoint


@pytest.fixture(scope="module")
def whole(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint("llama", "whole", seed=1, dtype=torch.bfloat16)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of a whole checkpoint, free to be broken."""
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def refusal(path: Path | str, relative_to: Path | None = None) -> str:
    with pytest.raises(CheckpointError) as error:
        open_checkpoint("helpful", str(path), relative_to)
    message = str(error.value)
    assert message.startswith("helpful: ")
    assert "\n" not in message
    return message


def shard(folder: Path) -> dict[str, str]:
    """Split the weights into two files with an index, as large checkpoints are; returns the index."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    index = {name: f"model-0000{1 + (place >= 5)}-of-00002.safetensors" for place, name in enumerate(names)}
    for file in set(index.values()):
        save_file({name: tensors[name] for name in names if index[name] == file}, folder / file)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return index


def test_a_whole_folder_opens(folder: Path) -> None:
    checkpoint = open_checkpoint("helpful", str(folder))
    assert checkpoint.folder == folder
    assert not checkpoint.is_adapter
    assert checkpoint.stored_dtype is torch.bfloat16


def test_a_missing_folder(tmp_path: Path) -> None:
    assert "no folder" in refusal(tmp_path / "nowhere")


def test_a_file_is_no_folder(folder: Path) -> None:
    assert "is a file" in refusal(folder / "model.safetensors")


@pytest.mark.parametrize("path", ["", "a/b/c", "..", "no such", "a\\b"])
def test_a_path_that_is_neither_folder_nor_hub_id(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refusal(path)


def test_a_folder_without_a_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "neither config.json nor adapter_config.json" in refusal(folder)


@pytest.mark.parametrize(
    "file", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]
)
@pytest.mark.parametrize("content", [b'{"a": ', b"[1]", b"\xff\xfe", b""])
def test_a_file_that_is_not_a_json_object(folder: Path, file: str, content: bytes) -> None:
    (folder / file).write_bytes(content)
    assert file in (message := refusal(folder)) and "JSON" in message


def test_missing_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "has no model.safetensors" in refusal(folder)


@pytest.mark.parametrize("file", ["pytorch_model.bin", "consolidated.pth"])
def test_pickled_weights_are_never_read(folder: Path, file: str) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / file)
    message = refusal(folder)
    assert f"only pickled weights ({file})" in message and "only safetensors" in message


@pytest.mark.parametrize("keep", [0, 4, 100, 5000, -1])
def test_a_truncated_weight_file(folder: Path, keep: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert f"{path} is torn" in refusal(folder)


def test_a_git_lfs_pointer_says_what_to_do(folder: Path) -> None:
    (folder / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    )
    assert "git lfs pull" in refusal(folder)


def test_a_sharded_checkpoint_opens(folder: Path) -> None:
    index = shard(folder)
    assert {path.name for path in open_checkpoint("helpful", str(folder)).weights} == set(index.values())


def test_a_missing_shard(folder: Path) -> None:
    gone = sorted(shard(folder).values())[-1]
    (folder / gone).unlink()
    assert f"lacks the file {gone!r}" in refusal(folder)


def test_a_shard_that_lacks_a_tensor(folder: Path) -> None:
    name, file = sorted(shard(folder).items())[0]
    tensors = load_file(folder / file)
    del tensors[name]
    save_file(tensors, folder / file)
    assert f"lacks the tensor {name}" in refusal(folder)


@pytest.mark.parametrize("index", [{}, {"weight_map": []}, {"weight_map": {"a": 1}}])
def test_an_index_without_a_map(folder: Path, index: dict[str, object]) -> None:
    shard(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "has no weight_map" in refusal(folder)


def test_an_index_cannot_name_files_outside_the_folder(folder: Path, whole: Path) -> None:
    index = {"weight_map": {"a": str(whole / "model.safetensors")}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "lacks the file" in refusal(folder)


def test_a_backbone_may_be_named_from_the_adapters_own_folder(folder: Path) -> None:
    (folder.parent / "adapter").mkdir()
    checkpoint = open_checkpoint("helpful", "../copy", relative_to=folder.parent / "adapter")
    assert checkpoint.folder == folder


def test_the_stored_dtype_is_read_from_the_weights_where_the_config_is_silent(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    for key in ("dtype", "torch_dtype"):
        config.pop(key, None)
    (folder / "config.json").write_text(json.dumps(config))
    assert open_checkpoint("helpful", str(folder)).stored_dtype is torch.bfloat16


def test_a_stored_dtype_that_is_not_read(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text()) | {"dtype": "float8_e4m3fn"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="its weights are float8_e4m3fn; read are float32"):
        _ = open_checkpoint("helpful", str(folder)).stored_dtype


def test_the_digest_follows_the_content_and_not_the_place(folder: Path, whole: Path) -> None:
    before = open_checkpoint("helpful", str(folder)).digest
    assert before == open_checkpoint("other", str(whole)).digest
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, folder / "model.safetensors")
    assert open_checkpoint("helpful", str(folder)).digest != before


def test_a_hub_id_is_fetched_as_safetensors_only(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    def fetch(hub_id: str, **options: object) -> str:
        asked.update(options, id=hub_id)
        return str(whole)

    monkeypatch.setattr("arm_models.loading.checkpoint.snapshot_download", fetch)
    assert open_checkpoint("helpful", "owner/model-7b.v1").folder == whole
    assert asked["id"] == "owner/model-7b.v1"
    patterns = asked["allow_patterns"]
    assert isinstance(patterns, list)
    assert "*.safetensors" in patterns and not any("bin" in str(p) or "py" in str(p) for p in patterns)


def test_a_hub_id_without_a_network_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "can be fetched now" in refusal("nobody/no-such-model")


def test_a_failed_fetch_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(hub_id: str, **_: object) -> str:
        raise LocalEntryNotFoundError(f"long\nstory about {hub_id}")

    monkeypatch.setattr("arm_models.loading.checkpoint.snapshot_download", fail)
    assert "no folder 'nobody/model'" in refusal("nobody/model")
