"""Durable state: what a router that was killed must know when it starts again, in one SQLite file."""

from sglang_diffusion_routing.store.saved import Saved, SavedJob, SavedRefit, SavedWorker
from sglang_diffusion_routing.store.store import Store

__all__ = ["Saved", "SavedJob", "SavedRefit", "SavedWorker", "Store"]
