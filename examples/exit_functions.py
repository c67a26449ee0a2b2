"""What atexit can do, done by lastly: `register` and `unregister` keep its contract, so the import is the change."""

from __future__ import annotations

from lastly import register, unregister


def farewell(name: str, greeting: str = "Goodbye") -> None:
    print(f"{greeting}, {name}")


@register
def first_in_last_out() -> None:
    print("This was registered first")


def never() -> None:
    print("This was unregistered")


register(farewell, "Ada")
register(never)
register(farewell, "Grace", greeting="See you")
register(never)  # twice registered is twice run ...
unregister(never)  # ... and unregistering takes away both
print("At work")
