"""Neutron's API v2.0: the resources that determine addresses, routes and metadata of instances.

Modules, in reading order:

- `resources`: request bodies and CRUD routes of each kind, tags, router interfaces and extra routes
- `attributes`: the attributes of each kind, for validation and for /openapi.json
- `validators`: checks of single values
- `request_params`: filters, sorting, pages, If-Match
- `admin`: agents, quotas, availability zones, usage and extensions
- `policies`: the rules, and the attributes that they decide about
- `protocols`: the store that the service needs
"""
