import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from premortem.core.errors import ConfigError, StageError
from premortem.stages.train.checkpoint import Shelf, load_bundle, save_bundle
from premortem.stages.train.checkpoint.lock import LOCK

PARTS = {"model": {"w": torch.arange(4.0)}}


def flip(path: Path) -> None:
    file = path / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def steps(shelf: Shelf) -> list[int]:
    return [bundle.step for bundle in shelf.bundles()]


def test_the_newest_loadable_is_found_and_every_rejected_bundle_is_named_with_its_reason(tmp_path):
    with Shelf(tmp_path / "new" / "folder") as shelf:
        assert shelf.latest() is None
        assert shelf.last_good() is None
        assert shelf.find_loadable().bundle is None
        saved = [shelf.save(step, PARTS) for step in (1, 2, 3)]
        flip(saved[2].path)
        (saved[1].path / "manifest.json").unlink()
        found = shelf.find_loadable()
    assert found.bundle == saved[0]
    assert [rejected.bundle for rejected in found.rejected] == [saved[2], saved[1]]
    assert "'w' does not match its hash" in found.rejected[0].why
    assert "manifest.json: cannot be read" in found.rejected[1].why


def test_good_is_earned_by_a_bundle_that_verifies_and_carries_its_baseline(tmp_path):
    with Shelf(tmp_path) as shelf:
        one, two = shelf.save(1, PARTS), shelf.save(2, PARTS)
        assert shelf.mark_good(1, {"loss": 2.5}) == one
        assert shelf.last_good() == one
        shelf.mark_good(1, {"loss": 1.5})
        assert shelf.baseline(one) == {"loss": 1.5}
        with pytest.raises(StageError, match="not marked good"):
            shelf.baseline(two)
        flip(two.path)
        with pytest.raises(StageError, match="does not match its hash"):
            shelf.mark_good(2, {})
        with pytest.raises(StageError, match=r"no bundle of step 9, expected one of \[1, 2\]"):
            shelf.mark_good(9, {})
    assert Shelf(tmp_path, own=False).last_good() == one


def test_a_good_mark_that_was_changed_copied_or_belongs_to_another_bundle_is_not_believed(tmp_path):
    with Shelf(tmp_path, keep=1) as shelf:
        bundles = [shelf.save(step, PARTS) for step in (1, 2, 3, 4, 5)]
        for step in (1, 2):
            shelf.mark_good(step, {})
        good = tmp_path / "step-00000002.good.json"
        shutil.copyfile(good, tmp_path / "step-00000003.good.json")
        good.write_bytes(good.read_bytes().replace(b'"step":2', b'"step":4'))
        shutil.rmtree(bundles[3].path)
        save_bundle(tmp_path / "other", 4, PARTS)
        shelf.save(6, PARTS)
        with Shelf(tmp_path / "other") as other:
            other.mark_good(4, {})
        shutil.copytree(bundles[4].path, bundles[3].path)
        shutil.copyfile(tmp_path / "other" / "step-00000004.good.json", tmp_path / "step-00000004.good.json")
        found = shelf.find_good()
        assert found.bundle == bundles[0]
        assert [rejected.bundle.step for rejected in found.rejected] == [4, 3, 2]
        assert [bundle.step for bundle in shelf.prune()] == [5]


def test_prune_keeps_the_newest_the_good_and_the_protected_and_says_what_went(tmp_path):
    with Shelf(tmp_path, keep=2) as shelf:
        for step in range(1, 9):
            shelf.save(step, PARTS)
        shelf.mark_good(2, {})
        shelf.protect(3, "incident 7")
        shelf.protect(3, "alias prod")
        assert [bundle.step for bundle in shelf.prune()] == [1, 4, 5, 6]
        assert steps(shelf) == [2, 3, 7, 8]
        shelf.unprotect(3, "incident 7")
        assert shelf.prune() == []
        shelf.unprotect(3, "alias prod")
        assert [bundle.step for bundle in shelf.prune()] == [3]


def test_an_older_good_bundle_goes_only_for_two_newer_that_are_sound_today(tmp_path):
    with Shelf(tmp_path, keep=1) as shelf:
        saved = [shelf.save(step, PARTS) for step in (1, 2, 3, 4, 5)]
        for step in (1, 2, 3, 4):
            shelf.mark_good(step, {})
        flip(saved[3].path)
        assert [bundle.step for bundle in shelf.prune()] == [1]
        assert shelf.last_good() == saved[2]
        assert list(tmp_path.glob("step-00000001*")) == []


def test_prune_never_takes_the_only_bundle_that_still_loads(tmp_path):
    with Shelf(tmp_path, keep=1) as shelf:
        saved = [shelf.save(step, PARTS) for step in (1, 2, 3)]
    flip(saved[2].path)
    with Shelf(tmp_path, keep=1) as later:
        assert later.prune() == [saved[0]]
        assert later.find_loadable().bundle == saved[1]


def test_after_a_restore_the_same_steps_are_saved_anew_and_count_as_newer(tmp_path):
    with Shelf(tmp_path) as shelf:
        for step in (1, 2, 3):
            shelf.save(step, PARTS)
        shelf.protect(3, "evidence")
        assert [bundle.step for bundle in shelf.abandon(1, "loss spiked")] == [2, 3]
        assert shelf.latest().step == 1
        assert "abandoned: loss spiked" in shelf.find_loadable().rejected[0].why
        again = shelf.save(2, PARTS)
        assert again.name == "step-00000002.t1"
        assert shelf.latest() == shelf.find_loadable().bundle == again
        assert load_bundle(again.path).keys() == PARTS.keys()
        assert [bundle.name for bundle in shelf.prune()] == ["step-00000002"]
        (tmp_path / "step-00000003.abandoned.json").write_bytes(b"{}")
        assert shelf.latest() == again
        shelf.unprotect(3, "evidence")
        assert shelf.prune() == []


def test_what_was_abandoned_is_taken_up_again_and_what_came_since_is_left(tmp_path):
    with Shelf(tmp_path) as shelf:
        for step in (1, 2, 3):
            shelf.save(step, PARTS)
        left = shelf.abandon(1, "restored")
        since = shelf.save(2, PARTS)
        shelf.reclaim(left, 1, "taken back")
        assert shelf.latest().name == "step-00000003"
        assert [r.bundle for r in shelf.find_loadable().rejected] == [since]
        after = shelf.save(4, PARTS)
        assert shelf.latest() == after
        # a second restore turns from bundles of every timeline that are beyond it
        assert {bundle.name for bundle in shelf.abandon(1, "again")} == {"step-00000002", "step-00000003", after.name}
        assert shelf.latest().step == 1


def test_a_second_run_in_the_folder_is_refused_and_a_killed_ones_lock_is_recovered(tmp_path):
    hold = (
        "import sys, time; from pathlib import Path; from premortem.stages.train.checkpoint.lock import FolderLock;"
        "lock = FolderLock(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=f"process {child.pid} on .* expected one run a folder"):
            Shelf(tmp_path)
        assert Shelf(tmp_path, own=False).bundles() == []
    finally:
        child.kill()
        child.communicate()
    assert (tmp_path / LOCK).stat().st_size > 0
    temporary = tmp_path / f".tmp-step-00000001-{child.pid}-1700000000000-0123abcd"
    temporary.mkdir()
    (tmp_path / f".tmp-step-00000001.good.json-{child.pid}-1700000000000-0123abcd").touch()
    with Shelf(tmp_path) as shelf:
        assert len(shelf.swept) == 2
        assert not temporary.exists()
        with pytest.raises(ConfigError, match="this process holds it already"):
            Shelf(tmp_path)
    shelf.close()
    Shelf(tmp_path).close()


def test_a_lock_text_of_a_living_process_is_believed_where_locks_do_nothing(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, text=True)
    try:
        import psutil

        started = int(psutil.Process(child.pid).create_time() * 1000)
        text = f'{{"host":"{os.uname().nodename}","pid":{child.pid},"started":{started}}}'
        (tmp_path / LOCK).write_text(text)
        with pytest.raises(ConfigError, match=f"process {child.pid}"):
            Shelf(tmp_path)
        (tmp_path / LOCK).write_text(text.replace(str(started), "1"))
        Shelf(tmp_path).close()
    finally:
        child.communicate("\n")
    (tmp_path / LOCK).write_text("torn {")
    Shelf(tmp_path).close()


def test_a_reader_may_look_but_not_change(tmp_path):
    with Shelf(tmp_path) as shelf:
        shelf.save(1, PARTS)
    reader = Shelf(tmp_path, own=False)
    for change in (
        lambda: reader.save(2, PARTS),
        lambda: reader.mark_good(1, {}),
        lambda: reader.protect(1, "x"),
        lambda: reader.unprotect(1, "x"),
        lambda: reader.abandon(0, "x"),
        reader.prune,
    ):
        with pytest.raises(ConfigError, match="only reads"):
            change()
    with pytest.raises(ConfigError, match="keep is 0"):
        Shelf(tmp_path, keep=0)


def test_a_file_in_place_of_the_folder_is_one_clear_line(tmp_path):
    (tmp_path / "ckpt").write_text("not a folder")
    with pytest.raises(StageError, match=r"locking in .*ckpt failed: File exists \(EEXIST\)"):
        Shelf(tmp_path / "ckpt")


moves = st.lists(
    st.tuples(st.sampled_from(["save", "save", "good", "protect", "abandon", "rot", "prune"]), st.integers(0, 9)),
    max_size=22,
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(moves, st.integers(1, 3))
def test_no_sequence_ever_deletes_a_last_good_a_protected_or_the_only_loadable_bundle(sequence, keep):
    folder = Path(tempfile.mkdtemp())
    protected, step = set(), 0
    try:
        with Shelf(folder, keep) as shelf:
            for move, number in sequence:
                bundles = shelf.bundles()
                chosen = bundles[number % len(bundles)] if bundles else None
                if move == "save":
                    step += 1
                    shelf.save(step, PARTS)
                elif move == "rot" and chosen is not None:
                    flip(chosen.path)
                elif (
                    move == "good"
                    and chosen is not None
                    and chosen not in [r.bundle for r in shelf.find_loadable().rejected]
                ):
                    try:
                        shelf.mark_good(chosen.step, {})
                    except StageError:
                        continue
                elif move == "protect" and chosen is not None:
                    protected.add(shelf.protect(chosen.step, "test").path)
                elif move == "abandon" and chosen is not None:
                    step = chosen.step
                    shelf.abandon(step, "test")
                elif move == "prune":
                    good, loadable = shelf.last_good(), shelf.find_loadable().bundle
                    marked = [b for b in bundles if (folder / f"{b.name}.good.json").exists()][-2:]
                    newest = bundles[-1:] if shelf.latest() in bundles[-1:] else []
                    gone = set(shelf.prune())
                    assert gone.isdisjoint([good, loadable, *marked, *newest])
                    assert gone == set(bundles) - set(shelf.bundles())
                    assert shelf.last_good() == good
                    assert shelf.find_loadable().bundle == loadable
                assert all(path.is_dir() for path in protected)
    finally:
        shutil.rmtree(folder)
