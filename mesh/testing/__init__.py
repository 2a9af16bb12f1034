"""Contract suites and virtual wiring, for our tests and for those who write stores or cores of their own."""
