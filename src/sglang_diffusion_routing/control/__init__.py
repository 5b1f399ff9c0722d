"""What the router does to workers: probes, memory, weights, fan-outs, membership."""
