"""Many random bytes at a price that every read of meta_data.json can pay.

The kernel's generator costs 1.3 µs for the 512 bytes of one document, AES in hardware a tenth of that. So the kernel
gives a key, and AES-256 in counter mode under that key gives the bytes. Why this is as good:

- The keystream of AES-256-CTR cannot be told from randomness by who does not have the key; one key gives some 64 KiB
  here, far below the bound where blocks that never repeat would begin to show (2^64 blocks of 16 bytes).
- Every draw has a new key and counter, both the kernel's. The key is in memory for the length of the call and is
  nowhere afterwards: who reads this process's memory later learns what was drawn and not yet given, and nothing else.
- Nothing is kept between two draws, so a forked process cannot go on where its parent was.
"""

from __future__ import annotations

import os

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

KEY_BYTES = 32
COUNTER_BYTES = 16


def stretched(count: int) -> bytes:
    """`count` random bytes; worth its price from some thousands on."""
    cipher = Cipher(AES(os.urandom(KEY_BYTES)), CTR(os.urandom(COUNTER_BYTES)))
    return cipher.encryptor().update(bytes(count))
