"""`python -m lastly …` and the `lastly` command. `run` goes straight to `_run`: it needs no extra."""

import sys


def main() -> int:
    """Run the command line; return its exit status."""
    if sys.argv[1:2] == ["run"]:
        from lastly._run.launch import main as run

        return run(sys.argv[2:])
    try:
        import click  # noqa: F401
        import rich  # noqa: F401
    except ImportError:
        sys.stderr.write(
            "lastly: only `lastly run` works without the command line's packages; "
            "install them with: pip install 'lastly[cli]'\n"
        )
        return 2
    from lastly.cli import main as cli

    return cli()


if __name__ == "__main__":
    sys.exit(main())
