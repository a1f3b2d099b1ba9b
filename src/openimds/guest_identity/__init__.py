"""Rules: who asks. Headers, signatures, source addresses and the lookup of the one port they lead to."""
