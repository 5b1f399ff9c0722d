"""The one owner of pool, scheduler and affinity, and what carries out their commands."""
