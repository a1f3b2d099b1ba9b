"""The documents that an instance can read. Pure: no I/O, clock, randomness or logging.

Modules, in reading order:

- `router`: dispatches a request to the EC2 tree, the OpenStack tree or the password document
- `paths`: normalises the request target as nova's front ends do; the dated versions of both trees
- `context`: RenderContext, everything that a document is rendered from, and DocumentSettings, the deployment's part of it
- `outcome`: Document, MetadataError, and the two outcomes that need I/O (StorePassword, FetchVendordata); ETag and If-None-Match
- `openstack`: the table of `/openstack/<version>/…`, and meta_data.json
- `ec2`: the table of `/<version>/meta-data/…`
- `network_data`: network_data.json
- `devices`: tagged devices of meta_data.json, and EC2's block-device-mapping
- `injected_files`: `content/NNNN`
- `password`: the document that the instance can write once
- `vendordata`: vendor_data2.json, and the request to a dynamic target
- `imds_options`: the metadata options of one server (tokens, hop limit, tags, root only)
- `session_policy`: IMDSv2, the decision whether a request needs a token
"""
