"""The guest API: what software inside an instance is served, straight at port 8775 or through the metadata agent.

A request is one straight line (service.py): target readable → identity headers present and signed → instance known and
of that project → document there → answer. The rules are in metadata/ and identity/; here is what they cannot do: ask
the store (records.py), ask vendors (vendors.py), count and log.

The service takes any request and gives any answer with the attributes of messages.py, so that it runs under the HTTP
server and in tests alike.
"""
