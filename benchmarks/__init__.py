"""How fast the queue is, always beside the fastest thing its store can do: ``python -m benchmarks``."""
