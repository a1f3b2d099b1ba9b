"""The guest-facing HTTP/1.1 server (uvloop, httptools) and the pooled client."""
