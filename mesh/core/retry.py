"""When to try again, as pure decisions: the clock and the dice come in as arguments.

Only the client retries, and only what was refused before anything was done: retries at n layers multiply (Google SRE,
"Addressing Cascading Failures").
"""

from dataclasses import dataclass

#: Attempts in all for one request (Google SRE, "Handling Overload").
MAX_ATTEMPTS = 3
#: Seconds: the longest wait before the first retry; it doubles from there.
BASE_SECONDS = 0.05
#: Seconds: no single wait is longer than this, unless the broker asks for it.
CAP_SECONDS = 2.0
#: gRPC A6's numbers: a refusal costs a token, a success earns a tenth of one, and below half there are no retries.
#: In the long run that keeps retries at 10 % of the successes, so an overload does not feed itself.
MAX_TOKENS = 10.0
TOKENS_PER_SUCCESS = 0.1


def backoff(attempt: int, dice: float, retry_after: float | None = None) -> float:
    """Return the seconds to wait before another attempt.

    Args:
        attempt: how many attempts have been refused so far, from 1.
        dice: a random number in [0, 1).
        retry_after: seconds the broker asked for; then up to a quarter is added, so that all whom it refused in the
            same moment do not come back in the same moment.

    """
    if retry_after is not None:
        return retry_after * (1.0 + 0.25 * dice)
    # "Full jitter" of the AWS Architecture Blog (2015): the least contention of the variants compared there.
    return dice * min(CAP_SECONDS, BASE_SECONDS * 2.0 ** (attempt - 1))


@dataclass(slots=True)
class RetryBudget:
    """How many retries a client may still send; shared by all its requests."""

    tokens: float = MAX_TOKENS

    def allows_retry(self) -> bool:
        """Say whether refusals have been rare enough of late."""
        return self.tokens > MAX_TOKENS / 2

    def refused(self) -> None:
        """Count a refusal."""
        self.tokens = max(0.0, self.tokens - 1.0)

    def succeeded(self) -> None:
        """Count an answer."""
        self.tokens = min(MAX_TOKENS, self.tokens + TOKENS_PER_SUCCESS)
