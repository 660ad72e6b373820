"""What is finished is on the disk before it has its name: the order of the system's calls, and what stands in the way."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from qforge import disk
from qforge.config.places import PACKAGE
from qforge.disk import appear
from qforge.json_files import write_json
from qforge.store.results import Store


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is synced and renamed from here on, by the names of the files, in order; each is really done, too."""
    made: list[tuple[str, str]] = []
    sync, rename = os.fsync, Path.rename

    def synced(descriptor: int) -> None:
        made.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        sync(descriptor)

    def renamed(path: Path, target: Path) -> Path:
        made.append(("rename", target.name))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    return made


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    write_json(tmp_path / "row.json", {"a": 1})
    assert calls == [("sync", ".row.json.partial"), ("rename", "row.json"), ("sync", tmp_path.name)]


def test_a_result_is_on_the_disk_with_all_that_lies_in_it(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    def build(folder: Path) -> None:
        (folder / "artifact").mkdir()
        (folder / "artifact/weights").write_bytes(b"1")
        (folder / "artifact/link").symlink_to("weights")

    folder, _ = Store(tmp_path).get("stage", 1, build)
    place = calls.index(("rename", folder.name))
    before = {name for call, name in calls[:place] if call == "sync"}
    assert {"weights", "artifact", "made.json", "key.json", f"{folder.name}.partial"} <= before
    assert calls[place + 1] == ("sync", "stage")


def test_a_disk_that_is_full_only_when_it_is_asked_leaves_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS and quotas may take a write and say so at fsync."""

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_json(tmp_path / "row.json", {})
    assert not (tmp_path / "row.json").exists()


def test_a_file_system_that_cannot_sync_folders_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def only_files(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "fsync", only_files)
    (tmp_path / "folder").mkdir()
    appear(tmp_path / "folder", tmp_path / "final")
    assert (tmp_path / "final").is_dir()


def test_what_is_finished_is_renamed_in_one_place() -> None:
    """Elsewhere only what is moved or taken away: a result gets its name by `disk.appear`."""
    moved = {
        "stages/fetch.py": "arriving.rename(",  # into a folder that appears later
        "methods/rewriting.py": "shard.file.rename(",
        "methods/autoround.py": "folder.rename(",
        "pipeline/attempts.py": "file.rename(",  # logs of a failed attempt, set aside
        "store/freeing.py": "entry.path.rename(",  # out of the store
    }
    for file in PACKAGE.rglob("*.py"):
        lines = [line for line in file.read_text().splitlines() if ".rename(" in line or "os.replace(" in line]
        if file == Path(disk.__file__):
            continue
        name = file.relative_to(PACKAGE).as_posix()
        assert all(moved.get(name, "nothing") in line for line in lines), (name, lines)
