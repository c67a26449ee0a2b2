"""A program in the shape of a Cement application: a hook removes what the run left, whatever ended it.

Try it: `python examples/cement_cleanup.py`, then with --fail, --leave 3, --help, with a wrong option, and with --wait and
Ctrl-C or `kill`. The work file is gone each time, and the program says how it ended.
"""

import os
import sys
import time

import lastly
from lastly.app import App, init_defaults

defaults = init_defaults("thumbnails")
defaults["thumbnails"]["size"] = 128
defaults["thumbnails"]["work_file"] = None


def remove_work_file(app):
    """A close hook: it may run before there is anything to remove."""
    path = app.config.get("thumbnails", "work_file")
    if path and os.path.exists(path):
        app.log.warning(f"removing work file: {path}")
        os.remove(path)


class Thumbnails(App):
    class Meta:
        label = "thumbnails"
        config_defaults = defaults
        hooks = [("pre_close", remove_work_file)]

    def run(self):
        self.add_arg("--fail", action="store_true", help="end by an exception")
        self.add_arg("--leave", type=int, metavar="CODE", help="end by sys.exit")
        self.add_arg("--wait", action="store_true", help="wait for a signal")
        # Owed before it exists: should the hook never run (kill -9), the reaper removes it.
        path = str(lastly.temp_file(prefix="thumbnails-", scope=self.scope))
        self.config.set("thumbnails", "work_file", path)
        super().run()
        print("working on", path, flush=True)
        if self.pargs.fail:
            raise RuntimeError("the image is broken")
        if self.pargs.leave is not None:
            sys.exit(self.pargs.leave)
        if self.pargs.wait:
            time.sleep(3600)


if __name__ == "__main__":
    with Thumbnails() as app:
        app.run()
