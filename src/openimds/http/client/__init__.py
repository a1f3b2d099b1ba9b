"""The HTTP/1.1 client with its connection pool."""
