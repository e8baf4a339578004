"""The parts of `scripts/benchmark.py`: data, one adapter for each system, the pool of processes, the tables."""
