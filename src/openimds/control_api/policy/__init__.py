"""Authorisation by oslo.policy: default rules in code, and policy.yaml as the operator's override.

Each service has its rules in its own module `policies`. Only the control API and the checks of configuration files import
oslo.policy.

Modules, in reading order:

- `base`: rules that other rules refer to, and the declaration of a resource's attributes
- `defaults`: the rules and attributes of all services
- `files`: policy files: reading, validation, the sample
- `enforcer`: the decision about an action
"""
