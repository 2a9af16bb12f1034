"""TOML to typed, checked values; every complaint names the file, the key, and what to write instead."""
