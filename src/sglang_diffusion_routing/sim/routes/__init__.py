"""The HTTP surface of a simulated worker, one module a family of routes."""
