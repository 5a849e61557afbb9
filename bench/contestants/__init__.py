"""What users would pick instead of us, each with the work of `fleet` before it; `python -m bench.contest` runs them."""
