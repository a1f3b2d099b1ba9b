"""Figures, each as a ratio beside a reference in the same run: `make bench` writes RESULTS.md."""
