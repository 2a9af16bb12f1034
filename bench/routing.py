"""What a request costs a broker, beside a bare LRU proxy that does nothing but pass frames on."""

from statistics import median

from bench import load
from bench.processes import Measured, lru_proxy_with_echo, one_region
from bench.report import Figure

#: With two workers, sixteen jobs are all that is on the way to them and back, and the broker waits for wake-ups.
WORKERS, WINDOW, IN_FLIGHT, REQUESTS, ROUNDS = 4, 8, 128, 60_000, 5


def measure() -> list[Figure]:
    """Return the broker's CPU per request and requests a second, and the rival's."""
    with one_region("echo", WORKERS, window=WINDOW) as ours, lru_proxy_with_echo(WORKERS, WINDOW) as bare:
        for endpoint, hello in ((ours[0], True), (bare[0], False)):
            load.run(endpoint, REQUESTS // 10, IN_FLIGHT, hello=hello)
        rounds = [(_round(*ours, hello=True), _round(*bare, hello=False)) for _ in range(ROUNDS)]
    cpu, rate, generator = (median(mesh[n] for mesh, _ in rounds) for n in range(3))
    bare_cpu, bare_rate = (median(rival[n] for _, rival in rounds) for n in range(2))
    setting = f"{WORKERS} echo workers, window {WINDOW}, {IN_FLIGHT} in flight, 148-byte frames, {ROUNDS} rounds"
    return [
        Figure("broker CPU per request", cpu, "us", "bare LRU proxy", bare_cpu, at_most=20, setting=setting),
        Figure("requests through one broker", rate, "/s", "bare LRU proxy", bare_rate, at_least=40_000,
               setting=f"{setting}; load generator {generator:.0f} us CPU a request"),
    ]  # fmt: skip


def _round(endpoint: str, broker: Measured, workers: list[Measured], *, hello: bool) -> tuple[float, float, float]:
    """Return the broker's CPU in microseconds a request, requests a second, and the generator's CPU."""
    del workers
    broker.mark()
    done = load.run(endpoint, REQUESTS, IN_FLIGHT, hello=hello)
    if done.refused:
        raise RuntimeError(f"{done.refused} of {done.requests} requests were refused")
    return broker.used() / done.requests * 1e6, done.rate, done.cpu_seconds / done.requests * 1e6
