"""The files of listeners and the directory of namespaces."""

from __future__ import annotations

from pathlib import Path

from openimds.agents.metadata.listeners.files import ListenerFiles, NamespaceDirWatch
from openimds.netconfig.listener_file import parse_listeners


def test_added_removed_and_replaced_namespaces_are_reported(tmp_path: Path) -> None:
    folder = tmp_path / "netns"
    namespaces = NamespaceDirWatch(folder)
    assert namespaces.read() == frozenset()
    folder.mkdir()
    for name in ("same", "replaced", "gone"):
        (folder / name).touch()
    assert namespaces.read() == {"same", "replaced", "gone"}
    assert namespaces.read() == frozenset()
    (folder / "gone").unlink()
    (tmp_path / "other").touch()  # both files exist at one time, so their inodes differ
    (tmp_path / "other").replace(folder / "replaced")
    assert namespaces.read() == {"gone", "replaced"}


def text(inode: int) -> str:
    return (
        f'{{"kind": "network", "id": "n1", "namespace": "qdhcp-n1", "namespace_inode": {inode},'
        ' "addresses": [["169.254.169.254", 80]]}'
    )


def test_replaced_file_is_read_always_and_changed_file_only_by_a_full_read(tmp_path: Path) -> None:
    folder, file, other = ListenerFiles(tmp_path), tmp_path / "n1.json", tmp_path / ".n1.json"
    file.write_text(text(1))
    first = folder.read(is_full=False)["n1"]
    assert folder.read()["n1"] is folder.read(is_full=False)["n1"] is first
    other.write_text(text(2))
    other.replace(file)
    assert folder.read(is_full=False) == {"n1": parse_listeners(text(2))}
    file.write_text(text(33))  # this write keeps the inode; agents replace files
    assert folder.read() == {"n1": parse_listeners(text(33))}
    file.unlink()
    assert folder.read(is_full=False) == {}
