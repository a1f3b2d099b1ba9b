"""`openimds export nova`, with a package that has the calls of nova's objects. Nova itself is not installed here."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from openimds.cli.main import openimds

FAKE = {
    "__init__": "",
    "conf": "",
    "config": """
from oslo_config import cfg

def parse_args(argv):
    conf = cfg.ConfigOpts()
    conf.register_opts([cfg.StrOpt("failure", default=""), cfg.IntOpt("count", default=0)])
    conf(argv[1:], project="nova", default_config_files=[])
    import nova
    nova.failure, nova.count = conf.failure, conf.count
    print("nova writes to the standard output")
""",
    "context": """
from contextlib import contextmanager

def get_admin_context():
    return "admin"

@contextmanager
def target_cell(context, cell):
    yield cell.name
""",
    "objects": """
import datetime, json
from types import SimpleNamespace as Fields
import nova

def register_all():
    pass

class CellMappingList:
    @staticmethod
    def get_all(context):
        if nova.failure == "database":
            raise RuntimeError("(OperationalError) mysql://nova:SECRET@db/nova: Connection refused\\n[SQL: SELECT SECRET]")
        return [
            Fields(uuid="00000000-0000-0000-0000-000000000000", name="cell0"),
            Fields(uuid="bc501050-fb36-4a08-82d6-9cc3611c6642", name="cell1"),
        ]

class Versioned:
    def __init__(self, name, **data):
        self.name, self.data = name, data

    def obj_to_primitive(self):
        return {"nova_object.name": self.name, "nova_object.data": self.data}

def network_info(n):
    address = {"address": "10.0.0.%d" % (n % 250), "floating_ips": [{"address": "203.0.113.9"}]}
    subnet = {"cidr": "10.0.0.0/24", "gateway": {"address": "10.0.0.1"}, "ips": [address], "dns": [], "routes": []}
    network = {"id": "2a9a3b1e-6b8e-4b8f-9d53-3c1c0a5c7e11", "meta": {"mtu": 1450}, "subnets": [subnet]}
    vif = {"id": "ce531f90-199f-48c0-816c-%012d" % n, "address": "fa:16:3e:00:00:01", "type": "ovs", "network": network}
    return Fields(json=lambda: json.dumps([vif, {"id": "second", "network": None}]))

def instance(n):
    pair = Fields(name="k", type="x509", public_key="CERT")
    bus = {"nova_object.name": "PCIDeviceBus", "nova_object.data": {"address": "0000:00:03.0"}}
    nic = {"nova_object.name": "NetworkInterfaceMetadata", "nova_object.data": {"mac": "m", "tags": ["front"], "bus": bus}}
    cell = {"nova_object.name": "InstanceNUMACell", "nova_object.data": {"pcpuset": [2, 3]}}
    return Fields(
        uuid="6f0c1de4-3c52-4a53-9c1c-%012d" % n, project_id="p", user_id="u", hostname="vm-%d" % n, display_name="VM",
        image_ref="155d900f-4e14-4e4c-a73d-069cbf4541e6", kernel_id="", ramdisk_id="", flavor=Fields(name="m1.tiny"),
        availability_zone="nova", launch_index=0, launched_at=datetime.datetime(2026, 5, 1, 10, tzinfo=datetime.timezone.utc),
        reservation_id="r-1", root_device_name="/dev/vda", default_ephemeral_device=None, default_swap_device="/dev/vdc",
        key_name="k", key_data="OLD", keypairs=[pair] if n % 2 else [], user_data="AP8=", metadata={"a": "b"},
        system_metadata={"password_0": "pw", "boot_roles": "member", "image_os": "x"},
        ec2_ids=Fields(instance_id="i-%08x" % n, ami_id="ami-00000001", kernel_id=None, ramdisk_id=None),
        info_cache=Fields(network_info=network_info(n)) if n else None,
        device_metadata=Versioned("InstanceDeviceMetadata", devices=[nic]) if n == 1 else None,
        numa_topology=Versioned("InstanceNUMATopology", cells=[cell]) if n == 1 else None,
    )

class InstanceList:
    @staticmethod
    def get_by_filters(context, filters, sort_key, sort_dir, limit, marker, expected_attrs):
        assert context == "cell1" and filters == {"deleted": False, "soft_deleted": False}
        assert (sort_key, sort_dir) == ("uuid", "asc")
        ordered = [instance(n) for n in range(nova.count)]
        if nova.failure == "invalid":
            ordered[0].hostname = ""
        return [each for each in ordered if marker is None or each.uuid > marker][:limit]

class BlockDeviceMappingList:
    @staticmethod
    def bdms_by_instance_uuid(context, ids):
        swap = Fields(device_name="/dev/vdb", source_type="blank", destination_type="local", guest_format="swap", id=7)
        return {each: [swap] for each in ids[:2]}
""",
    "network/__init__": "",
    "network/security_group_api": """
import nova

def get_instances_security_groups_bindings(context, servers):
    if nova.failure == "neutron":
        raise RuntimeError("Unknown auth type: None")
    return {servers[0]["id"]: [{"name": "web"}, {"name": "default"}]}
""",
}


class Nova:
    """A package `nova`, a nova.conf, and the command that exports its instances."""

    def __init__(self, folder: Path) -> None:
        self.conf = folder / "nova.conf"
        self.output = folder / "instances.json"
        self.package = folder / "lib"
        for name, text in FAKE.items():
            file = self.package / "nova" / f"{name}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        self.configure(count=3)

    def configure(self, **options: object) -> None:
        lines = [f"{name} = {value}" for name, value in options.items()]
        self.conf.write_text("\n".join(["[DEFAULT]", *lines, ""]))

    def words(self, *options: str) -> list[str]:
        return ["export", "nova", "--python", sys.executable, "--config-file", str(self.conf), *options]

    def export(self, *options: str) -> tuple[int, str]:
        result = CliRunner().invoke(openimds, self.words("--output", str(self.output), *options))
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.stdout + result.stderr

    def instances(self) -> list[dict[str, Any]]:
        document = json.loads(self.output.read_text())
        assert list(document) == ["instances"]
        return list(document["instances"])


@pytest.fixture
def nova(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nova:
    found = Nova(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(found.package))
    return found


def test_instances_are_written_with_mode_0600(nova: Nova) -> None:
    nova.output.write_text("an earlier file")
    nova.output.chmod(0o644)
    assert nova.export() == (0, "3 instances exported\n")
    assert stat.S_IMODE(nova.output.stat().st_mode) == 0o600
    assert [each["hostname"] for each in nova.instances()] == ["vm-0", "vm-1", "vm-2"]
    assert {path.name for path in nova.output.parent.iterdir()} == {"lib", "nova.conf", "instances.json"}


def test_every_field_of_an_instance_is_exported(nova: Nova) -> None:
    nova.export()
    first, second, third = nova.instances()
    assert second["ec2_ids"] == {
        "instance_id": "i-00000001",
        "ami_id": "ami-00000001",
        "kernel_id": None,
        "ramdisk_id": None,
    }
    assert (second["key_name"], second["key_type"], second["public_key"]) == ("k", "x509", "CERT")
    assert (third["key_type"], third["public_key"]) == (None, "OLD"), "the pair was deleted"
    assert (second["user_data_b64"], second["metadata"]) == ("AP8=", {"a": "b"})
    assert second["system_metadata"] == {"password_0": "pw", "boot_roles": "member"}
    assert second["launched_at"] == "2026-05-01T10:00:00+00:00"
    assert first["security_groups"] == [{"name": "web"}, {"name": "default"}]
    swap = {"device_name": "/dev/vdb", "source_type": "blank", "destination_type": "local", "guest_format": "swap"}
    assert [each["block_device_mappings"] for each in (first, second, third)] == [[swap], [swap], []]
    assert first["network_info"] == []
    assert second["neutron_ports"] == [
        {"network_id": "2a9a3b1e-6b8e-4b8f-9d53-3c1c0a5c7e11", "fixed_ips": [{"ip_address": "10.0.0.1"}]}
    ]


def test_exported_instances_are_imported(nova: Nova, tmp_path: Path) -> None:
    nova.export()
    (tmp_path / "etc").mkdir()
    ours = tmp_path / "etc" / "nova.conf"
    ours.write_text(f"[DEFAULT]\nstate_path = {tmp_path}\n")
    words = ["import", "instances", "--sync", str(nova.output), "--config-file", str(ours)]
    assert CliRunner().invoke(openimds, words).output == "3 added, 0 changed, 0 unchanged, 0 removed\n"
    nova.export()
    assert CliRunner().invoke(openimds, words).output == "0 added, 0 changed, 3 unchanged, 0 removed\n"


def test_more_instances_than_a_batch_are_exported_once_each(nova: Nova) -> None:
    nova.configure(count=1201)
    assert nova.export() == (0, "1201 instances exported\n")
    assert len({each["uuid"] for each in nova.instances()}) == 1201


def test_standard_output_has_the_document_alone(nova: Nova, tmp_path: Path) -> None:
    """A file to which the shell redirects the output gets mode 0600 too."""
    file = tmp_path / "redirected"
    with file.open("w") as output:
        file.chmod(0o644)
        subprocess.run([sys.executable, "-m", "openimds", *nova.words()], stdout=output, check=True, env=os.environ)
    assert len(json.loads(file.read_text())["instances"]) == 3
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        (
            "database",
            "nova's database cannot be read: (OperationalError) mysql://nova:***@db/nova: Connection refused: check",
        ),
        ("neutron", "Neutron cannot be queried for security groups: Unknown auth type: None: check the credentials"),
        ("invalid", "nothing was written, because this instance could not be imported: instances[0].hostname"),
    ],
)
def test_failure_is_one_sentence_and_nothing_is_written(nova: Nova, failure: str, sentence: str) -> None:
    nova.configure(count=1, failure=failure)
    code, output = nova.export()
    assert (code, output.count("\n")) == (1, 1)
    assert output.startswith(f"openimds: {sentence}")
    assert "SECRET" not in output
    assert not nova.output.exists()


def test_neutron_is_not_needed_without_security_groups(nova: Nova) -> None:
    nova.configure(count=1, failure="neutron")
    assert nova.export("--without-security-groups") == (0, "1 instance exported\n")
    assert nova.instances()[0]["security_groups"] == []


def test_python_without_nova_is_reported(nova: Nova, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH")
    code, output = nova.export()
    assert code == 1
    assert "cannot import nova (No module named 'nova'" in output
    assert "with --python" in output


def test_unreadable_configuration_is_reported(nova: Nova) -> None:
    nova.conf.unlink()
    assert "nova's configuration cannot be read" in nova.export()[1]
    nova.conf.write_text("[DEFAULT\n SECRET")
    code, output = nova.export()
    assert (code, "nova's configuration cannot be read" in output, "SECRET" in output) == (1, True, False)


def test_python_that_does_not_exist_is_reported(nova: Nova) -> None:
    assert "/nowhere/python cannot be run: No such file" in nova.export("--python", "/nowhere/python")[1]


def test_output_that_cannot_be_written_is_reported(nova: Nova) -> None:
    assert "cannot be written: No such file" in nova.export("--output", "/nowhere/file.json")[1]
