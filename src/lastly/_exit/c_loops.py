"""Event loops written in C, in the main thread: Qt's, and GLib's with GTK.

Until such a loop returns, Python code runs in its callbacks only, and an exception that is raised there does
not come out of the loop: the binding prints it, and printing a `SystemExit` ends the process on the spot,
below every ``with`` and ``finally`` of the program. So the loop is asked to end, nested ones and all, and the
exception is raised when it has returned.

GLib's loops are found on the stack: a loop has returned when its `run` is not there any more, or goes on
itself. Qt's say whether they run. Qt is not asked by ``quit()``, which a window that ignores its close event
refuses; nor in the handler, for it may call the slots of ``aboutToQuit`` at once. The loop itself is made to
call what ends it, and then what marks the signal. That is C code, without a bytecode in between at which the
handler could run; so the program meets the signal where the loop returns to, before it can start another.
Where that fails, a thread looks (swallowed.py), and a program that starts loop after loop is ended like one
that swallows signals.

Tk needs nothing: what its callbacks raise comes out of ``mainloop()``.

What still fails: a loop in which no Python code ever runs (no timer, no slot) lets no handler run either. And
a loop that is not known here ends the process in a callback.
"""

import _thread
import sys

from lastly._exit import stack
from lastly._exit.state import end

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

_QT = ("PyQt6", "PySide6", "PyQt5", "PySide2")
_GLIB = {("gi.overrides.GLib", "run"), ("gi.overrides.Gio", "run"), ("gi.overrides.Gtk", "main")}
# What stands on top of a `run` of GLib's before its loop has begun or when it has returned.
_AROUND = ("wakeup_on_signal", "register_sigint_fallback")
# GLib's PRIORITY_HIGH.
_FIRST = -100
# Older Qt calls the slots of aboutToQuit when no loop runs any more: so many looks are given to them.
_LOOKS = 3


def ask(frame: "FrameType | None") -> "Loops | None":
    """Ask the loops that run in this thread to end; None when there are none."""
    loops = Loops(end.signum)
    return loops if loops.run(frame) else None


class Loops:
    """The loops that were asked to end: what event_loops.py wants to know of them."""

    __slots__ = (
        "_expects_mark",
        "_frames",
        "_looks",
        "_restarted",
        "_signum",
        "_timer",
        "_timers",
        "_unmarked",
    )

    def __init__(self, signum: int) -> None:
        self._signum = signum
        self._timer: Any = None
        self._timers = 0  # how often it was started
        self._unmarked: list[bool] = []  # emptied by the loop when it sets the mark
        self._expects_mark = False
        self._looks = _LOOKS
        self._frames: set[int] = set()
        self._restarted = False

    def run(self, frame: "FrameType | None") -> bool:
        """Whether they run, or may not have returned yet; ask those that run to end."""
        if self._ask_qt() or self._ask_glib(frame):
            self._looks = _LOOKS
            return True
        if self._timer is not None and self._unmarked and self._looks:
            self._looks -= 1
            return True
        if self._timer is not None:
            self._timer.stop()
        return False

    def marked(self) -> bool:
        """Whether a signal that has come is the mark."""
        found, self._expects_mark = self._expects_mark and not self._unmarked, bool(self._unmarked)
        return found

    def runs(self) -> bool:
        """Whether they run; in another thread than the main one that cannot be told: then perhaps."""
        return not stack.in_main_thread() or self.run(sys._getframe())  # the way to the stack

    def deals(self) -> bool:
        """Whether they are on their way to their end, as far as can be told; then none was started since."""
        restarted, self._restarted = self._restarted, False
        return stack.in_main_thread() and not restarted

    def again(self) -> bool:
        """Do nothing: `runs` has asked again."""
        return True

    def where(self) -> str:
        """Return what starts them again: that is not known."""
        return ""

    def _ask_qt(self) -> bool:
        for name in _QT:
            core: Any = sys.modules.get(f"{name}.QtCore")
            app = None if core is None else core.QCoreApplication.instance()
            if app is None or not core.QThread.currentThread().loopLevel():
                continue
            if self._timer is None:
                self._set_up(core, app)
            if not self._timer.isActive():
                self._timers += 1
                self._restarted = self._timers > 2  # asked, then looked at; now it has turned once more
                self._timer.start(0)
            return True
        return False

    def _set_up(self, core: "Any", app: "Any") -> None:
        from functools import partial

        self._timer = core.QTimer()
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(partial(app.exit, 128 + self._signum))
        for call in self._mark():
            app.aboutToQuit.connect(call)

    def _mark(self) -> "tuple[Callable[[], object], ...]":
        """Return what sets the mark: C code both, to be called one after the other."""
        from functools import partial

        self._unmarked.append(True)
        self._expects_mark = True
        return self._unmarked.clear, partial(_thread.interrupt_main, self._signum)  # type: ignore[arg-type]  # a number

    def _ask_glib(self, frame: "FrameType | None") -> bool:
        while frame is not None and _is_around(frame):
            frame = frame.f_back
        if frame is not None and _is_glib(frame):  # it goes on: its loop has returned
            frame = frame.f_back
        found: dict[int, Callable[[], object]] = {}
        while frame is not None:
            if _is_glib(frame):
                loop = frame.f_locals.get("self")
                found[id(frame)] = frame.f_globals["Gtk"].main_quit if loop is None else loop.quit
            frame = frame.f_back
        fresh = [quit_ for number, quit_ in found.items() if number not in self._frames]
        if fresh:
            self._restarted = bool(self._frames)
            for call in (*fresh, *self._mark()):
                sys.modules["gi.repository.GLib"].idle_add(call, priority=_FIRST)
        else:  # that call has not come: it is no loop of the default context
            for call in found.values():
                call()
        self._frames = set(found)
        return bool(found)


def _is_around(frame: "FrameType") -> bool:
    module = frame.f_globals.get("__name__", "")
    return module == "contextlib" or module.startswith("lastly.") or frame.f_code.co_name in _AROUND


def _is_glib(frame: "FrameType") -> bool:
    return (frame.f_globals.get("__name__"), frame.f_code.co_name) in _GLIB
