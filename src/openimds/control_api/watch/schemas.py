"""The bodies of what agents report."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

MAX_FAULT = 4096
MAX_IDS = 1000


def _utc(moment: datetime) -> datetime:
    """UTC without a zone, as the tables hold it."""
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


_Generation = Annotated[int, Field(ge=0, lt=2**31)]


class UnpluggedReport(BaseModel):
    """`{"binding_generation": 3}`: the binding that the report is about. Agents of release 0.1 do not name it."""

    model_config = ConfigDict(extra="forbid")
    binding_generation: _Generation | None = None


class ProvisionedReport(UnpluggedReport):
    """`{"entity": "l2", "binding_generation": 3}`"""

    entity: Literal["dhcp", "l2"]


class InstanceIds(BaseModel):
    """`{"instance_ids": ["7f…", …]}`"""

    model_config = ConfigDict(extra="forbid")
    instance_ids: Annotated[list[Annotated[str, Field(pattern=r"^[0-9A-Za-z_-]{1,64}$")]], Field(max_length=MAX_IDS)]


class ServerReport(BaseModel):
    """What became of a boot."""

    model_config = ConfigDict(extra="forbid")
    boot_generation: int
    power_state: Literal["running", "stopped", "error"]
    fault: Annotated[str, Field(max_length=MAX_FAULT)] | None = None


class HeartbeatReport(BaseModel):
    """What an agent says of itself."""

    model_config = ConfigDict(extra="forbid")
    agent_type: Annotated[str, Field(min_length=1, max_length=255)]
    started_at: Annotated[datetime, AfterValidator(_utc)]
    configurations: dict[str, Any] = {}
