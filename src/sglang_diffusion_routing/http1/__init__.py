"""The wire: HTTP/1.1 heads, connections, bodies as spans."""
