"""pyroute2 as one side of bench.netlink_library."""

from __future__ import annotations

import resource
import socket

from pyroute2 import IPRoute

from bench.netlink_library import CHANGED_ADDRESS, DEVICE, measure

RT_TABLE_MAIN, RTN_UNICAST, RTPROT_KERNEL, RTPROT_RA = 254, 1, 2, 9


class Pyroute2:
    def open(self, namespace: str) -> IPRoute:
        return IPRoute(netns=namespace)

    def read(self, handle: IPRoute) -> int:
        routes = [
            route
            for family in (socket.AF_INET, socket.AF_INET6)
            for route in handle.get_routes(family=family, table=RT_TABLE_MAIN)
            if route["type"] == RTN_UNICAST and route["proto"] not in (RTPROT_KERNEL, RTPROT_RA)
        ]
        return len(list(handle.get_links())) + len(list(handle.get_addr())) + len(routes)

    def change(self, handle: IPRoute, namespace: str) -> None:
        (index,) = handle.link_lookup(ifname=DEVICE)
        handle.addr("add", index=index, address=CHANGED_ADDRESS)
        handle.addr("delete", index=index, address=CHANGED_ADDRESS)


if __name__ == "__main__":
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    measure(Pyroute2)
