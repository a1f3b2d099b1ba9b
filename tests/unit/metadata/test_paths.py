from __future__ import annotations

import pytest

from openimds.metadata.paths import MalformedTargetError, parse_path


@pytest.mark.parametrize(
    ("target", "tree", "parts"),
    [
        (b"/openstack", "openstack", ()),
        (b"/openstack/", "openstack", ()),
        (b"//openstack", "openstack", ()),
        (b"/openstack//latest///meta_data.json", "openstack", ("latest", "meta_data.json")),
        (b"/openstack/latest/../2018-08-27/meta%5Fdata.json?x=/../..#y", "openstack", ("2018-08-27", "meta_data.json")),
        (b"/%6fpenstack/latest", "openstack", ("latest",)),
        (b"/ec2", "ec2", ()),
        (b"/ec2/latest", "ec2", ("latest",)),
        (b"/latest/meta-data/", "ec2", ("latest", "meta-data")),
        (b"/latest%2Fmeta-data", "ec2", ("latest", "meta-data")),
        (b"/latest/meta-data/%2e%2E/user-data", "ec2", ("latest", "user-data")),
        (b"/latest/%2565", "ec2", ("latest", "%65")),
        (b"/latest/%zz", "ec2", ("latest", "\x00")),
        (b"/latest/%4z", "ec2", ("latest", "@")),
        (b"/latest/%", "ec2", ("latest",)),
        (b"/latest/a%4", "ec2", ("latest", "a")),
        (b"/latest/caf\xc3\xa9", "ec2", ("latest", "caf\xc3\xa9")),
        (b"/latest/...", "ec2", ("latest", "...")),
        (b"/../../etc/passwd", "ec2", ("etc", "passwd")),
        (b"http://evil.example/latest?x", "ec2", ("latest",)),
        (b"https://evil.example", "ec2", ()),
        (b"/latest#/../..", "ec2", ("latest",)),
    ],
)
def test_target_is_normalised(target: bytes, tree: str, parts: tuple[str, ...]) -> None:
    path = parse_path(target)
    assert (path.tree, path.parts) == (tree, parts)


@pytest.mark.parametrize("target", [b"/", b"//", b"/.", b"/./", b"/../", b"/foo/..", b"/?a=b", b"/#x", b"/%2e%2e"])
def test_root_needs_no_identification(target: bytes) -> None:
    assert parse_path(target).is_public


@pytest.mark.parametrize("target", [b"", b"?x", b"/..", b"/../..", b"/ec2", b"/openstack", b"/latest"])
def test_other_paths_need_identification(target: bytes) -> None:
    assert not parse_path(target).is_public


@pytest.mark.parametrize("target", [b"latest/meta-data", b"*", b"example.com:443", b"ftp://x/y"])
def test_target_without_a_path_is_malformed(target: bytes) -> None:
    with pytest.raises(MalformedTargetError, match="must be a path"):
        parse_path(target)
