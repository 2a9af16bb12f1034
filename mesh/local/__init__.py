"""A whole mesh on one machine's loopback, and the tour of it; like `cli`, it may import anything."""
