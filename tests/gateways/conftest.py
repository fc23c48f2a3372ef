"""Accounts to parse and to call for."""

from collections.abc import Callable
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from gateways import GATEWAYS
from gateways.gateway import Account, Secret


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def account_at() -> Callable[..., Account]:
    """Make an account of a gateway; what is given by name are its options."""

    def make(gateway: str, base_url: str = "", **options: Any) -> Account:
        spoken = GATEWAYS[gateway]
        # Every credential is recognisable wherever it should not be.
        secrets = {name: Secret(f"s3cret-{name}") for name in spoken.credentials.__struct_fields__}
        return Account(
            name=f"{gateway}-main",
            gateway=gateway,
            base_url=base_url or spoken.default_base_url,
            zone=ZoneInfo("Asia/Shanghai"),
            credentials=spoken.credentials(**secrets),
            options=spoken.options(**options),
        )

    return make
