"""Raise the limit of open files: every client, every worker connection and every tunnel is one."""

import resource

import structlog

_log = structlog.get_logger(__name__)

_SPARE = 512
"""Libraries, logs, spooled bodies, the event loop, the control app."""


def raise_open_files_limit(max_client_connections: int) -> None:
    """Raise the soft limit to the hard one; warn when it may not be enough.

    A request in flight holds two connections: its client's and its worker's.
    """
    wanted = 2 * max_client_connections + _SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    reachable = wanted if hard == resource.RLIM_INFINITY else hard
    if soft not in (resource.RLIM_INFINITY, reachable):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, reachable), hard))
        except (OSError, ValueError) as error:
            _log.warning("open_files_limit_not_raised", limit=soft, why=str(error))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        _log.warning("open_files_limit_low", limit=soft, wanted=wanted, max_client_connections=max_client_connections)
