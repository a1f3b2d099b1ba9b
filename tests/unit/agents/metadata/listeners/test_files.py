from __future__ import annotations

from pathlib import Path

from openimds.agents.metadata.listeners.files import ListenerFiles, NamespaceDirWatch
from openimds.netconfig.listener_file import parse_listeners


def test_names_that_came_went_or_were_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "netns"
    namespaces = NamespaceDirWatch(folder)
    assert namespaces.read() == frozenset()
    folder.mkdir()
    for name in ("same", "anew", "gone"):
        (folder / name).touch()
    assert namespaces.read() == {"same", "anew", "gone"}
    assert namespaces.read() == frozenset()
    (folder / "gone").unlink()
    (tmp_path / "other").touch()  # beside the former one: it has another inode
    (tmp_path / "other").replace(folder / "anew")
    assert namespaces.read() == {"gone", "anew"}


def text(inode: int) -> str:
    return (
        f'{{"kind": "network", "id": "n1", "namespace": "qdhcp-n1", "namespace_inode": {inode},'
        ' "addresses": [["169.254.169.254", 80]]}'
    )


def test_a_file_is_read_when_it_is_another_one_and_in_a_full_look_when_it_has_changed(tmp_path: Path) -> None:
    folder, file, other = ListenerFiles(tmp_path), tmp_path / "n1.json", tmp_path / ".n1.json"
    file.write_text(text(1))
    first = folder.read(is_full=False)["n1"]
    assert folder.read()["n1"] is folder.read(is_full=False)["n1"] is first
    other.write_text(text(2))
    other.replace(file)
    assert folder.read(is_full=False) == {"n1": parse_listeners(text(2))}
    file.write_text(text(33))  # written into by somebody: no agent does that
    assert folder.read() == {"n1": parse_listeners(text(33))}
    file.unlink()
    assert folder.read(is_full=False) == {}
