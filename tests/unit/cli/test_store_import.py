"""The command `openimds import instances`."""

from __future__ import annotations

import base64
import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from openimds.cli.main import openimds
from openimds.resources.instance import Instance
from openimds.store.engine import Store
from openimds.store.importer.importer import InstanceStore
from openimds.store.models.compute import Server

ROOT = Path(__file__).parents[3]
GUIDE = ROOT / "docs" / "guide" / "import.md"
RECORDED = ROOT / "tests" / "compat" / "data" / "instances.json"
ID = "6f0c1de4-3c52-4a53-9c1c-5f1ac3b1a001"


def example() -> dict[str, Any]:
    """The example of docs/guide/import.md."""
    text = re.search(r"```yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert text
    document: dict[str, Any] = yaml.safe_load(text[1])
    return document


class Place:
    """A configuration file, its store, and a file to import."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "instances.yaml"
        self.conf = folder / "etc" / "nova.conf"
        self.conf.parent.mkdir()
        self.conf.write_text(f"[DEFAULT]\nstate_path = {folder}\n")
        self.folder = folder

    def run(self, *options: str) -> tuple[int, str]:
        words = ["import", "instances", str(self.file), *(options or ("--config-file", str(self.conf)))]
        result = CliRunner().invoke(openimds, words)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.stdout + result.stderr

    def import_document(self, document: object, *options: str) -> tuple[int, str]:
        self.file.write_text(json.dumps(document))
        return self.run(*options)

    def instance(self, instance_id: str = ID) -> Instance | None:
        store = Store(f"sqlite:///{self.folder}/openimds.sqlite")
        try:
            return InstanceStore(store).instance(instance_id)
        finally:
            store.close()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_example_of_the_guide_is_imported(place: Place) -> None:
    place.file.write_text(yaml.safe_dump(example()))
    assert place.run("--state-dir", str(place.folder)) == (0, "1 instance imported\n")
    found = place.instance()
    assert found
    assert (found.name, found.hostname, found.flavor_name) == ("Web 1", "web-1", "m1.small")
    assert (found.ec2_ids.instance_id, found.ec2_ids.ami_id) == ("i-0000002a", "ami-00000007")
    assert found.key
    assert (found.key.name, found.key.type) == ("mykey", "ssh")
    assert found.user_data == b"#!/bin/sh\necho hello\n"
    [nic] = found.nics
    assert (nic.device_name, nic.mac_address, nic.mtu) == ("tapce531f90-19", "fa:16:3e:11:22:33", 1450)
    v4, v6 = nic.subnets
    assert (v4.cidr, v4.gateway_ip, v4.enable_dhcp) == ("10.20.30.0/24", "10.20.30.1", False)
    assert v4.addresses[0].floating_ips == ("203.0.113.17",)
    assert (v6.ip_version, v6.ipv6_address_mode) == (6, "slaac")
    assert found.devices[0].tags == ("public",)
    assert [device.device_name for device in found.block_devices] == ["/dev/vda", "/dev/vdb"]
    assert found.files[0].contents == b"hello\n"
    assert found.password is None


def test_example_of_the_guide_has_every_field(place: Place) -> None:
    """The error about an unknown field lists all fields. The example has all of them except user_data_base64."""
    invalid = example()
    invalid["instances"][0]["hostnam"] = "x"
    _, output = place.import_document(invalid)
    fields = set(output.split("the fields are ")[1].strip().split(", "))
    assert fields - set(example()["instances"][0]) == {"user_data_base64"}


def test_recorded_instances_of_nova_are_imported(place: Place) -> None:
    document = json.loads(RECORDED.read_text())
    place.file.write_text(RECORDED.read_text())
    assert place.run() == (0, f"{len(document['instances'])} instances imported\n")
    main = next(entry for entry in document["instances"] if entry.get("main"))
    found = place.instance(main["uuid"])
    assert found
    assert found.user_data == base64.b64decode(main["user_data_b64"])


def test_dry_run_changes_nothing(place: Place) -> None:
    code, output = place.import_document(example(), "--config-file", str(place.conf), "--dry-run")
    assert (code, "db upgrade" in output) == (1, True)
    assert place.import_document({"instances": []})[0] == 0
    code, output = place.import_document(example(), "--config-file", str(place.conf), "--dry-run")
    assert (code, output) == (0, "1 instance could be imported; nothing was changed\n")
    assert place.instance() is None


def test_second_import_replaces_the_instance(place: Place) -> None:
    place.import_document(example())
    again = {"instances": [{"id": ID, "project_id": "p", "hostname": "other"}]}
    assert place.import_document(again)[0] == 0
    found = place.instance()
    assert found
    assert (found.hostname, found.nics, found.key, found.user_data) == ("other", (), None, None)


def test_sync_reports_counts_and_needs_force_to_remove_more_than_half(place: Place) -> None:
    first, second = example()["instances"][0], {"id": PORT["id"], "project_id": "p", "hostname": "vm"}
    store = ("--config-file", str(place.conf))
    sync = (*store, "--sync")
    assert place.import_document({"instances": [first, second]}, *sync) == (
        0,
        "2 added, 0 changed, 0 unchanged, 0 removed\n",
    )
    assert place.run(*sync, "--dry-run") == (
        0,
        "a dry run changed nothing: 0 added, 0 changed, 2 unchanged, 0 removed\n",
    )
    code, output = place.import_document({"instances": []}, *sync)
    assert (code, place.instance() is None) == (1, False)
    assert output.startswith("openimds: nothing was changed: the file does not contain 2 of the 2 instances")
    assert place.import_document({"instances": [second]}, *sync)[1] == "0 added, 0 changed, 1 unchanged, 1 removed\n"
    assert place.instance() is None
    assert place.import_document({"instances": []}, *sync, "--force")[1].endswith(" 1 removed\n")
    assert "--force has an effect only with --sync" in place.run(*store, "--force")[1]


def test_recorded_instances_of_nova_are_unchanged_by_a_second_sync(place: Place) -> None:
    place.file.write_text(RECORDED.read_text())
    sync = ("--config-file", str(place.conf), "--sync")
    assert place.run(*sync)[1].startswith("3 added")
    assert place.run(*sync)[1] == "0 added, 0 changed, 3 unchanged, 0 removed\n"


def test_one_invalid_instance_prevents_the_import(place: Place) -> None:
    bad = {"instances": [{"id": ID, "project_id": "p", "hostname": "good"}, {"id": "x"}]}
    code, output = place.import_document(bad)
    assert code == 1
    assert output.startswith("openimds: instances[1].")
    assert place.instance() is None


def test_instance_of_this_cloud_is_not_replaced(place: Place) -> None:
    place.import_document({"instances": []})
    store = Store(f"sqlite:///{place.folder}/openimds.sqlite")
    at = datetime(2026, 11, 21)  # noqa: DTZ001 - the tables hold naive times
    fields: dict[str, Any] = {"user_id": "u", "name": "own", "hostname": "own", "flavor": {"name": "f"}}
    with store.write() as session:
        session.add(Server(id=ID, project_id="p", created_at=at, updated_at=at, **fields))
    store.close()
    code, output = place.import_document(example())
    assert code == 1
    assert f"instances[0]: {ID} is an instance of this cloud" in output


PORT = {"id": "ce531f90-199f-48c0-816c-13e38010b442", "network_id": ID, "mac_address": "fa:16:3e:11:22:33"}


def with_subnet(**fields: Any) -> dict[str, Any]:
    return {"ports": [PORT | {"subnets": [{"cidr": "10.0.0.0/24"} | fields]}]}


@pytest.mark.parametrize(
    ("fields", "place_of", "sentence"),
    [
        ({"ports": [PORT | {"mac_address": "fa:16"}]}, "ports[0].mac_address", "is not like fa:16:3e:00:00:01"),
        ({"ports": [PORT, PORT | {"id": 5}]}, "ports[1].id", "must be a text"),
        ({"ports": [PORT | {"mtu": 70000}]}, "ports[0].mtu", "is not between 1 and 65535"),
        ({"ports": [PORT | {"mtu": True}]}, "ports[0].mtu", "must be a whole number"),
        ({"ports": {}}, "ports", "must be a list of objects"),
        (with_subnet(cidr="10.0.0.1/24"), "ports[0].subnets[0].cidr", "is not a network like"),
        (with_subnet(gateway_ip="10.0.0.256"), "ports[0].subnets[0].gateway_ip", "is not an address"),
        (with_subnet(addresses=["10.0.1.5"]), "ports[0].subnets[0].addresses[0].ip_address", "not in 10.0.0.0/24"),
        (with_subnet(addresses=[{"ip_address": 7}]), "ports[0].subnets[0].addresses[0].ip_address", "must be a text"),
        (with_subnet(dns_nameservers=["x"]), "ports[0].subnets[0].dns_nameservers[0]", "is not an address"),
        (with_subnet(enable_dhcp="no"), "ports[0].subnets[0].enable_dhcp", "must be true or false"),
        (with_subnet(ipv6_address_mode="x"), "ports[0].subnets[0].ipv6_address_mode", "is none of slaac"),
        (with_subnet(host_routes=[{"destination": "0.0.0.0/0", "nexthop": ""}]),
         "ports[0].subnets[0].host_routes[0].nexthop", "not empty"),
        ({"key": {"name": "k", "type": "gpg", "public_key": "x"}}, "key.type", "is neither ssh nor x509"),
        ({"key": {"name": "k"}}, "key.public_key", "not empty"),
        ({"user_data": "a", "user_data_base64": "YQ=="}, "user_data", "not both"),
        ({"user_data_base64": "%"}, "user_data_base64", "is not base64"),
        ({"ec2_ids": {"instance_id": "42"}}, "ec2_ids.instance_id", "is not like i-0000002a"),
        ({"ec2_ids": {}}, "ec2_ids.instance_id", "not empty"),
        ({"metadata": {"a": 1}}, "metadata", "must be an object of texts"),
        ({"hostname": "a b"}, "hostname", "is not a host name"),
        ({"id": "42"}, "id", "is not a UUID"),
        ({"launch_index": 10**30}, "launch_index", "is not between"),
        ({"nmae": "x"}, "nmae", "there is no such field"),
        ({"files": [{"path": "/a", "contents_base64": "?"}]}, "files[0].contents_base64", "is not base64"),
    ],
)  # fmt: skip
def test_invalid_field_is_reported_with_its_path(
    place: Place, fields: dict[str, Any], place_of: str, sentence: str
) -> None:
    base = {"id": ID, "project_id": "p", "hostname": "vm"}
    code, output = place.import_document({"instances": [base, base | {"id": PORT["id"]} | fields]})
    assert code == 1
    assert output.startswith(f"openimds: instances[1].{place_of}: ")
    assert sentence in output
    assert output.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is not JSON"),
        ("a: [", "is not YAML"),
        ("- 1", "must hold an object"),
        ("{}", "a list `instances`"),
        ('{"instances": [5]}', "instances[0] must be an object"),
    ],
)
def test_invalid_file_is_reported(place: Place, text: str, sentence: str) -> None:
    place.file.write_text(text)
    code, output = place.run()
    assert code == 1
    assert sentence in output


def test_duplicate_id_is_rejected(place: Place) -> None:
    instance = {"id": ID, "project_id": "p", "hostname": "vm"}
    assert "instances[1].id" in place.import_document({"instances": [instance, instance]})[1]


def test_store_options_are_checked(place: Place, tmp_path: Path) -> None:
    place.file.write_text("{}")
    both = ("--state-dir", str(tmp_path), "--config-file", "x")
    assert "give only one of them" in place.run(*both)[1]
    assert "is not a state folder of" in place.run("--state-dir", str(tmp_path / "nowhere"))[1]
