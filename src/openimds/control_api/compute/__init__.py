"""Nova's API v2.1, microversions 2.1 to 2.96.

Modules, in reading order:

- `microversions`: the microversion of a request
- `servers`: create, list, show, update and delete servers
- `server_parsing`: request bodies to NewServer and Rebuild
- `server_view`: ServerRecord to JSON
- `server_subresources`: metadata, tags, interfaces and actions of a server
- `keypairs`: SSH and X.509 key pairs
- `flavors`: flavors and their extra specs
- `admin`: availability zones, hypervisors, services, limits, and routes that answer 501
- `schemas`: request bodies
- `policies`: the rules, and the attributes that they decide about
- `protocols`: the store that the service needs
"""
