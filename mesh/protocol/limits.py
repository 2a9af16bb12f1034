"""Every limit of the wire, with its reason or a precedent."""

#: Versions this side speaks, newest last; a peer may be one behind during a rollout.
VERSIONS = (1,)

#: A region's name travels in eight bytes of the header, padded with NUL.
MAX_REGION_BYTES = 8

#: The largest frame either side accepts. nats-server allows 1 MiB, MongoDB 16 MiB for a document; a page of a thousand
#: places with 4 KiB of properties each is 4 MiB.
MAX_FRAME_BYTES = 8 * 1024 * 1024

#: libzmq cuts the connection of whoever sends a larger part, without a word (and it then reconnects for ever).
#: So this stands well above MAX_FRAME_BYTES, which is refused with an answer.
MAX_PART_BYTES = 64 * 1024 * 1024

#: What an error text may hold.
MAX_TEXT_BYTES = 1024

#: The longest time a request may ask for, in milliseconds: one hour. No deadline should be orders of magnitude above
#: the mean service time (Google SRE, "Addressing Cascading Failures").
MAX_BUDGET_MS = 3_600_000

#: In a NACK, the budget field holds the time to wait before a retry; this value says "unknown".
NO_RETRY_AFTER = 0xFFFF_FFFF

#: How often a job may be started in all: the first time and two more after workers died under it (dask's
#: allowed-failures is 3, too).
MAX_ATTEMPTS = 3
