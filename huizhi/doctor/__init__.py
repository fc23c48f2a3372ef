"""`huizhi doctor`: what is as it should be, what is not, and what to do about it."""

from huizhi.doctor.command import doctor

__all__ = ["doctor"]
