"""The metadata agent: identifies the client of a request, and answers or forwards it.

- handler: the agent's parts for both modes (direct, haproxy)
- origins: where a request comes from, by connection or by headers
- port_authenticator: the instance of a request, by its port
- lookup: the port of an origin
- records: the instance records that the agent holds
- proxy: signing and forwarding to the metadata API
- listeners: listening sockets in namespaces (direct mode)
- haproxy_log: the log of the namespace proxies
- signature_check: the check of the shared secret at the start
- throttled_log: repeated messages for the operator
- metrics: counters, and the age of the port mirror
- protocols: the adapters that `programs` provides
"""
