"""Side by side against peers, by hand: `python -m benchmarks.<name>`. Never part of the tests."""
