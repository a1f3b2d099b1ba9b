"""The netns compute driver: instances that are containers in a network namespace.

- driver: starts, stops and finds instances.
- disk: the file system of an instance.
- cgroups: the limits of an instance's memory and processes.
- bubblewrap: the command line of an instance's first process.
- boot.sh: boots an instance as a small cloud image does.
- dhcp.sh: applies the leases of the instance's DHCP clients.
"""
