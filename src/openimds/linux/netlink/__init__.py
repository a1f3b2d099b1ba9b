"""The netlink protocol, without a library (reasons and measurements: docs/decisions/netlink.md).

- socket: wire format, sockets, requests and dumps.
- links: RTM_*LINK: bridges, veth pairs, link state.
- addresses: RTM_*ADDR and the neighbour table.
- routes: RTM_*ROUTE of the main table.
- sock_diag: listening TCP sockets.
- nft_genid: the generation number of an nftables ruleset.
"""
