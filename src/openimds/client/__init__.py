"""The client of the control API, and of a real Neutron (keystoneauth1): calls, and the watch."""
