"""Documents of instances without recordings, served by the script `tests/compat/serve.py`.

The expected documents are computed in this module from the file, without the rendering code of openimds.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from tests.ports import free_port
from tests.waiting import HANG_SECONDS

DATA = Path(__file__).parent / "data"
SERVE = Path(__file__).parent / "serve.py"
FILES = ("many_instances.json", "sparse_instances.json")
TYPES = {"bridge", "dvs", "hw_veb", "hyperv", "ovs", "tap", "vhostuser", "vif"}

Entry = Mapping[str, Any]


class Server:
    """The process of the script with one file and one configuration."""

    def __init__(self, file: Path, config: str, cwd: Path) -> None:
        self.document = json.loads(file.read_text())
        self.config = config
        self.port = free_port()
        command = [sys.executable, str(SERVE), "--instances", str(file), "--config", config, "--port", str(self.port)]
        self.process = subprocess.Popen(
            command, cwd=cwd, env={"PATH": "/usr/bin:/bin"}, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout
        assert self.process.stdout.readline() == f"serving {config} on 127.0.0.1:{self.port}\n"

    @property
    def entries(self) -> list[Entry]:
        entries: list[Entry] = self.document["instances"]
        return entries[:1] if self.config == "direct" else entries

    def get(self, entry: Entry, path: str, method: str = "GET", body: bytes | None = None) -> tuple[int, str, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=HANG_SECONDS)
        headers = {} if self.config == "direct" else self._signed(entry)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        found = (answer.status, answer.headers["Content-Type"], answer.read())
        connection.close()
        return found

    def text(self, entry: Entry, path: str) -> str:
        status, kind, body = self.get(entry, path)
        assert (status, kind) == (200, "text/plain; charset=UTF-8"), path
        return body.decode()

    def json(self, entry: Entry, path: str) -> Any:
        status, _, body = self.get(entry, path)
        assert status == 200, path
        return json.loads(body)

    def _signed(self, entry: Entry) -> dict[str, str]:
        secret = self.document["metadata_proxy_shared_secret"].encode()
        signature = hmac.new(secret, entry["uuid"].encode(), hashlib.sha256).hexdigest()
        identity = {"X-Instance-ID": entry["uuid"], "X-Tenant-ID": entry["project_id"]}
        return identity | {"X-Instance-ID-Signature": signature, "X-Forwarded-For": "10.9.8.7"}

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(HANG_SECONDS)
        assert self.process.stdout
        self.process.stdout.close()
        return code


@pytest.fixture(
    scope="module", params=[*((name, "cache") for name in FILES), (FILES[0], "dynvd"), (FILES[1], "direct")]
)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    name, config = request.param
    server = Server(DATA / name, config, tmp_path_factory.mktemp("elsewhere"))
    yield server
    assert server.stop() == 0


def test_meta_data_matches_the_file(served: Server) -> None:
    for entry in served.entries:
        found = served.json(entry, "/openstack/latest/meta_data.json")
        assert len(base64.b64decode(found.pop("random_seed"), validate=True)) == 512
        assert found == expected_meta_data(entry)


def test_network_data_matches_the_file(served: Server) -> None:
    for entry in served.entries:
        assert served.json(entry, "/openstack/latest/network_data.json") == expected_network_data(entry)


def test_user_data_matches_the_file(served: Server) -> None:
    for entry in served.entries:
        given = entry["user_data_b64"]
        for path in ("/openstack/latest/user_data", "/latest/user-data"):
            status, _, body = served.get(entry, path)
            assert (status, body if status == 200 else None) == (
                (404, None) if given is None else (200, base64.b64decode(given))
            )
        assert ("user-data" in served.text(entry, "/latest/")) == (given is not None)


def test_ec2_documents_match_the_file(served: Server) -> None:
    client_address = "127.0.0.1" if served.config == "direct" else "10.9.8.7"
    for entry in served.entries:
        for name, value in expected_leaves(entry, client_address).items():
            assert served.text(entry, f"/latest/meta-data/{name}") == value, name
        listed = served.text(entry, "/latest/meta-data/").split("\n")
        assert listed == sorted(listed)
        assert ("kernel-id" in listed) == bool(entry["ec2_ids"]["kernel_id"])
        assert ("public-keys/" in listed) == bool(entry["key_name"])


def test_block_devices_match_the_file(served: Server) -> None:
    for entry in served.entries:
        expected = expected_block_devices(entry)
        path = "/latest/meta-data/block-device-mapping/"
        assert served.text(entry, path) == "\n".join(sorted(expected))
        for name, device in expected.items():
            assert served.text(entry, path + name) == str(device)


def test_vendor_data_contain_the_static_and_dynamic_data(served: Server) -> None:
    for entry in served.entries:
        found = served.json(entry, "/openstack/latest/vendor_data2.json")
        assert found["static"] == served.json(entry, "/openstack/latest/vendor_data.json")
        assert ("testsvc" in found) == (served.config == "dynvd")
        if served.config == "dynvd":
            sent = found["testsvc"]["you_sent"]
            assert (sent["instance-id"], sent["metadata"], sent["user-data"]) == (
                entry["uuid"], entry["metadata"], entry["user_data_b64"],
            )  # fmt: skip


def test_password_is_stored_once(served: Server) -> None:
    for entry in served.entries:
        pieces = entry["system_metadata"]
        before = "".join(pieces[name] for name in sorted(pieces))
        path = "/openstack/latest/password"
        assert served.get(entry, path)[2].decode() == before
        if before:
            assert served.get(entry, path, "POST", b"x")[0] == 409
            continue
        assert served.get(entry, path, "POST", b"x" * 1021)[0] == 400
        assert served.get(entry, path, "POST", b"x" * 1020)[0] == 200
        assert served.get(entry, path)[2] == b"x" * 1020
        assert served.get(entry, path, "POST", b"y")[0] == 409


def test_invalid_file_is_refused_with_the_name_of_the_field(tmp_path: Path) -> None:
    file = tmp_path / "instances.json"
    file.write_text('{"instances": [{"uuid": "x"}], "metadata_proxy_shared_secret": "s"}')
    command = [sys.executable, str(SERVE), "--instances", str(file), "--port", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "instances[0].uuid" in done.stderr
    assert "Traceback" not in done.stderr


# Expected documents ---------------------------------------------------------------------------------------------------


def expected_meta_data(entry: Entry) -> dict[str, Any]:
    document: dict[str, Any] = {
        "uuid": entry["uuid"],
        "hostname": f"{entry['hostname']}.novalocal",
        "name": entry["display_name"],
        "launch_index": entry["launch_index"],
        "availability_zone": entry["availability_zone"],
        "project_id": entry["project_id"],
        "devices": [],
        "dedicated_cpus": [],
    }
    if entry["metadata"]:
        document["meta"] = entry["metadata"]
    if entry["public_key"]:
        name, key = entry["key_name"], entry["public_key"]
        document["public_keys"] = {name: key}
        document["keys"] = [{"name": name, "type": entry["key_type"], "data": key}]
    return document


def expected_leaves(entry: Entry, client_address: str) -> dict[str, str]:
    ids = entry["ec2_ids"]
    fixed = [ip for vif in entry["network_info"] for subnet in vif["network"]["subnets"] for ip in subnet["ips"]]
    v4 = [ip["address"] for ip in fixed if ip["version"] == 4]
    floating = [found["address"] for ip in fixed for found in ip["floating_ips"]]
    leaves = {
        "ami-id": str(ids["ami_id"]),
        "instance-id": ids["instance_id"],
        "ami-launch-index": str(entry["launch_index"]),
        "hostname": f"{entry['hostname']}.novalocal",
        "instance-type": entry["flavor_name"],
        "local-ipv4": v4[0] if v4 else client_address,
        "public-ipv4": floating[0] if floating else "",
        "placement/availability-zone": str(entry["availability_zone"]),
        "reservation-id": str(entry["reservation_id"]),
        "security-groups": "\n".join(group["name"] for group in entry["security_groups"]),
    }
    if entry["key_name"]:
        leaves |= {
            "public-keys/": f"0={entry['key_name']}",
            "public-keys/0/openssh-key": str(entry["public_key"]),
        }
    return leaves


def expected_block_devices(entry: Entry) -> dict[str, Any]:
    root = entry["root_device_name"]
    if root is None:
        return {"ami": "sda1", "ephemeral0": "sda2", "root": "/dev/sda1", "swap": "sda3"}
    mappings = entry["block_device_mappings"]
    found: dict[str, Any] = {"ami": root.removeprefix("/dev/"), "root": root}
    if entry["default_ephemeral_device"]:
        found["ephemeral0"] = entry["default_ephemeral_device"]
    if entry["default_swap_device"]:
        found["swap"] = entry["default_swap_device"]
    volumes = [mapping["device_name"] for mapping in mappings if mapping["destination_type"] == "volume"]
    ebs = [None] * volumes.count(None) + sorted(name for name in volumes if name)
    found |= {f"ebs{place}": name for place, name in enumerate(ebs)}
    blank = [m for m in mappings if m["source_type"] == "blank" and m["destination_type"] == "local"]
    ephemerals = [mapping["device_name"] for mapping in blank if mapping["guest_format"] != "swap"]
    found |= {f"ephemeral{place}": name for place, name in enumerate(ephemerals)}
    for mapping in blank:
        if mapping["guest_format"] == "swap":
            found["swap"] = mapping["device_name"]
    return found


def expected_network_data(entry: Entry) -> dict[str, Any]:
    if not entry["network_info"]:
        return {}
    links: list[dict[str, Any]] = []
    networks: list[dict[str, Any]] = []
    services: list[dict[str, str]] = []
    for vif in entry["network_info"]:
        subnets = vif["network"]["subnets"]
        firsts = [next((s for s in subnets if s["version"] == version), None) for version in (4, 6)]
        if not any(firsts):
            continue
        links.append(expected_link(vif, len(links)))
        for subnet in (found for found in firsts if found and found["ips"]):
            identity = {"id": f"network{len(networks)}", "link": links[-1]["id"], "network_id": vif["network"]["id"]}
            networks.append(identity | expected_network(subnet))
            services += [service for service in expected_services(subnet) if service not in services]
    return {"links": links, "networks": networks, "services": services}


def expected_link(vif: Entry, place: int) -> dict[str, Any]:
    dhcp = any("dhcp_server" in subnet["meta"] for subnet in vif["network"]["subnets"])
    return {
        "id": vif["devname"] or f"interface{place}",
        "vif_id": vif["id"],
        "type": vif["type"] if vif["type"] in TYPES else "phy",
        "mtu": None if dhcp else vif["network"]["meta"]["mtu"],
        "ethernet_mac_address": vif["address"],
    }


def expected_network(subnet: Entry) -> dict[str, Any]:
    mode, family = subnet["meta"].get("ipv6_address_mode"), f"ipv{subnet['version']}"
    if mode is None and (subnet["meta"].get("enable_dhcp") or "dhcp_server" in subnet["meta"]):
        return {"type": f"{family}_dhcp"}
    anywhere = "0.0.0.0" if subnet["version"] == 4 else "::"
    gateway = subnet["gateway"]["address"]
    routes = [{"network": anywhere, "netmask": anywhere, "gateway": gateway}] if gateway else []
    for route in subnet["routes"]:
        network = ip_network(route["cidr"])
        where = {"network": str(network.network_address), "netmask": str(network.netmask)}
        routes.append(where | {"gateway": route["gateway"]["address"]})
    return {
        "type": f"{family}_{mode}" if mode else family,
        "ip_address": subnet["ips"][0]["address"],
        "netmask": str(ip_network(subnet["cidr"]).netmask),
        "routes": routes,
        "services": expected_services(subnet),
    }


def expected_services(subnet: Entry) -> list[dict[str, str]]:
    return [{"type": "dns", "address": dns["address"]} for dns in subnet["dns"]]
