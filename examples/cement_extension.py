"""An extension and a plugin that clean up after themselves; the application knows nothing about it.

The extension is this module's own `load`, the plugin is written into a folder when the example runs, as a user of the application
would have put it there.
"""

import os
import sys

import lastly
from lastly.app import App

PLUGIN = """
def goodbye(app):
    print("plugin: goodbye from", app.label)

def load(app):
    app.hook.register("post_close", goodbye)
"""


def load(app):
    """What makes a module an extension: it is called with the application that is set up."""
    app.extend("scratch", None)
    app.hook.register("post_setup", make_scratch)


def make_scratch(app):
    """Owed before it exists, and removed also if this process is killed."""
    app.scratch = lastly.temp_dir(prefix="scratch-", scope=app.scope)


def main() -> None:
    with lastly.temp_dir() as folder:
        with open(os.path.join(folder, "farewell.py"), "w", encoding="utf-8") as file:
            file.write(PLUGIN)
        settings = {"plugin.farewell": {"enabled": True}}
        with App(
            "scratchpad",
            extensions=["cement_extension"],
            plugin_dirs=[str(folder)],
            config_defaults=settings,
            hooks=[("pre_close", lambda app: print("scratch is there:", os.path.isdir(app.scratch)))],
        ) as app:
            app.run()
            path = app.scratch
        print("scratch is there:", os.path.isdir(path))


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    main()
