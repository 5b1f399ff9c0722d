"""What tests over real sockets are made of: a raw client, a worker that the test plays, the router as a process."""
