"""A command of click whose work folder, helper process and farewell go with it, however it ends.

Try it: `python examples/click_build.py`, then with --code 3, --fail, and with --wait and Ctrl-C, `kill`, or `kill -9`.
"""

import time

import click

import lastly
from lastly.integrations.click import pass_scope


@click.command()
@click.option("--code", default=0, help="The exit status.")
@click.option("--fail", is_flag=True, help="End by an exception.")
@click.option("--wait", is_flag=True, help="Wait for a signal.")
@pass_scope
def build(scope: lastly.Scope, code: int, fail: bool, wait: bool) -> None:
    """Build nothing much."""
    lastly.install()
    work = lastly.temp_dir(prefix="build-", scope=scope)
    helper = lastly.Popen(["sleep", "600"], scope=scope)
    scope.defer(click.echo, "closed")
    click.echo(f"building in {work} with helper {helper.pid}")
    if fail:
        raise click.ClickException("it cannot be built")
    while wait:
        time.sleep(0.1)
    click.get_current_context().exit(code)


if __name__ == "__main__":
    build()
