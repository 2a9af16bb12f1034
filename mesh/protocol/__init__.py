"""The wire: bytes to values and back, and who may say what when; no socket, clock, thread or logging here."""
