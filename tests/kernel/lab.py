"""A network with its DHCP server and optionally a router: the handlers of both agents on one view."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.kernel.dhcp_stage import Stage, network_stage
from tests.kernel.stage import Host

from openimds.agents.l3.router_handler import L3Adapters, L3Settings, RouterHandler
from openimds.agents.reconciler.reconciler import Reconciler
from openimds.agents.testing import FakePortsApi
from openimds.linux.configure.neighbour_discovery import announce
from openimds.linux.netns.probe import NamespaceProbe
from openimds.linux.process.daemons import PidFileDaemons, run
from openimds.netconfig.radvd import RadvdSettings
from openimds.netconfig.router_namespace import RouterMetadata
from openimds.resources.network import DEVICE_OWNER_ROUTER_INTERFACE, FixedIP, Port, Router, Subnet, router_namespace


@dataclass
class Lab:
    network: Stage
    routers: RouterHandler
    router_rounds: Reconciler
    router: Router

    @property
    def qrouter(self) -> str:
        return router_namespace(self.router.id, self.network.host.prefix)

    def route(self, *subnets: Subnet) -> Port:
        """Adds a router port with the gateway addresses of `subnets` to their network."""
        number = len(self.network.view.ports) + 128
        port = Port(
            id=f"{self.network.host.tag}{number:02x}-dddd-4000-8000-{uuid.uuid4().hex[:12]}",
            network_id=subnets[0].network_id,
            project_id="p",
            mac_address=f"fa:16:3e:00:01:{number:02x}",
            fixed_ips=tuple(FixedIP(subnet.id, subnet.gateway_ip or "") for subnet in subnets),
            device_owner=DEVICE_OWNER_ROUTER_INTERFACE,
            device_id=self.router.id,
        )
        self.network.view.add(self.router, port)
        return port

    def round(self) -> list[str]:
        """Runs a full reconcile pass of both agents."""
        words = self.network.round(everything=True)
        report = self.router_rounds.run_pass(self.network.view, full=True)
        assert not report.failures
        return [*words, *(word for said in report.changes.values() for word in said)]


@contextmanager
def lab_stage(host: Host, metadata_proxy: str = "haproxy") -> Iterator[Lab]:
    with network_stage(host, metadata_proxy) as network:
        settings = L3Settings(
            namespace_prefix=host.prefix,
            metadata=RouterMetadata(),
            proxy=network.networks.settings.proxy,
            advertisements=RadvdSettings(state_path=network.folder, user="radvd"),
        )
        adapters = L3Adapters(
            api=FakePortsApi(
                network.view, int(host.tag, 16) + 1000
            ),  # a number range apart from that of the network's ports
            configurator=host.kernel,
            daemons=PidFileDaemons(),
            probe=NamespaceProbe(host.kernel.handles),
            run_program=run,
            announce=announce,
        )
        routers = RouterHandler(adapters, settings)
        router = Router(id=f"{host.tag}ff-eeee-4000-8000-000000000001", name="r1", project_id="p")
        yield Lab(network, routers, Reconciler(routers), router)
