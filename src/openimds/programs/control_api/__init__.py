"""The program `openimds control-api`.

- `main`: start, the HTTP server, periodic pruning, and stop.
- `wiring`: the stores, services and routers, and the settings for rendering documents.
"""
