"""Who has which IP address on a link, as the kernel has heard it: rtnetlink(7).

Every function speaks to the namespace of the thread that calls it.
"""

from __future__ import annotations

import struct

from openimds.linux.netlink.socket import FAMILIES, NLM_F_DUMP, ask, attributes, format_address

RTM_GETNEIGH = 30
NDA_DST, NDA_LLADDR = 1, 2
NEIGHBOUR_USELESS = 0x01 | 0x20 | 0x40
"""NUD_INCOMPLETE, NUD_FAILED, NUD_NOARP: no address that anybody has confirmed."""

_NEIGHBOUR = struct.Struct("=BBHiHBB")
"""struct ndmsg: family, padding (2), index, state, flags, type."""


def neighbours(link_index: int) -> dict[str, str]:
    """IP address → MAC address, of those that have answered."""
    found: dict[str, str] = {}
    for family in FAMILIES:
        for _kind, payload in ask(RTM_GETNEIGH, NLM_F_DUMP, _NEIGHBOUR.pack(family, 0, 0, 0, 0, 0, 0)):
            its_family, _pad, _pad2, index, state, _flags, _type = _NEIGHBOUR.unpack_from(payload)
            values = attributes(payload, _NEIGHBOUR.size)
            is_known = bool(values.get(NDA_LLADDR)) and not state & NEIGHBOUR_USELESS
            if is_known and index == link_index and its_family == family:
                found[format_address(values[NDA_DST])] = values[NDA_LLADDR].hex(":")
    return found
