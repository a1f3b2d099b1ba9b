"""Nouns: frozen values that every storey above shares. No behaviour beyond what a value can say of itself."""
