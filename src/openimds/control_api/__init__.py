"""The control API: the subset of OpenStack's APIs that users and agents call.

Each service declares the store that it needs as Protocols and raises the errors of resources/errors.py. error_handlers
turns an error into the JSON of the service that was called.

Modules, in reading order:

- `app`: the ASGI application and the routers of the services
- `connections`: limits of connections, header size and time at the listener
- `middleware`: request id, body limit, access log and metrics of each request
- `routing`: authenticates before the body is read
- `input_checks`: rejects malformed text, and numbers and documents beyond the limits
- `error_handlers`: exceptions to error responses
- `context`: the caller of a request, from its token, and the policy checks
- `policy`: the rules of callers' rights, and policy.yaml
- `pagination`: limit and marker of collections
- `discovery`: version documents of the services
- `identity`: Keystone's API v3
- `network`: Neutron's API v2.0
- `compute`: Nova's API v2.1
- `image`: Glance's API v2
- `watch`: openimds' extension for agents
"""
