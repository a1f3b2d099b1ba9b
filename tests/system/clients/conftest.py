"""Third-party metadata clients."""

from __future__ import annotations

import pytest
from tests.system.clients.tenant import Tenant
from tests.system.cloud import Cloud


@pytest.fixture(scope="module")
def tenant(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Tenant:
    return Tenant(cloud, tmp_path_factory.mktemp("owner"))
