"""`openimds up`: the supervisor that starts, watches and restarts the programs ("parts") of one machine.

- `up`: the command `openimds up`: preflight checks, store, supervisor, background mode.
- `plan`: the options of `up`, the configuration files of a new state folder, and the resulting parts.
- `default_config`: the text of these configuration files.
- `state_dir`: the state folder: paths, permissions, lock, and removal.
- `service_spec`: the command line, the files, the start order and the restart delays of parts.
- `supervisor`: the loop that starts, watches, restarts and stops the parts, and rotates their logs.
- `service`: the state of one part, and the registry that writes `status.json`.
- `spawn`: the start of a process with its stored sockets.
- `notify_socket`: the service manager's side of sd_notify(3), and the file descriptor store.
- `status`: the commands `openimds status` and `openimds restart`.
- `down`: the command `openimds down`.
"""
