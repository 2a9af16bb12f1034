"""Living under systemd: notify, sockets, credentials, log lines, signals, exit codes."""
