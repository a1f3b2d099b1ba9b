"""iptables and nftables."""
