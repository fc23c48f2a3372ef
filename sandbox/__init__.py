"""Pretend SMS vendors on real HTTP ports, written from the vendors' own pages.

This package imports nothing of the rest of the project, and nothing of the rest may be copied into
it: code shared with the gateways would share their misreadings of those pages.
"""

from sandbox.app import Running, running
from sandbox.config import Config, ConfigError, load

__all__ = ["Config", "ConfigError", "Running", "load", "running"]
