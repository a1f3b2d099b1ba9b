"""Rules: what a guest may read, at which path, in which version.

The primitives:

- a **path** (paths.py) is what the guest asked, normalised as nova's front ends do;
- a **tree** is a table of documents: openstack.py and ec2.py have one each, and listings, lookups and the
  documentation come from these tables;
- a **reading** (reading.py) is everything that a document is rendered from: the instance, the day, the asker's
  address, random bytes, the deployment's settings;
- a **decision** (decision.py) is what becomes of a request: an answer, or one thing that an edge must do first.

`decide()` in decide.py is the whole rule: (instance, request, reading) → decision.
"""
