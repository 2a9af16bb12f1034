"""Living under a service manager: log lines, signals, exit codes."""
