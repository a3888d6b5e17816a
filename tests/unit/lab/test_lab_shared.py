import dataclasses
from pathlib import Path

import pytest

from kumulus_lab import shared
from kumulus_lab.settings import LabSettings


@pytest.fixture
def labs(tmp_path, monkeypatch):
    """Two labs of one machine, whose kernel settings are files of the test."""
    first = LabSettings(name="one", state=tmp_path / "one", shared=tmp_path / "labs")
    second = dataclasses.replace(first, name="two", state=tmp_path / "two")
    for lab in (first, second):
        lab.state.mkdir()
    monkeypatch.setattr(shared, "_sysctl", lambda name: tmp_path / name.replace("/", "."))
    (tmp_path / "net.ipv4.ip_forward").write_text("0")
    (tmp_path / "fs.inotify.max_user_instances").write_text("128")
    return first, second


def test_what_labs_share_stays_until_the_last_has_left(labs, tmp_path):
    """Kernel settings and folders are put back by the last lab's leave, to what the first one found."""
    folder = tmp_path / "mounted" / "over"
    for lab in labs:
        shared.change_sysctls(lab)
        shared.ensure_folders(lab, [folder])
    shared.leave(labs[0])
    assert folder.exists()
    assert (tmp_path / "net.ipv4.ip_forward").read_text() == "1"
    assert int((tmp_path / "fs.inotify.max_user_instances").read_text()) >= 1024
    shared.leave(labs[1])
    assert not folder.parent.exists()
    assert (tmp_path / "net.ipv4.ip_forward").read_text() == "0"
    assert (tmp_path / "fs.inotify.max_user_instances").read_text() == "128"
    assert not labs[0].shared.exists()
    shared.leave(labs[1])


def test_a_folder_is_removed_though_its_making_was_interrupted(labs, tmp_path, monkeypatch):
    """Whatever the moment of an interruption, a folder that a lab made is noted, and goes with the lab."""
    folder, mkdir = tmp_path / "mounted" / "over", Path.mkdir

    def interrupted(path, *arguments, **options):
        mkdir(path, *arguments, **options)
        if path == folder:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", interrupted)
        with pytest.raises(KeyboardInterrupt):
            shared.ensure_folders(labs[0], [folder])
    assert folder.exists()
    shared.ensure_folders(labs[0], [folder])
    shared.leave(labs[0])
    assert not folder.parent.exists()


def test_a_lab_removed_by_hand_holds_nothing(labs, tmp_path):
    """A lab whose state is gone does not keep the others from cleaning up; a folder in use is left."""
    used = tmp_path / "used"
    for lab in labs:
        shared.ensure_folders(lab, [used])
    labs[0].state.rmdir()
    (used / "file").touch()
    shared.leave(labs[1])
    assert (used / "file").exists()
    assert not labs[0].shared.exists()


def test_a_larger_limit_stays(labs, tmp_path):
    """A kernel limit above what labs need is not lowered."""
    (tmp_path / "fs.inotify.max_user_instances").write_text("8192")
    shared.change_sysctls(labs[0])
    assert (tmp_path / "fs.inotify.max_user_instances").read_text() == "8192"
