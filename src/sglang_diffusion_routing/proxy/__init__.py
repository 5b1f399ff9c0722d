"""Which request goes where: routes, leases, failover, jobs."""
