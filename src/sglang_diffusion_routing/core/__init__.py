"""Decisions of the router: facts in, commands out, no I/O."""
