"""The control API: an ASGI application behind a private Unix socket."""
