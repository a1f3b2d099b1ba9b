"""Rules: who asks: headers, signatures, tokens, source addresses."""
