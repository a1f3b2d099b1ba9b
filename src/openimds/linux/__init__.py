"""The only code that touches the kernel: namespaces, links, addresses, firewall, processes."""
