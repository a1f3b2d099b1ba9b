"""Keystone's API v3: users, projects, roles, tokens and the service catalog.

Modules, in reading order:

- `auth`: issues, shows and revokes tokens
- `logins`: password checks with limits for each user and address
- `tokens`: Fernet tokens
- `users_projects_roles`: users, projects, roles and role assignments
- `catalog`: regions, services and endpoints
- `schemas`: request bodies
- `views`: response bodies
- `policies`: the rules, and the attributes that they decide about
- `protocols`: the store that the service needs
"""
