"""The main function of each program: it loads the configuration, connects the parts, runs, and stops.

- `metadata_api`, `metadata_agent`, `control_api`: a package per program with its wiring.
- `dhcp_agent`, `l3_agent`, `compute_agent`: the agents that reconcile a host.
- `reconcile_agent`: the main loop that these three agents share.
- `proxy_settings`: the settings of the namespace proxies for the DHCP and the L3 agent.
- `vendordata_file`: the file of static vendor data, followed while it changes.
"""
