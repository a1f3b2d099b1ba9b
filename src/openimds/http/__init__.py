"""The guest-facing HTTP/1.1 server and the pooled client.

Bytes in, values out: `heads` and `bodies` judge what arrives, `conversation` turns a connection's bytes into requests
in order, `server` does the I/O around it. `client` is the other end. Parsing of header blocks is llhttp's.
"""
