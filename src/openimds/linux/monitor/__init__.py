"""Reports the changes that other programs make on the host.

- host_monitor: the monitor's thread, and the debounced set of changed resources.
- resource_index: which kernel objects each resource depends on.
- sockets: event sockets of the host and of each namespace.
- netlink_events: netlink notifications → kernel objects.
- watched_files: directories watched by inotify, and polled files of /proc.
- process_exit: exits of watched processes.
"""
