"""Other users of the same machine: they choose nobody whom we kill, hold up nobody, and read nothing of ours.

The programs run as root, which is the worst case; whoever attacks them is user 65534, and needs no more than a shell.
"""

import glob
import json
import os
import signal
import stat
import subprocess

import pytest
from harness import examples, gone, wait_until

import lastly
from lastly._journal.turns import Turn
from lastly._settle.sweep import sweep
from lastly._system import remove
from lastly.resources import _holder, _place

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to act as another user"),
]
OTHER = 65534
NOBODY = {"user": OTHER, "group": OTHER, "extra_groups": []}

HOLD = """
    import os, sys, lastly
    from lastly import resources
    held = getattr(resources, sys.argv[1])(sys.argv[2])
    {then}
    print("held", flush=True)
    os.read(0, 1)
"""
TAKE = """
    import sys, lastly
    try:
        lastly.{kind}(sys.argv[1], {options})
    except FileExistsError as error: print("refused", error)
    else: print("got it")
"""


@pytest.fixture
def shared(tmp_path):
    """A folder like /tmp."""
    os.chmod(tmp_path, 0o755)
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


@pytest.fixture(params=["pid_file", "lock_file"])
def kind(request):
    return request.param


def hold(programs, kind, path, then="", **options):
    program = programs.start(HOLD.format(then=then), kind, str(path), stdin=subprocess.PIPE, **options)
    program.line("held")
    return program


def take(programs, kind, path, options="takeover=True, grace=1"):
    return programs.run(TAKE.format(kind=kind, options=options), str(path))


def shell(programs, script, *args):
    """Run a shell script as the other user, to its end."""
    done = programs.run_command(["sh", "-c", script, "sh", *map(str, args)], popen=NOBODY, cwd="/")
    assert done.status == 0, done.err
    return done


def attack(programs, script, *args):
    """Start one that goes on until the test is over."""
    program = programs.start_command(["sh", "-c", script, "sh", *map(str, args)], popen=NOBODY, cwd="/")
    program.line("begins")
    return program


def log_of(home):
    return "".join(path.read_text() for path in home.glob("reaper.log"))


def who_has_open(path):
    for fd in glob.iglob("/proc/[0-9]*/fd/*"):
        try:
            if os.readlink(fd) == str(path):
                yield int(fd.split("/")[2])
        except OSError:
            continue


# ---- whom takeover= ends


def test_a_file_that_another_user_has_written(programs, kind, shared, tmp_path):
    """It names a process of ours that holds another file: that one lives on."""
    victim = hold(programs, kind, tmp_path / "its-own")
    content = (tmp_path / "its-own").read_text()
    shell(programs, 'printf %s "$1" >"$2"', content, shared / "app")
    done = take(programs, kind, shared / "app")
    assert "refused" in done.out, done.err
    assert ("user 65534" if kind == "lock_file" else "only a pid") in done.out or "look, and remove" in done.out
    assert victim.popen.poll() is None


@pytest.mark.parametrize("how", ["link", "copy", "rename"])
@pytest.mark.slow(keep=3)
def test_our_own_file_by_another_name(programs, kind, shared, tmp_path, how):
    """A hard link to it, a copy that we made, and a rename: the process did not make the file *there*."""
    victim = hold(programs, kind, shared / "its-own")
    if how == "link":
        os.link(shared / "its-own", shared / "app")
    elif how == "copy":
        (shared / "app").write_bytes((shared / "its-own").read_bytes())
    else:
        os.rename(shared / "its-own", shared / "app")
    done = take(programs, kind, shared / "app")
    assert "refused" in done.out, done.err
    assert victim.popen.poll() is None


def test_a_holder_that_has_become_another_user(programs, kind, shared):
    """It is not root's any more, for takeover; the message says whose it is."""
    holder = hold(programs, kind, shared / "app", then=f"os.setuid({OTHER})")
    done = take(programs, kind, shared / "app")
    assert f"runs as user {OTHER}" in done.out, done.out + done.err
    assert holder.popen.poll() is None


@pytest.mark.parametrize("why", ["linked", "open to others", "folder open to others"])
@pytest.mark.slow(keep=3)
def test_a_journal_that_somebody_may_have_put_there_confirms_nothing(programs, home, kind, shared, why):
    holder = hold(programs, kind, shared / "app", env={"LASTLY_REAPER": "0"})
    (journal,) = home.glob("owners/*/*.j")
    if why == "linked":
        os.link(journal, shared / "journal")
    elif why == "open to others":
        journal.chmod(0o622)
    else:
        journal.parent.chmod(0o777)
    done = take(programs, kind, shared / "app")
    assert "refused" in done.out, done.out + done.err
    assert holder.popen.poll() is None


def test_what_is_recorded_is_ended(programs, kind, shared):
    """In a shared folder too, when it is all ours."""
    holder = hold(programs, kind, shared / "app")
    assert take(programs, kind, shared / "app").out == "got it\n"
    assert holder.wait().status == -signal.SIGTERM


@pytest.mark.parametrize("pid", [0, -1, 1 << 40])
def test_numbers_that_are_no_pid(programs, shared, pid):
    """kill(0) and kill(-1) would mean many processes; nothing is asked about them."""
    identity = {"boot": "b", "pidns": "1", "pid": pid, "start": 1, "host": "h"}
    (shared / "app").write_text(json.dumps(identity))
    done = take(programs, "lock_file", shared / "app")
    assert done.status == 0, done.err
    (shared / "app2").write_text(f"{pid}\n")
    assert take(programs, "pid_file", shared / "app2").status == 0


# ---- who can hold us up


@pytest.mark.parametrize("what", ["pid_file", "lock_file", "unix_socket"])
def test_a_lock_on_the_shared_folder(programs, shared, what):
    """Whoever may read a folder may lock it; that is no concern of ours."""
    attack(programs, 'exec 9<"$1"; flock 9; echo begins; exec sleep 600', shared)
    done = programs.run(f"import lastly, sys; print(lastly.{what}(sys.argv[1]))", str(shared / "app"))
    assert done.status == 0, done.err
    assert os.listdir(shared) == []


def test_a_lock_on_our_file(programs, kind, shared):
    """What a dead holder left is replaced although another user holds a lock on it."""
    holder = hold(programs, kind, shared / "app", env={"LASTLY_REAPER": "0"})
    attack(programs, 'exec 9<"$1"; flock 9; echo begins; exec sleep 600', shared / "app")
    holder.send(signal.SIGKILL)
    holder.wait()
    assert take(programs, kind, shared / "app", "").out == "got it\n"


def test_a_process_of_ours_that_is_stopped_in_its_turn(programs, home, shared, monkeypatch):
    """It takes the name, or would: after a bounded time there is a clear error; then it is free again."""
    monkeypatch.setattr(_holder, "TURN", 0.2)
    path = shared / "app"
    with Turn(str(path), 0.0):
        for what in lastly.lock_file, lastly.pid_file, lastly.unix_socket:
            with pytest.raises(FileExistsError, match="about to take it"):
                what(path)
    lastly.lock_file(path).close()
    assert os.listdir(home / "turns") == []


def test_what_another_user_left_is_not_ours_to_remove(home, shared, monkeypatch):
    """For anybody but root; the error is the one of a name that is taken."""
    (shared / "app").write_text("4999999999\n")
    os.chown(shared / "app", OTHER, OTHER)
    monkeypatch.setattr(remove.os, "geteuid", lambda: 12345)
    with pytest.raises(FileExistsError, match="belongs to uid 65534"):
        _place.remove_stale(str(shared / "app"), remove.identity(shared / "app"))
    assert (shared / "app").exists()


def test_the_reaper_waits_for_its_turn(programs, home, shared):
    """What it looked at is still there when it removes it: nobody replaces it in between."""
    holder = hold(programs, "lock_file", shared / "app")
    with Turn(str(shared / "app"), 10.0):
        holder.send(signal.SIGKILL)
        holder.wait()
        old = os.stat(shared / "app").st_ino
        # It has come to where it waits: it has opened the lock.
        (lock,) = (home / "turns").iterdir()
        wait_until(lambda: any(os.getpid() != pid for pid in who_has_open(lock)))
        assert os.stat(shared / "app").st_ino == old
    wait_until(lambda: gone(shared / "app"))


# ---- what others read, and where a link leads


def test_a_new_socket_is_changed_and_nothing_else(programs, shared, tmp_path):
    """Somebody who may rename in the folder puts a link in its place before it gets its rights."""
    secret = tmp_path / "secret"
    secret.touch(0o600)
    done = programs.run(
        """
        import os, sys, lastly
        from lastly.resources import _socket
        class Swapped(_socket.Address):
            def __exit__(self, *_):
                super().__exit__()
                new = self.path
                if "/.lastly-" in new:
                    os.rename(new, new + ".away")
                    os.symlink(sys.argv[2], new)
        _socket.Address = Swapped
        try: lastly.unix_socket(sys.argv[1], mode=0o666)
        except PermissionError as error: print("refused", error)
        """,
        str(shared / "s"), str(secret),
    )  # fmt: skip
    assert "another file has been put in its place" in done.out, done.err
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert not (shared / "s").exists()


@pytest.mark.parametrize("umask", [0o000, 0o077])
@pytest.mark.parametrize("mode", [0o600, 0o666, 0o660])
@pytest.mark.slow(keep=3)
def test_a_socket_has_the_mode_that_was_asked_for(programs, shared, mode, umask):
    done = programs.run(
        f"import lastly, os, sys; os.umask({umask}); lastly.unix_socket(sys.argv[1], mode={mode}); print(oct(os.stat(sys.argv[1]).st_mode & 0o777))",
        str(shared / "s"),
    )
    assert done.out.strip() == oct(mode), done.err


def test_a_folder_in_place_of_a_new_file(programs, shared):
    """It would be planned for removal as if it were ours: what stands in its place is looked at."""
    (shared / "precious").mkdir()
    (shared / "precious" / "data").touch()
    done = programs.run(
        """
        import os, sys, lastly
        fsync = os.fsync
        def swap(fd):
            fsync(fd)
            (name,) = [n for n in os.listdir(sys.argv[1]) if n.startswith(".lastly-")]
            os.rename(f"{sys.argv[1]}/{name}", f"{sys.argv[1]}/away")
            os.rename(f"{sys.argv[1]}/precious", f"{sys.argv[1]}/{name}")
            print(name, flush=True)
        os.fsync = swap
        try: lastly.lock_file(sys.argv[1] + "/app")
        except PermissionError as error: print("refused", error)
        os.rename(f"{sys.argv[1]}/{[n for n in os.listdir(sys.argv[1]) if n.startswith('.lastly-')][0]}", f"{sys.argv[1]}/precious")
        """,
        str(shared),
    )
    assert "refused" in done.out, done.err + done.out


def test_links_are_swapped_all_the_time(programs, shared, tmp_path):
    """The race itself, as the other user runs it: what the links lead to stays as it is."""
    secret = tmp_path / "secret"
    secret.write_text("mine")
    secret.chmod(0o600)
    open_folder = tmp_path / "open"
    open_folder.mkdir()
    open_folder.chmod(0o777)
    attack(
        programs,
        """cd "$1"; echo begins
        while :; do
            for f in .lastly-* out lock sock; do
                [ -e "$f" ] && rm -f "$f" && ln -s "$2" "$f"
            done
        done 2>/dev/null""",
        open_folder, secret,
    )  # fmt: skip
    done = programs.run(
        """
        import os, sys, lastly
        os.chdir(sys.argv[1])
        seen = 0
        for _ in range(int(sys.argv[2])):
            for make in (
                lambda: lastly.unix_socket("sock", mode=0o666),
                lambda: lastly.lock_file("lock"),
                lambda: lastly.pid_file("lock"),
                lambda: lastly.temp_dir(dir="."),
                lambda: lastly.temp_file(dir="."),
            ):
                try: made = make()
                except (OSError, lastly.LastlyError): seen += 1
                made = None
            try:
                with lastly.atomic_write("other") as file: file.write("x")
            except (OSError, lastly.LastlyError): seen += 1
        print("done", seen, flush=True)
        os._exit(0)
        """,
        str(open_folder),
        str(examples(150)),
        within=60,
        env={"LASTLY_REAPER": "0"},
    )
    assert "done" in done.out, done.err
    assert secret.read_text() == "mine"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert os.stat(secret).st_uid == 0


# ---- what root has given away


GIVEN = """
    import os, sys, lastly
    made = {make}
    os.chown(made.file.path if hasattr(made, "file") else made, {other}, {other})
    print("made", flush=True)
    os.read(0, 1)
"""


@pytest.mark.parametrize(
    "make",
    ["lastly.temp_dir(dir=sys.argv[1])", "lastly.temp_file(dir=sys.argv[1])", "lastly.pid_file(sys.argv[1] + '/p')",
     "lastly.lock_file(sys.argv[1] + '/l')", "lastly.unix_socket(sys.argv[1] + '/s')"],
)  # fmt: skip
@pytest.mark.parametrize("end", ["kill", "exit"])
@pytest.mark.slow(keep=5)
def test_given_to_another_user(programs, home, shared, make, end):
    """The user of a server has it; root, which made it, removes it, in this process or by the reaper."""
    program = programs.start(GIVEN.format(make=make, other=OTHER), str(shared), stdin=subprocess.PIPE)
    program.line("made")
    if end == "kill":
        program.send(signal.SIGKILL)
    else:
        program.write("\n")
    program.wait()
    wait_until(lambda: os.listdir(shared) == [])


def test_what_the_other_user_puts_in_its_place_stays(programs, home, shared):
    """It owns the folder now, and may rename it: something else at the name is not what was recorded."""
    program = programs.start(GIVEN.format(make="lastly.temp_dir(dir=sys.argv[1])", other=OTHER), str(shared), stdin=subprocess.PIPE)
    program.line("made")
    (made,) = shared.iterdir()
    shell(programs, 'mv "$1" "$2"; mkdir "$1"; echo x >"$1/data"', made, shared / "away")
    program.send(signal.SIGKILL)
    program.wait()
    wait_until(lambda: " abandoned " in log_of(home))
    assert (made / "data").exists()
    assert (shared / "away").exists()


def test_given_away_and_changed_while_it_is_removed(programs, home, shared, tmp_path):
    """Its new owner exchanges folders for links in it, all the time, while root removes it."""
    precious = tmp_path / "precious"
    (precious / "deep").mkdir(parents=True)
    (precious / "deep" / "data").write_text("mine")
    attack(
        programs,
        """cd "$1"; echo begins
        while :; do
            for t in */; do
                mkdir -p "${t}a/deep" && echo >"${t}a/deep/data" && mv "${t}a" "${t}b" && ln -s "$2" "${t}a" && rm "${t}a" && mv "${t}b" "${t}a"
                ln -s "$2" "${t}link"
            done
        done 2>/dev/null""",
        shared, precious,
    )  # fmt: skip
    done = programs.run(
        f"""
        import os, sys, lastly
        partly = 0
        for _ in range({examples(40)}):
            made = lastly.temp_dir(dir=sys.argv[1])
            os.chown(made, {OTHER}, {OTHER})
            while not os.listdir(made): pass  # the other user is at it
            try: made.close()
            except (OSError, lastly.LastlyError): partly += 1  # filled again faster than it was emptied
        print("done", flush=True)
        os._exit(0)
        """,
        str(shared),
        within=60,
        env={"LASTLY_REAPER": "0"},
    )
    assert "done" in done.out, done.err
    assert (precious / "deep" / "data").read_text() == "mine"


@pytest.mark.parametrize("expect", [None, {"btime": None}, {"btime": 1}], ids=["unrecorded", "no birth time", "another"])
def test_root_without_proof(shared, expect):
    """Not recorded, or recorded where files have no birth time: an inode is used again."""
    (shared / "x").mkdir()
    os.chown(shared / "x", OTHER, OTHER)
    found = remove.identity(shared / "x")
    with pytest.raises(lastly.errors.NotOurs, match="belongs to uid 65534"):
        remove.remove(str(shared / "x"), expect=expect and {**found, **expect})
    remove.remove(str(shared / "x"), expect=found)
    assert gone(shared / "x")


# ---- root with a user's variables


@pytest.mark.parametrize("variable", ["HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"])
def test_root_with_the_variables_of_a_user(programs, tmp_path, variable):
    """sudo -E, su -m: the user's folder stays the user's; root's cleanup is kept all the same, at root's."""
    users, roots = tmp_path / "user", tmp_path / "root"
    for folder in users, roots:
        folder.mkdir()
    os.chown(users, OTHER, OTHER)
    env = {"LASTLY_HOME": None, "HOME": str(roots), "XDG_STATE_HOME": None, "XDG_RUNTIME_DIR": None, "LASTLY_REAPER": "0"}
    done = programs.run(
        f"""
        import pwd, types
        pwd.getpwuid = lambda uid: types.SimpleNamespace(pw_dir={str(roots)!r})  # not the real one, in a test
        import lastly
        print(lastly.temp_dir().cleanup.journal.path)
        from lastly._journal import home
        print(home.runtime_dir())
        """,
        env={**env, variable: str(users)},
    )
    assert os.listdir(users) == [], done.err
    assert all(line.startswith(str(roots)) for line in done.lines) and len(done.lines) == 2, done.out + done.err


def test_root_told_to_use_a_users_folder(programs, tmp_path):
    """By LASTLY_HOME, which means this folder and no other: refused, nothing is made."""
    users = tmp_path / "user"
    users.mkdir()
    os.chown(users, OTHER, OTHER)
    done = programs.run(
        "import lastly\ntry: lastly.temp_dir()\nexcept lastly.NotRecorded as error: print(error)",
        env={"LASTLY_HOME": str(users / "state" / "lastly")},
    )
    assert f"folder of user {OTHER}" in done.out, done.err
    assert os.listdir(users) == []


# ---- a home that others write to


@pytest.mark.parametrize("how", ["hard link", "another user's", "folder open to others"])
def test_a_journal_that_somebody_else_put_there_is_not_run(programs, home, tmp_path, shared, how):
    """Neither by the reaper nor by `lastly reap`, which says why."""
    target = tmp_path / "target"
    target.mkdir()
    program = programs.start(
        "import os, sys, lastly; lastly.defer(lastly.actions.remove, sys.argv[1]); print('ready', flush=True); os.kill(os.getpid(), 9)",
        str(target), env={"LASTLY_REAPER": "0"},
    )  # fmt: skip
    program.wait()
    (journal,) = home.glob("owners/*/*.j")
    if how == "hard link":
        os.link(journal, tmp_path / "elsewhere.j")
    elif how == "another user's":
        os.chown(journal, OTHER, OTHER)
    else:
        journal.parent.chmod(0o777)
    (outcome,) = sweep()
    assert outcome.state == "kept"
    assert "left alone" in outcome.why
    assert target.exists()
    if how == "hard link":
        (tmp_path / "elsewhere.j").unlink()
    elif how == "another user's":
        os.chown(journal, 0, 0)
    else:
        journal.parent.chmod(0o700)
    sweep()
    assert not target.exists()
