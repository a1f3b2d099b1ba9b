"""The control API: the OpenStack subset that people and agents talk to, one package a service.

Each package has `router(…) -> APIRouter`, declares the store it needs as a Protocol of its own, and raises the domain's
errors (resources/errors.py); errors.py turns them into the service's JSON form.
"""
