"""The API of interface section 4, over real HTTP."""
