"""EC2's short ids as text, and the two kinds of numbers behind them."""

from __future__ import annotations

INSTANCE = "instance"
IMAGE = "image"


def ec2_text(prefix: str, number: int) -> str:
    """`ec2_text("i", 42)` → `i-0000002a`"""
    return f"{prefix}-{number:08x}"
