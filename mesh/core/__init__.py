"""Decisions: an event and the time in, actions out. No clock, randomness, socket, thread or logging here."""
