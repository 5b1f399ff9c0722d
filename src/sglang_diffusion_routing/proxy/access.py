"""Who may do what: which requests need a key, which key, and what a browser may be made to do."""

from __future__ import annotations

import time
from collections.abc import Collection
from enum import Enum

import structlog

from sglang_diffusion_routing.core.worker import WorkerUrl
from sglang_diffusion_routing.core.worker_keys import WorkerKeys
from sglang_diffusion_routing.errors import (
    AdminKeyNeeded,
    ControlElsewhere,
    CrossOrigin,
    ForeignHost,
    KeyMissing,
    KeyUnknown,
    RouterError,
    WorkElsewhere,
)
from sglang_diffusion_routing.http1.downstream import DownstreamConnection
from sglang_diffusion_routing.http1.request_head import RequestHead
from sglang_diffusion_routing.proxy.browsers import is_by_browser, is_cross_origin, is_foreign
from sglang_diffusion_routing.proxy.keys import Keys, Role, credentials, shown
from sglang_diffusion_routing.proxy.paths import normal_path
from sglang_diffusion_routing.proxy.routes import Kind, Route, is_control_path, is_list, is_models

_log = structlog.get_logger(__name__)

SAFE = frozenset({b"GET", b"HEAD", b"OPTIONS"})
_OPEN = frozenset({b"/health", b"/liveness", b"/readiness", b"/dashboard", b"/docs", b"/redoc", b"/openapi.json"})
_OPEN_TREES = (b"/dashboard/", b"/docs/")
_NOT_OPEN = (b"/dashboard/thumbnails",)
"""Pictures that were generated, beside the files that the page is made of."""
_ON_BOTH = frozenset({b"/health", b"/liveness", b"/readiness"})
REFUSALS_SHOWN = 64
"""Of refused requests, those in the log one by one within `QUIET_S`: guessing keys is not to fill a disk."""
QUIET_S = 60.0
PATH_MAX_CHARS = 200


_REFUSALS = (KeyMissing, KeyUnknown, AdminKeyNeeded, ControlElsewhere, WorkElsewhere, CrossOrigin, ForeignHost)


class Need(Enum):
    """What a request needs of its sender."""

    NOTHING = "nothing"
    USE = "use"
    """Work, jobs, and looking at the fleet."""
    CHANGE = "change"
    """What changes the fleet, and what goes to many workers at once."""


def need_of(method: bytes, path: bytes, found: Route) -> Need:
    """Tell what a request needs; `path` is as it was sent, and counts by its normal form."""
    if found.kind is not Kind.CONTROL:
        return Need.USE
    if method not in SAFE:
        return Need.CHANGE
    normal = normal_path(path)
    if is_control_path(normal):
        is_open = normal in _OPEN or normal.startswith(_OPEN_TREES)
        return Need.NOTHING if is_open and not normal.startswith(_NOT_OPEN) else Need.USE
    # What is left are reads that go to many workers by ?selector=, of routes that only the workers know.
    return Need.USE if is_list(normal) or is_models(normal) else Need.CHANGE


class Access:
    """The rules of one router; without keys and without a control listener, only those for browsers.

    keys, worker_keys: may be replaced while it runs. control_apart: control has a listener of its own.
    own_names: by which browsers may reach control where no key guards it.

    Attributes:
        guards_work: each request is to be looked at, not those for control alone.
        rewrites_heads: workers do not get the credentials that clients send, or some get others.
    """

    def __init__(
        self,
        keys: Keys | None = None,
        worker_keys: WorkerKeys | None = None,
        *,
        control_apart: bool = False,
        own_names: Collection[str] = (),
    ) -> None:
        self.keys = keys or Keys()
        self.worker_keys = worker_keys or WorkerKeys()
        self.control_apart = control_apart
        self.guards_work = control_apart or bool(self.keys)
        self.rewrites_heads = bool(self.keys) or worker_keys is not None
        self._own_names = tuple(own_names)
        self._refused_since_s = 0.0
        self._refused = 0

    def worker_key(self, url: WorkerUrl) -> str | None:
        """Give the key that the worker at this address wants; None when it wants none."""
        return self.worker_keys.find(url)

    def needs_key(self, need: Need) -> bool:
        """Tell whether a key is wanted for this, as the keys are now: the API key alone covers all."""
        keys = self.keys
        if need is Need.NOTHING:
            return False
        return keys.has_api or (need is Need.CHANGE and keys.has_admin)

    def check_work(self, head: RequestHead) -> None:
        """Raise `KeyMissing` or `KeyUnknown` unless a request that is not for control has the key that it needs."""
        self._check_key(head, Need.USE)

    def check_control(self, connection: DownstreamConnection, head: RequestHead, found: Route) -> None:
        """Raise what keeps a request from control.

        Raises:
            KeyMissing, KeyUnknown, AdminKeyNeeded: it needs another key.
            CrossOrigin, ForeignHost: a browser has sent it, on behalf of a page that is none of the router's.
        """
        need = need_of(head.method, head.path, found)
        if need is Need.NOTHING:
            return
        self._check_key(head, need)
        host = (connection.trusted and head.forwarded_host) or head.host
        # Also with a key: something in between may add one to whatever passes.
        if need is Need.CHANGE and is_cross_origin(head, host):
            raise CrossOrigin
        if not self.needs_key(need) and is_foreign(host, self._own_names) and is_by_browser(head):
            raise ForeignHost(host.decode("latin-1"))

    def _check_key(self, head: RequestHead, need: Need) -> None:
        if not self.needs_key(need):
            return
        given = credentials(head)
        if not given:
            raise KeyMissing
        roles = {self.keys.role_of(credential) for credential in given}
        if Role.ADMIN in roles:
            return
        if Role.API not in roles:
            raise KeyUnknown
        if need is Need.CHANGE and self.keys.has_admin:
            raise AdminKeyNeeded

    def check_place(self, head: RequestHead, found: Route, *, on_control: bool) -> None:
        """Raise `ControlElsewhere` or `WorkElsewhere` when a request came to the wrong listener."""
        normal = normal_path(head.path)
        is_control = found.kind is Kind.CONTROL
        if on_control:
            if not is_control:
                raise WorkElsewhere(normal.decode("latin-1"))
        elif self.control_apart and is_control:
            is_here = normal in _ON_BOTH or is_models(normal) or is_list(normal)
            if not (is_here and head.method in SAFE):
                raise ControlElsewhere(normal.decode("latin-1"))

    def who(self, head: RequestHead) -> str:
        """Name the key of a request that was let in, for the audit: its role and a few digits of its digest."""
        found = {self.keys.role_of(credential): credential for credential in credentials(head)}
        for role in (Role.ADMIN, Role.API):
            if role in found:
                return f"{role.value}:{shown(found[role])}"
        return "none"

    def note(self, error: RouterError, connection: DownstreamConnection, request_id: str) -> None:
        """Write down an error reply if it is one of these rules'; a flood of them is written as its count."""
        head = connection.head
        if head is None or not isinstance(error, _REFUSALS):
            return
        now_s = time.monotonic()
        if now_s - self._refused_since_s >= QUIET_S:
            if self._refused > REFUSALS_SHOWN:
                _log.warning("access_refused_often", refused=self._refused - REFUSALS_SHOWN, within_s=QUIET_S)
            self._refused_since_s, self._refused = now_s, 0
        self._refused += 1
        if self._refused <= REFUSALS_SHOWN:
            path = head.path.decode("latin-1")[:PATH_MAX_CHARS]
            _log.warning("access_refused", code=error.code, peer=connection.peer[0], path=path, request_id=request_id)
