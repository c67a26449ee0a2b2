"""An application of Cement itself, closed whatever ends it by one line among its extensions.

Try it: `python examples/cement_kept.py`, then with `fail`, `--no-such-option`, and with `wait` and Ctrl-C, `kill`, or
`kill -9`. The folder and the helper process are gone each time.
"""

import time

from cement import App, Controller, ex
from cement.core.exc import CaughtSignal

import lastly


class Base(Controller):
    class Meta:
        label = "base"

    def _default(self):
        print("built")

    @ex(help="end by an exception")
    def fail(self):
        raise RuntimeError("it cannot be built")

    @ex(help="wait for a signal")
    def wait(self):
        while True:
            time.sleep(0.1)


def begin(app):
    """Take what a run needs: planned before it exists, given back when the app closes."""
    work = lastly.temp_dir(prefix="build-", scope=app.scope)
    helper = lastly.Popen(["sleep", "600"], scope=app.scope)
    print(f"building in {work} with helper {helper.pid}", flush=True)


def end(app):
    app.log.debug("closing")
    print("closed")


class Kept(App):
    class Meta:
        label = "kept"
        extensions = ["lastly.integrations.cement"]
        handlers = [Base]
        hooks = [("pre_run", begin), ("pre_close", end)]


if __name__ == "__main__":
    with Kept() as app:
        try:
            app.run()
        except CaughtSignal as caught:
            print(caught)
