"""The compute agent: plugs the ports of instances, keeps port security, and runs instances by a driver.

Modules, in reading order:

- `protocols`: the adapters that the compute agent uses.
- `desired_state`: the wiring of a server, derived from the mirror.
- `server_handler`: the handler of servers.
- `power_manager`: starts and stops servers, and reports their power state.
- `console_log`: uploads the console output of instances.
"""
