"""The client of the control API. It also works with Keystone and Neutron, which have no watch (NoWatchError).

Modules, in reading order:

- `errors`: the errors of all calls.
- `session`: a keystoneauth session.
- `rest`: one HTTP call.
- `control_client`: the watch, reports, heartbeats, and the calls of Neutron that agents use.
- `decoders`: the values of the JSON objects.
- `mirror`: a copy of the cloud state that the watch updates.
- `store_guard`: detects that the database was replaced or restored from an older copy.
- `instance_records`: instance records for the metadata agent.
- `cloud_check`: the checks of Keystone and Neutron at the start of the metadata agent.
- `notifications`: the notifications of Neutron and Nova over oslo.messaging.
- `vendordata`: requests to dynamic vendor data targets.
- `testing`: a control API in memory for tests.
"""
