"""`huizhi demo`: traffic with faults at five vendors, played over real HTTP against a real database.

Three parties as in life: the sandbox plays the vendors; `company` plays the company's systems, which
send and register what they sent; and Huizhi's own processes send, receive, recover and reconcile.
At the end `comparison` holds the sandbox's truth against what Huizhi found, fault by fault.
"""

from huizhi.demo.play import demo

__all__ = ["demo"]
