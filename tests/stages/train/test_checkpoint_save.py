import errno
import json
import os
import resource
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from premortem.core.errors import ConfigError, StageError
from premortem.stages.train.checkpoint import Captured, Shelf, load_bundle, save_bundle, verify_bundle
from premortem.stages.train.checkpoint.disk import check_room, disk_errors, open_regular
from premortem.stages.train.checkpoint.load import _Part
from premortem.stages.train.checkpoint.manifest import MANIFEST
from premortem.stages.train.checkpoint.sealed import read_sealed, seal

BIG = {"model": {"w": torch.arange(600_000.0)}, "rng": torch.get_rng_state()}


@pytest.fixture
def tmpfs(tmp_path):
    """A real file system of 4 MiB; skipped where mounting is not permitted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"mount is not permitted: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_large_bundle_is_written_with_its_facts_and_verified_from_the_device(tmp_path):
    bundle = save_bundle(tmp_path, 7, BIG, from_disk=True)
    manifest = verify_bundle(bundle.path, from_disk=True)
    assert (manifest.step, manifest.timeline, manifest.finite) == (7, 0, True)
    assert manifest.nbytes == sum(part.size for part in manifest.parts) > 2_400_000
    assert manifest.versions["torch"] == torch.__version__
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000007"]


def test_a_full_disk_is_refused_before_writing_and_the_existing_bundle_stays(tmpfs):
    first = save_bundle(tmpfs, 1, {"model": torch.arange(600_000.0)})
    with pytest.raises(StageError, match=r"bytes free, expected .* \(ENOSPC\); .*free space or prune"):
        save_bundle(tmpfs, 2, BIG)
    assert os.listdir(tmpfs) == ["step-00000001"]
    verify_bundle(first.path)


def test_a_disk_without_inodes_is_refused(tmpfs):
    subprocess.run(["mount", "-o", "remount,nr_inodes=12", tmpfs], check=True)
    with pytest.raises(StageError, match="inodes free, expected"):
        save_bundle(tmpfs, 2, {"model": torch.zeros(1)})


def test_a_read_only_file_system_is_one_clear_line_and_can_still_be_read(tmpfs):
    first = save_bundle(tmpfs, 1, {"model": torch.zeros(3)})
    subprocess.run(["mount", "-o", "remount,ro", tmpfs], check=True)
    with pytest.raises(StageError, match=r"saving step 2 in .*Read-only file system \(EROFS\).*mount it writable"):
        save_bundle(tmpfs, 2, {"model": torch.zeros(3)})
    with pytest.raises(StageError, match="EROFS"):
        Shelf(tmpfs)
    assert Shelf(tmpfs, own=False).find_loadable().bundle == first


@pytest.mark.parametrize("limit", [0, 100, 3_000, 1 << 20])
def test_a_write_that_stops_anywhere_leaves_nothing_and_touches_nothing(tmp_path, limit):
    first = save_bundle(tmp_path, 1, BIG)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(StageError) as caught:
            save_bundle(tmp_path, 2, BIG)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "saving step 2" in str(caught.value)
    assert "File too large (EFBIG)" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["step-00000001"]
    verify_bundle(first.path)


def test_a_file_in_place_of_the_folder_is_one_clear_line(tmp_path):
    (tmp_path / "ckpt").write_text("not a folder")
    with pytest.raises(StageError, match=r"saving step 2 in .* \(EEXIST\)"):
        save_bundle(tmp_path / "ckpt", 2, BIG)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_unless_allowed_or_declared(tmp_path, value):
    parts = {
        "model": {"w": torch.tensor([1.0, value]), "mask": torch.zeros(2)},
        "detectors": torch.tensor(float("nan")),
    }
    with pytest.raises(StageError, match=r"1 tensors hold NaN or infinite values, first 'model.w' \(1 values\)"):
        save_bundle(tmp_path, 1, parts)
    assert os.listdir(tmp_path) == []
    declared = save_bundle(tmp_path, 1, parts, nonfinite_ok=("model.w", "detectors"))
    assert verify_bundle(declared.path).finite
    forced = save_bundle(tmp_path, 2, parts, allow_nonfinite=True)
    with pytest.raises(StageError, match="was saved with NaN or infinite values"):
        load_bundle(forced.path)
    assert load_bundle(forced.path, allow_nonfinite=True)["model"]["w"][0] == 1
    with Shelf(tmp_path) as shelf:
        assert shelf.find_loadable().bundle == declared
        shelf.save(3, parts, allow_nonfinite=True)
        assert shelf.find_loadable().bundle == declared


def test_a_part_captured_at_another_step_is_refused(tmp_path):
    parts = {"model": torch.ones(1), "optimizer": Captured(4, torch.ones(1))}
    with pytest.raises(StageError, match="part 'optimizer' was captured at step 4, expected step 5; it is stale"):
        save_bundle(tmp_path, 5, parts)
    assert load_bundle(save_bundle(tmp_path, 4, parts).path)["optimizer"] == 1


@pytest.mark.parametrize(
    ("step", "parts", "said"),
    [
        (-1, BIG, "step is -1"),
        (True, BIG, "step is True"),
        (1.0, BIG, "step is 1.0"),
        (1, {}, "parts is empty"),
        (1, {"../model": 1}, r"part '\.\./model'"),
        (1, {"manifest.json": 1}, "part 'manifest.json'"),
    ],
)
def test_a_wrong_step_or_name_is_the_users_mistake(tmp_path, step, parts, said):
    with pytest.raises(ConfigError, match=said):
        save_bundle(tmp_path, step, parts)


def test_loading_into_another_model_names_the_first_tensor_that_differs(tmp_path):
    model = torch.nn.Linear(3, 2)
    bundle = save_bundle(tmp_path, 1, {"model": model.state_dict()})
    load_bundle(bundle.path, fits={"model": model.state_dict()})
    with pytest.raises(StageError, match=r"tensor 'weight' is float32 \(2, 3\), expected float32 \(2, 4\)"):
        load_bundle(bundle.path, fits={"model": torch.nn.Linear(4, 2).state_dict()})
    with pytest.raises(StageError, match=r"tensor 'bias' is float32 \(2,\), expected absent"):
        load_bundle(bundle.path, fits={"model": torch.nn.Linear(3, 2, bias=False).state_dict()})
    with pytest.raises(StageError, match=r"has parts \['model'\], expected \['optimizer'\] too"):
        load_bundle(bundle.path, fits={"optimizer": {}})


def relie(path: Path, change) -> None:
    """Change the manifest and give it a valid hash of its own again."""
    manifest = read_sealed(path / MANIFEST, dict)
    change(manifest)
    (path / MANIFEST).write_bytes(seal(manifest))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.update(format=2), "format 2, expected 1"),
        (lambda m: m.update(step="x"), "Expected `int`, got `str`"),
        (lambda m: m["parts"][0].update(name="../x"), "is no name of ours"),
        (lambda m: m["parts"][0]["tensors"][0].update(dtype="object"), "a record that cannot be"),
        (lambda m: m["parts"][0]["tensors"][0].update(size=4), "a record that cannot be"),
        (lambda m: m["parts"][0].update(size=9), "records cover"),
        (lambda m: m["parts"][0]["tensors"][0].update(nonfinite=3), "denies"),
        (lambda m: m["parts"].reverse(), "was saved beside"),
        (lambda m: m.update(bundle="0" * 32), "stale part of step 1"),
    ],
)
@pytest.mark.parametrize("read", [load_bundle, verify_bundle])
def test_a_manifest_that_lies_with_a_valid_hash_is_caught_by_what_it_describes(tmp_path, read, change, said):
    bundle = save_bundle(tmp_path, 1, {"model": torch.ones(3), "rng": torch.ones(2)})
    relie(bundle.path, change)
    with pytest.raises(StageError, match=said):
        read(bundle.path)


def test_an_older_optimizer_is_called_stale_with_both_steps(tmp_path):
    old, new = (save_bundle(tmp_path, step, {"optimizer": torch.ones(2)}) for step in (1, 2))
    shutil.copyfile(old.path / "optimizer.safetensors", new.path / "optimizer.safetensors")
    with pytest.raises(StageError, match=r"stale part of step 1 .*, expected step 2"):
        load_bundle(new.path)


def test_links_folders_and_renamed_bundles_are_not_believed(tmp_path):
    bundle = save_bundle(tmp_path, 1, {"model": torch.ones(3)})
    file = bundle.path / "model.safetensors"
    file.rename(tmp_path / "away")
    file.symlink_to(tmp_path / "away")
    with pytest.raises(StageError, match="cannot be opened"):
        load_bundle(bundle.path)
    file.unlink()
    file.mkdir()
    with pytest.raises(StageError, match="found no ordinary file"):
        load_bundle(bundle.path)
    file.rmdir()
    (tmp_path / "away").rename(file)
    load_bundle(bundle.path)
    with pytest.raises(StageError, match="holds step 1"):
        load_bundle(bundle.path.rename(tmp_path / "step-00000002"))
    with pytest.raises(StageError, match="cannot be read"):
        load_bundle(tmp_path / "step-00000009")


def test_an_error_without_a_number_is_still_one_line(tmp_path):
    with pytest.raises(StageError, match=r"failed: odd \(OSError\)"), disk_errors("saving", tmp_path):
        raise OSError("odd")
    with pytest.raises(StageError, match="ENOENT"), disk_errors("saving", tmp_path):
        raise OSError(errno.ENOENT, "gone", "x")


def test_room_is_what_the_disk_says_and_a_pipe_is_no_bundle_file(tmp_path):
    check_room(tmp_path, 10, 2)
    with pytest.raises(StageError, match="bytes free"):
        check_room(tmp_path, 1 << 62, 2)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StageError, match="no ordinary file"):
        open_regular(tmp_path / "pipe")


def test_a_bundle_file_is_json_and_the_manifest_can_be_read_by_hand(tmp_path):
    bundle = save_bundle(tmp_path, 1, {"data": {"epoch": 1, "at": (2, None)}})
    body = json.loads((bundle.path / MANIFEST).read_text())["body"]
    assert body["step"] == 1
    assert load_bundle(bundle.path)["data"] == {"epoch": 1, "at": (2, None)}


def test_an_io_error_within_a_file_names_what_could_not_be_read(tmp_path):
    """A real EIO: the process's own memory, opened as a file, cannot be read at address 0."""
    bundle = save_bundle(tmp_path, 1, {"model": torch.ones(3)})
    manifest = verify_bundle(bundle.path)
    reader = _Part(bundle.path, manifest, manifest.parts[0])
    with reader, open("/proc/self/mem", "rb") as memory:
        os.dup2(memory.fileno(), reader._descriptor)
        with pytest.raises(StageError, match="header cannot be read"):
            reader.tree()


def test_a_file_that_shrinks_while_it_is_read_is_named(tmp_path):
    bundle = save_bundle(tmp_path, 1, {"model": torch.ones(3)})
    manifest = verify_bundle(bundle.path)
    with _Part(bundle.path, manifest, manifest.parts[0]) as reader:
        os.truncate(bundle.path / "model.safetensors", 20)
        with pytest.raises(StageError, match="ends within its header"):
            reader.tree()


@pytest.mark.parametrize("noise", [b"\xff" * 8, b'"__metadata__"'])
def test_a_changed_header_is_caught(tmp_path, noise):
    bundle = save_bundle(tmp_path, 1, {"model": torch.ones(3)})
    file = bundle.path / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:8] + noise + data[8 + len(noise) :])
    with pytest.raises(StageError, match="header does not match its hash; it was changed"):
        load_bundle(bundle.path)
    file.write_bytes(data.replace(b'"F32"', b'"I32"'))
    with pytest.raises(StageError, match="header does not match its hash; it was changed"):
        load_bundle(bundle.path)
