"""A router in front of many SGLang-Diffusion workers, made for reinforcement learning."""

__version__ = "0.1.0"
