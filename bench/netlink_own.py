"""linux/netlink as one side of bench.netlink_library. With the argument `uncached` it parses every response."""

from __future__ import annotations

import resource
import sys

from bench.netlink_library import CHANGED_ADDRESS, DEVICE, measure
from openimds.linux.netlink.addresses import ADDRESS_DUMP, add_address, delete_address, parse_addresses
from openimds.linux.netlink.links import LINK_DUMP, link_by_name, parse_links
from openimds.linux.netlink.routes import MAIN_TABLE_DUMPS, parse_routes
from openimds.linux.netlink.socket import NetlinkSocket
from openimds.linux.netns import netns
from openimds.linux.netns.handles import NamespaceHandle


class Cached:
    """The handles of the agents, which parse a response only if its bytes have changed."""

    def open(self, namespace: str) -> NamespaceHandle:
        identity = netns.identity(namespace)
        assert identity is not None
        return NamespaceHandle(namespace, identity)

    def read(self, handle: NamespaceHandle) -> int:
        links = handle.links()
        return len(links) + len(handle.addresses()) + len(handle.routes(links))

    def change(self, handle: object, namespace: str) -> None:
        def work() -> None:
            link = link_by_name(DEVICE)
            assert link is not None
            add_address(link.index, CHANGED_ADDRESS)
            delete_address(link.index, CHANGED_ADDRESS)

        netns.run_in(namespace, work)


class Uncached(Cached):
    """One netlink socket per namespace, without a cache."""

    def open(self, namespace: str) -> NetlinkSocket:  # type: ignore[override]
        return netns.run_in(namespace, NetlinkSocket)

    def read(self, handle: NetlinkSocket) -> int:  # type: ignore[override]
        links = parse_links(handle.dump(LINK_DUMP.kind, LINK_DUMP.body))
        names = {link.index: link.name for link in links}
        addresses = parse_addresses(handle.dump(ADDRESS_DUMP.kind, ADDRESS_DUMP.body))
        routes = [
            parse_routes(handle.dump(dump.kind, dump.body), family, names) for family, dump in MAIN_TABLE_DUMPS.items()
        ]
        return len(links) + len(addresses) + sum(map(len, routes))


if __name__ == "__main__":
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    measure(Uncached if "uncached" in sys.argv else Cached)
