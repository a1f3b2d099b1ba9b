"""Rules that identify the client of a request. Pure: no I/O, clock, randomness or logging.

- headers: the identity headers between hops
- signature: the signature of instance IDs by the shared secret
- session_tokens: the format of session tokens (IMDSv2)
- addresses: source addresses and MACs
- port_match: the rules by which a port matches a source
- port_index: ports by address and by MAC
- router_networks: the networks behind a router
- mapping_diff: the difference between two snapshots
- request_policy: strict requests
- token_bucket: the counting of a rate limit
"""
