"""Wire the router together, run it, and end it in order."""

from sglang_diffusion_routing.app.life import App, build
from sglang_diffusion_routing.app.serve import serve

__all__ = ["App", "build", "serve"]
