"""What run() runs: the arguments, a main function, or a command of Click or Typer."""

import sys

from lastly.app._hooks import run_hook

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lastly.app._core import App


def dispatch(app: "App") -> "Any":
    """Parse the arguments of *app*, run what it runs, and return the result."""
    if app.controller is None and has_registry(app):
        from lastly.app._controllers import base_controller

        app.controller = base_controller(app)
    if app.controller is not None:
        return app.controller._dispatch()
    from lastly.app._commandline import parse

    main = app._meta.main
    if main is None:
        parse(app)
        return None
    command = _click_command(main)
    if command is not None:
        return _run_command(app, command)
    parse(app)
    result = main() if _takes_nothing(main) else main(app)
    if hasattr(result, "__await__"):
        from lastly._scope.awaiting import wait_for

        return wait_for(result)
    return result


def has_registry(app: "App") -> bool:
    """Tell whether any handler was registered, without loading what manages them when none was."""
    return app._life.registries is not None or bool(app._meta.handlers)


def _takes_nothing(main: "Any") -> bool:
    code = getattr(getattr(main, "__wrapped__", main), "__code__", None)
    return code is not None and code.co_argcount == 0 and not code.co_flags & 0x04  # CO_VARARGS


# A command is known by its classes: Click is imported only by a program that uses it, and a copy of Click
# inside another package, as Typer may carry one, is as good.
def _click_command(main: "Any") -> "Any":
    for cls in type(main).__mro__:
        root = cls.__module__.partition(".")[0]
        if root == "typer" and cls.__name__ == "Typer":
            from importlib import import_module

            return import_module("typer.main").get_command(main)
        if cls.__name__ in ("Command", "BaseCommand") and hasattr(cls, "make_context"):
            return main
    return None


# command.main() would exit by itself and lose the result, or, told not to, return an exit code as if it were
# one. So do what it does, and keep the two apart.
def _run_command(app: "App", command: "Any") -> "Any":
    run_hook(app, "pre_argument_parsing")
    try:
        with command.make_context(app.label, app.argv, obj=app) as context:
            app._life.parsed = context.params
            run_hook(app, "post_argument_parsing")
            return command.invoke(context)
    except Exception as exc:
        code = _exit_code(exc)
        if code is None:
            raise
        raise SystemExit(code) from None


# The exceptions by which a command ends, told and turned into a status; None for all others. By name, as with
# the command: Typer has its own, and not all of them where Click has them.
def _exit_code(exc: "Any") -> int | None:
    for cls in type(exc).__mro__:
        if cls.__module__.partition(".")[0] not in ("click", "typer"):
            continue
        if cls.__name__ == "Exit":
            return int(exc.exit_code)
        if cls.__name__ == "Abort":
            print("Aborted!", file=sys.stderr)  # noqa: T201  # as Click does
            return 1
        if cls.__name__ == "ClickException":
            exc.show()
            return int(exc.exit_code)
    return None
