"""The same stage as the network service's."""

from tests.unit.control_api.network.conftest import agent, app, bell, http, member, operator, store

__all__ = ["agent", "app", "bell", "http", "member", "operator", "store"]
