"""`openimds import instances`, from outside."""

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
    """The guide's own."""
    text = re.search(r"```yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert text
    document: dict[str, Any] = yaml.safe_load(text[1])
    return document


class Place:
    """A configuration, its store, and a file to import."""

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

    def imports(self, document: object, *options: str) -> tuple[int, str]:
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


def test_the_guides_example(place: Place) -> None:
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


def test_what_the_guide_lists_is_what_is_known(place: Place) -> None:
    """A field that is refused as unknown names all that are known: the example has each of them but one."""
    wrong = example()
    wrong["instances"][0]["hostnam"] = "x"
    _, said = place.imports(wrong)
    known = set(said.split("known: ")[1].strip().split(", "))
    assert known - set(example()["instances"][0]) == {"user_data_base64"}


def test_novas_own_form(place: Place) -> None:
    document = json.loads(RECORDED.read_text())
    place.file.write_text(RECORDED.read_text())
    assert place.run() == (0, f"{len(document['instances'])} instances imported\n")
    main = next(entry for entry in document["instances"] if entry.get("main"))
    found = place.instance(main["uuid"])
    assert found
    assert found.user_data == base64.b64decode(main["user_data_b64"])


def test_a_dry_run_changes_nothing(place: Place) -> None:
    code, said = place.imports(example(), "--config-file", str(place.conf), "--dry-run")
    assert (code, "db upgrade" in said) == (1, True)
    assert place.imports({"instances": []})[0] == 0
    code, said = place.imports(example(), "--config-file", str(place.conf), "--dry-run")
    assert (code, said) == (0, "1 instance could be imported; nothing was changed\n")
    assert place.instance() is None


def test_a_second_import_replaces(place: Place) -> None:
    place.imports(example())
    again = {"instances": [{"id": ID, "project_id": "p", "hostname": "other"}]}
    assert place.imports(again)[0] == 0
    found = place.instance()
    assert found
    assert (found.hostname, found.nics, found.key, found.user_data) == ("other", (), None, None)


def test_all_or_nothing(place: Place) -> None:
    bad = {"instances": [{"id": ID, "project_id": "p", "hostname": "good"}, {"id": "x"}]}
    code, said = place.imports(bad)
    assert code == 1
    assert said.startswith("openimds: instances[1].")
    assert place.instance() is None


def test_an_instance_of_this_cloud_stays(place: Place) -> None:
    place.imports({"instances": []})
    store = Store(f"sqlite:///{place.folder}/openimds.sqlite")
    at = datetime(2026, 11, 21)  # noqa: DTZ001 - as the tables hold it
    fields: dict[str, Any] = {"user_id": "u", "name": "own", "hostname": "own", "flavor": {"name": "f"}}
    with store.write() as session:
        session.add(Server(id=ID, project_id="p", created_at=at, updated_at=at, **fields))
    store.close()
    code, said = place.imports(example())
    assert code == 1
    assert f"instances[0]: {ID} is an instance of this cloud" in said


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
        ({"hostname": "a b"}, "hostname", "is no host name"),
        ({"id": "42"}, "id", "is not a UUID"),
        ({"launch_index": 10**30}, "launch_index", "is not between"),
        ({"nmae": "x"}, "nmae", "there is no such field"),
        ({"files": [{"path": "/a", "contents_base64": "?"}]}, "files[0].contents_base64", "is not base64"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(place: Place, fields: dict[str, Any], place_of: str, sentence: str) -> None:
    base = {"id": ID, "project_id": "p", "hostname": "vm"}
    code, said = place.imports({"instances": [base, base | {"id": PORT["id"]} | fields]})
    assert code == 1
    assert said.startswith(f"openimds: instances[1].{place_of}: ")
    assert sentence in said
    assert said.count("\n") == 1


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
def test_files_that_are_not_of_this_form(place: Place, text: str, sentence: str) -> None:
    place.file.write_text(text)
    code, said = place.run()
    assert code == 1
    assert sentence in said


def test_the_same_id_twice(place: Place) -> None:
    one = {"id": ID, "project_id": "p", "hostname": "vm"}
    assert "instances[1].id" in place.imports({"instances": [one, one]})[1]


def test_where_the_store_is(place: Place, tmp_path: Path) -> None:
    place.file.write_text("{}")
    both = ("--state-dir", str(tmp_path), "--config-file", "x")
    assert "give one of them" in place.run(*both)[1]
    assert "nothing was ever up in" in place.run("--state-dir", str(tmp_path / "nowhere"))[1]
