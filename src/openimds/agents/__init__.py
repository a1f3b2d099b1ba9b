"""The loops: metadata, dhcp, l3, compute. Each compares what is wanted with what is there and changes the difference."""
