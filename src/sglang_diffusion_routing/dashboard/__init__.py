"""`/dashboard`: one page, fed by the event stream."""

from sglang_diffusion_routing.dashboard.page import router

__all__ = ["router"]
