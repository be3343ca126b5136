"""The pool beside other servers that do the same work: `python -m baselines` with `benchmarks` on the path."""
