"""Writes instances into Nova's database with Nova's own objects. Run by the Python of the environment with Nova.

nova_instances.py NOVA_CONF FILE: the file is a list of {"id", "project_id", "hostname", "network", "port", "mac", "address"}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from nova import monkey_patch

monkey_patch.patch(backend="threading")  # before any import of eventlet, which other modules of Nova import

from nova import config, context, objects  # noqa: E402
from nova.network import model  # noqa: E402


def main(conf: str, instances: list[dict[str, Any]]) -> None:
    config.parse_args(["nova-manage", "--config-file", conf])
    objects.register_all()
    admin = context.get_admin_context()
    cell = next(cell for cell in objects.CellMappingList.get_all(admin) if cell.name == "cell1")
    with context.target_cell(admin, cell) as in_cell:
        for each in instances:
            _create(in_cell, each)
            mapping = objects.InstanceMapping(context=admin)
            mapping.instance_uuid, mapping.project_id, mapping.user_id = each["id"], each["project_id"], "u"
            mapping.queued_for_delete, mapping.cell_mapping = False, cell
            mapping.create()


def _create(in_cell: Any, each: dict[str, Any]) -> None:
    instance = objects.Instance(context=in_cell)
    instance.uuid, instance.project_id, instance.user_id = each["id"], each["project_id"], "u"
    instance.hostname = instance.display_name = each["hostname"]
    instance.host, instance.vm_state, instance.availability_zone = "compute1", "active", "nova"
    instance.memory_mb, instance.vcpus, instance.root_gb, instance.ephemeral_gb = 512, 1, 1, 0
    instance.image_ref, instance.launch_index, instance.root_device_name = "", 0, "/dev/vda"
    instance.metadata, instance.system_metadata = {}, {}
    instance.flavor = objects.Flavor(
        context=in_cell, id=1, name="m1.tiny", flavorid="1", memory_mb=512, vcpus=1, root_gb=1, ephemeral_gb=0, swap=0,
        rxtx_factor=1.0, vcpu_weight=0, disabled=False, is_public=True, extra_specs={}, description=None, projects=[],
        created_at=None, updated_at=None, deleted_at=None, deleted=False,
    )  # fmt: skip
    instance.old_flavor = instance.new_flavor = None
    instance.instance_type_id = 1
    instance.keypairs = objects.KeyPairList(objects=[])
    subnet = model.Subnet(
        cidr="10.20.0.0/20", ips=[model.FixedIP(address=each["address"])], version=4, dns=[], routes=[]
    )
    network = model.Network(id=each["network"], bridge="br-int", subnets=[subnet])
    vifs = model.NetworkInfo([model.VIF(id=each["port"], address=each["mac"], network=network, type="ovs", details={})])
    instance.info_cache = objects.InstanceInfoCache(context=in_cell, instance_uuid=instance.uuid, network_info=vifs)
    instance.create()
    instance.info_cache.save()


main(sys.argv[1], json.loads(Path(sys.argv[2]).read_text()))
