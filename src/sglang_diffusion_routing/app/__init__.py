"""Wire the router together, run it, and end it in order."""

from sglang_diffusion_routing.app.serve import serve
from sglang_diffusion_routing.app.wiring import App, build

__all__ = ["App", "build", "serve"]
