"""`python -m sglang_diffusion_routing` is `sglang-d-router`."""

import sys

from sglang_diffusion_routing.cli import main

sys.exit(main())
