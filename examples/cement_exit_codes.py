"""One application for production, which exits with a code, and one for its tests, which does not.

`python examples/cement_exit_codes.py FILE` counts the lines of a file; the status says what went wrong.
"""

from lastly.app import App, CaughtSignal, TestApp


class LineCount(App):
    class Meta:
        label = "linecount"
        exit_on_close = True

    def run(self):
        self.add_arg("file")
        super().run()
        with open(self.pargs.file, encoding="utf-8") as file:
            count = sum(1 for _line in file)
        print(count)
        return count


class LineCountForTests(TestApp, LineCount):
    """Neither exits nor reads a configuration file of the machine it runs on."""


def main() -> None:
    with LineCount() as app:
        try:
            app.run()
        except FileNotFoundError as error:
            app.log.error(f"no such file: {error.filename}")
            app.exit_code = 66
        except OSError as error:
            app.log.fatal(f"Caught Exception: {error}")
            app.exit_code = 74
        except CaughtSignal as signal:
            # The process ends by the signal all the same, when everything is closed.
            app.log.warning(str(signal))


def test_counts_the_lines_of_this_file() -> None:
    with LineCountForTests(argv=[__file__]) as app:
        assert app.run() > 40
    assert app.exit_code == 0


if __name__ == "__main__":
    main()
