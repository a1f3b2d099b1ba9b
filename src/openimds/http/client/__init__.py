"""The HTTP/1.1 client.

- pool: kept-alive connections to one server
- connection: one connection
"""
