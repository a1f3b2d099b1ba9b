"""The HTTP/1.1 server.

- server: listeners, connection limits, deadlines
- connection: the I/O of one connection
- request_parser: bytes to requests
- response: responses to bytes, and the cache of responses
- limits: sizes, timeouts and the error for rejected requests
- rejections: bans, and the log of rejected requests
- peer: the client's address, MAC and key
- socket_ttl: the hop limit of a response
"""
