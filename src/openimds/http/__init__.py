"""The HTTP/1.1 server and client.

- messages: requests and responses as values
- sockets: bound listening sockets
- server: the server
- client: the client with its connection pool
"""
