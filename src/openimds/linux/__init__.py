"""The code that touches the Linux kernel: namespaces, links, addresses, firewall rules and processes.

- errors: the exceptions of this package.
- sysctl: kernel settings of the calling thread's network namespace.
- fd_budget: the share of RLIMIT_NOFILE that long-lived descriptors may take.
- tree_removal: deletes folders with any content.
- process: process identity, programs and pid-file daemons.
- netlink: the netlink protocol, without a library.
- netns: network namespaces: create, enter, list, and read through open handles.
- firewall: iptables and nftables.
- configure: makes namespaces and bridges match the desired state.
- monitor: reports the changes of other programs to namespaces, devices, rules and files.
- netns_driver: the compute driver with namespaces as instances.
"""
