"""What a closing scope gave up and is durable is done by the reaper, after the process's end."""

from __future__ import annotations

import pytest
from harness import wait_until


@pytest.mark.parametrize(("limit", "word"), [("grace=0", "was not begun"), ("grace=0.2", "did not end within")])
def test_what_did_not_fit_is_handed_to_the_reaper(home, programs, tmp_path, limit, word):
    victim = tmp_path / "victim"
    victim.write_text("x")
    code = f"""
    import threading
    import lastly
    from lastly import actions
    @lastly.action
    def undo(path, wait):
        import os, threading
        if wait and os.environ.get("SLOW"):
            threading.Event().wait(60)
        if os.path.exists(path):
            os.remove(path)
    if __name__ == "__main__":
        try:
            with lastly.Scope("demo", {limit}) as scope:
                scope.defer(undo, {str(victim)!r}, True)
        except lastly.CleanupFailed as failed:
            print(failed.exceptions[0], flush=True)
    """
    result = programs.run(code, env={"SLOW": "1"})
    assert word in result.out
    assert "the reaper runs it" in result.out
    wait_until(lambda: not victim.exists(), within=20)


def test_a_forked_child_leaves_the_parents_journal_alone(home, programs, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("x")
    code = f"""
    import os, sys
    import lastly
    from lastly import actions
    with lastly.Scope() as scope:
        handle = scope.defer(actions.remove, {str(victim)!r})
        if os.fork() == 0:
            handle.run()
            handle.detach()
            sys.exit(0)
        os.wait()
        print(os.path.exists({str(victim)!r}), flush=True)
    print(os.path.exists({str(victim)!r}), flush=True)
    """
    assert programs.run(code, flags=("-W", "ignore")).lines == ["True", "False"]


def test_a_durable_cleanup_that_comes_too_late_is_not_owed(home, programs, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("x")
    code = f"""
    import lastly
    from lastly import actions
    scope = lastly.Scope()
    scope.close()
    try:
        scope.defer(actions.remove, {str(victim)!r})
    except lastly.ScopeClosed:
        print("refused", flush=True)
    """
    assert programs.run(code).lines == ["refused"]
    assert victim.exists()
